"""The manifests of the waypoint and of the pod sidecar say what the mesh and the gateway expect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from istio.environment import parse
from istio.sidecar.pod import settings_of
from istio.xds.node import node_of
from sidecar.config.local import Source
from sidecar.config.static import NOT_BUILT
from sidecar.gateway.loading import Loader

ROOT = Path(__file__).resolve().parents[1]
ISTIO = ROOT / "deploy" / "istio"
POD = ROOT / "deploy" / "sidecar"
HBONE = 15008
FILES = sorted((*ISTIO.glob("*.yaml"), *POD.rglob("*.yaml")))


def documents(path: Path) -> list[dict[str, Any]]:
    return [dict(document) for document in yaml.safe_load_all(path.read_text())]


def only(path: Path, kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents(path) if document["kind"] == kind]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_of_kubernetes_and_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")
    for document in documents(path):
        assert document["apiVersion"]
        assert document["kind"]


def waypoint() -> dict[str, Any]:
    return dict(only(ISTIO / "deployment.yaml", "Deployment")["spec"]["template"])


def container_of(spec: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [
        one
        for one in (*spec.get("initContainers", ()), *spec.get("containers", ()))
        if one["name"] == name
    ]
    return dict(found)


def environment(container: dict[str, Any]) -> dict[str, str]:
    """With the values that the downward API would give."""
    told = {
        "metadata.name": "waypoint-x",
        "metadata.namespace": "shop",
        "status.podIP": "10.0.0.7",
        "spec.serviceAccountName": "waypoint",
        "spec.nodeName": "node-1",
    }
    found: dict[str, str] = {}
    for one in container["env"]:
        source = one.get("valueFrom", {})
        field = source.get("fieldRef", {}).get("fieldPath")
        found[one["name"]] = one["value"] if "value" in one else told.get(field, "2")
    return found


def mounts(container: dict[str, Any], spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    return {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}


def assert_ordinary(container: dict[str, Any], user: int) -> None:
    context = container["securityContext"]
    assert context["runAsUser"] == user
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


def assert_tokens(container: dict[str, Any], spec: dict[str, Any]) -> None:
    found = mounts(container, spec)
    for folder, name in (("tokens", "istio-token"), ("xds-tokens", "xds-token")):
        (source,) = found[f"/var/run/secrets/{folder}"]["projected"]["sources"]
        assert source["serviceAccountToken"] == {
            "path": name,
            "audience": "istio-ca",
            "expirationSeconds": 43200,
        }
    for folder in ("istio", "xds"):
        assert found[f"/var/run/secrets/{folder}"]["configMap"]["name"] == "istio-ca-root-cert"


def test_the_gateway_is_a_waypoint_of_our_class() -> None:
    made = only(ISTIO / "gatewayclass.yaml", "GatewayClass")
    gateway = only(ISTIO / "gateway.yaml", "Gateway")
    assert made["spec"]["controllerName"] == "istio.io/agentgateway-waypoint-controller"
    assert made["metadata"]["annotations"]["gateway.istio.io/agentgatewayImage"]
    assert gateway["spec"]["gatewayClassName"] == made["metadata"]["name"]
    (listener,) = gateway["spec"]["listeners"]
    assert (listener["protocol"], listener["port"]) == ("HBONE", HBONE)


def test_the_waypoints_pod_is_as_istiod_makes_it() -> None:
    pod = waypoint()
    spec = pod["spec"]
    container = container_of(spec, "agentgateway")
    assert_ordinary(container, 10101)
    assert container["args"] == ["--config", "{}"]
    assert {port["containerPort"] for port in container["ports"]} == {HBONE, 15020, 15021}
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz/ready", "port": 15021}
    assert_tokens(container, spec)
    assert mounts(container, spec)["/tmp"] == {"name": "tmp", "emptyDir": {}}
    labels = pod["metadata"]["labels"]
    name = only(ISTIO / "gateway.yaml", "Gateway")["metadata"]["name"]
    assert labels["gateway.networking.k8s.io/gateway-name"] == name
    assert labels["gateway.istio.io/managed"] == "istio.io-agentgateway-waypoint-controller"
    assert labels["istio.io/dataplane-mode"] == "none"
    assert labels["sidecar.istio.io/inject"] == "false"
    assert pod["metadata"]["annotations"]["prometheus.io/path"] == "/stats/prometheus"
    service = only(ISTIO / "deployment.yaml", "Service")["spec"]
    assert service["type"] == "ClusterIP"
    assert HBONE in {port["port"] for port in service["ports"]}


@pytest.mark.parametrize("name", ["waypoint", "sidecar"])
def test_the_gateway_takes_what_its_pod_gives_it(name: str, tmp_path: Path) -> None:
    if name == "waypoint":
        container = container_of(waypoint()["spec"], "agentgateway")
        source = Source("<config>", content=container["args"][1])
    else:
        container = sidecar()
        source = Source("config.yaml", content=pod_config())
    env = environment(container)
    known = {key: value for key, value in env.items() if key not in NOT_BUILT}
    loaded = Loader(source, known).load()
    assert not loaded.warnings
    config: Any = loaded.snapshot.resources["static/config"].data["config"]
    found = parse(env, config, tmp_path)
    assert found.xds is not None
    assert found.ca is not None
    assert found.ca.address == "https://istiod.istio-system.svc:15012"
    assert str(found.identity) == "spiffe://cluster.local/ns/shop/sa/waypoint"
    assert node_of({**env, "NAMESPACE": "shop"}, is_pod=name == "sidecar").id.split("~")[1:] == [
        "10.0.0.7",
        "waypoint-x.shop",
        "shop.svc.cluster.local",
    ]
    ports = {str(port["containerPort"]) for port in container["ports"]}
    assert config["statsAddr"].rpartition(":")[2] in ports
    assert config["readinessAddr"].rpartition(":")[2] in ports


def injected() -> dict[str, Any]:
    return dict(only(POD / "kustomize" / "deployment.yaml", "Deployment")["spec"]["template"])


def sidecar() -> dict[str, Any]:
    return container_of(injected()["spec"], "agentgateway-sidecar")


def pod_config() -> str:
    data = only(POD / "kustomize" / "config.yaml", "ConfigMap")["data"]
    return str(data["config.yaml"])


def test_the_injected_sidecar_is_told_from_its_application_by_its_user() -> None:
    spec = injected()["spec"]
    redirect = container_of(spec, "agentgateway-redirect")
    env = environment(redirect)
    user = sidecar()["securityContext"]["runAsUser"]
    assert_ordinary(sidecar(), user)
    assert f"USER {user}:{user}" in (ROOT / "Dockerfile").read_text().splitlines()
    assert env["SIDECAR_UID"] == str(user)
    loaded = Loader(Source("config.yaml", content=pod_config()), {}).load()
    config: Any = loaded.snapshot.resources["static/config"].data["config"]
    settings = settings_of(config)
    assert settings is not None
    assert settings.packet_mark == int(env["PACKET_MARK"], 0) == 0
    assert settings.hbone_port in {port["containerPort"] for port in sidecar()["ports"]}
    probed = {config["statsAddr"].rpartition(":")[2], config["readinessAddr"].rpartition(":")[2]}
    assert probed == set(env["EXCLUDE_INBOUND_PORTS"].split(","))


def test_the_injected_sidecar_runs_before_and_after_the_application() -> None:
    spec = injected()["spec"]
    names = [container["name"] for container in spec["initContainers"]]
    assert names == ["agentgateway-redirect", "agentgateway-sidecar"]
    assert sidecar()["restartPolicy"] == "Always"
    assert sidecar()["startupProbe"]["httpGet"]["path"] == "/healthz/ready"
    grace = str(spec["terminationGracePeriodSeconds"])
    assert environment(sidecar())["TERMINATION_GRACE_PERIOD_SECONDS"] == grace
    assert_tokens(sidecar(), spec)


def test_the_mesh_is_told_that_the_pod_speaks_hbone() -> None:
    labels = injected()["metadata"]["labels"]
    assert labels["networking.istio.io/tunnel"] == "http"
    assert labels["istio.io/dataplane-mode"] == "none"


def test_the_init_container_may_change_rules_and_nothing_else() -> None:
    redirect = container_of(injected()["spec"], "agentgateway-redirect")
    context = redirect["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}
    assert context["readOnlyRootFilesystem"] is True
    assert "/run" in mounts(redirect, injected()["spec"])


def test_the_component_lists_its_files() -> None:
    component = only(POD / "kustomize" / "kustomization.yaml", "Component")
    named = {*component["resources"], *(patch["path"] for patch in component["patches"])}
    assert named == {"config.yaml", "deployment.yaml"}
    for name in named:
        assert (POD / "kustomize" / name).is_file()


def test_the_scripts_table_and_its_defaults_are_one() -> None:
    text = (POD / "redirect.sh").read_text()
    told = re.findall(r"^#   ([A-Z_0-9]+(?:, [A-Z_0-9]+)*) ", text, re.M)
    documented = {name for line in told for name in line.split(", ")}
    read = set(re.findall(r"^([A-Z_0-9]+)=\$\{\1[:-]", text, re.M))
    assert documented == read
    used = {one["name"] for one in container_of(injected()["spec"], "agentgateway-redirect")["env"]}
    assert used <= read
