"""Every example and manifest is one that the gateway takes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from sidecar import demo
from sidecar.config.local import Source
from sidecar.gateway.loading import LoadedSnapshot, Loader
from tests.hbone.pki import Pki, spiffe
from tests.support.certificates import make_pair
from tests.support.mesh import put_certificate

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "deploy/examples").glob("*.yaml"))
MANIFESTS = {path.stem: path for path in (ROOT / "deploy/k8s").glob("*.yaml")}


@pytest.fixture(scope="module")
def tls_folder() -> Iterator[str]:
    pair = make_pair("www.example.com")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("tls.crt", pair.cert), ("tls.key", pair.key), ("ca.crt", pair.cert)):
            (Path(folder) / name).write_text(text)
        pki = Pki()
        put_certificate(pki.leaf(spiffe("waypoint")), pki, Path(folder))
        yield folder


def load(source: Source, **env: str) -> LoadedSnapshot:
    """Through all checks of a start: schema, cross-field, expressions, certificates."""
    return Loader(source, env).load()


def ports(loaded: LoadedSnapshot) -> set[object]:
    resources = loaded.snapshot.resources.values()
    return {resource.data["port"] for resource in resources if resource.kind == "bind"}


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_loads_without_a_warning(path: Path, tls_folder: str) -> None:
    loaded = load(Source(str(path), path), TLS_DIR=tls_folder, OIDC_COOKIE_SECRET="0f" * 32)
    assert [warning.render(path.name) for warning in loaded.warnings] == []
    assert ports(loaded)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_says_what_it_shows(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_quickstart_uses_the_ports_of_the_demo() -> None:
    loaded = load(Source("quickstart", demo.quickstart()))
    assert ports(loaded) == {demo.GATEWAY_PORT}
    assert f"127.0.0.1:{demo.ECHO_PORT}" in backends(loaded)
    assert f"127.0.0.1:{demo.MODELS_PORT}" in providers(loaded)
    assert f"127.0.0.1:{demo.TOOLS_PORT}" in servers(loaded)
    env = {
        demo.GATEWAY_VARIABLE: "1234",
        demo.ECHO_VARIABLE: "5678",
        demo.MODELS_VARIABLE: "9012",
        demo.TOOLS_VARIABLE: "3456",
    }
    loaded = load(Source("quickstart", demo.quickstart()), **env)
    assert ports(loaded) == {1234}
    assert "127.0.0.1:5678" in backends(loaded)
    assert "127.0.0.1:9012" in providers(loaded)
    assert "127.0.0.1:3456" in servers(loaded)


def targets(loaded: LoadedSnapshot) -> list[dict[str, Any]]:
    return [
        backend["target"]
        for resource in loaded.snapshot.resources.values()
        if resource.kind == "route"
        for backend in cast("Any", resource.data["backends"])
    ]


def backends(loaded: LoadedSnapshot) -> set[str]:
    hosts = [target["host"] for target in targets(loaded) if "host" in target]
    return {"{address}:{port}".format(**host) for host in hosts}


def providers(loaded: LoadedSnapshot) -> set[str]:
    return {
        provider["hostOverride"]
        for target in targets(loaded)
        if "ai" in target
        for group in target["ai"]["groups"]
        for provider in group
    }


def servers(loaded: LoadedSnapshot) -> set[str]:
    return {
        server["authority"]
        for target in targets(loaded)
        if "mcp" in target
        for server in target["mcp"]["targets"]
    }


def test_quickstart_of_the_package_is_the_example() -> None:
    assert demo.quickstart() == ROOT / "deploy/examples/quickstart.yaml"


def manifest(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(MANIFESTS[name].read_text()))


def test_config_map_loads() -> None:
    text = manifest("configmap")["data"]["config.yaml"]
    loaded = load(Source("config.yaml", content=text))
    assert not loaded.warnings
    container = gateway_container()
    assert ports(loaded) == {port_of(container, "http")}


def gateway_container() -> dict[str, Any]:
    (container,) = manifest("deployment")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def port_of(container: dict[str, Any], name: str) -> object:
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    return named[name]


def test_deployment_fits_the_gateway() -> None:
    container = gateway_container()
    env = {one["name"]: one["value"] for one in container["env"]}
    loaded = load(Source("empty", content="{}"), **env)
    config: Any = loaded.snapshot.resources["static/config"].data["config"]
    assert str(config["readinessAddr"]).endswith(f":{port_of(container, 'readiness')}")
    assert str(config["statsAddr"]).endswith(f":{port_of(container, 'stats')}")
    pod = manifest("deployment")["spec"]["template"]["spec"]
    grace = str(pod["terminationGracePeriodSeconds"])
    assert env["TERMINATION_GRACE_PERIOD_SECONDS"] == grace
    assert config["connectionTerminationDeadline"] == f"{int(grace) - 5}s"


def test_image_and_pod_run_as_the_same_ordinary_user() -> None:
    pod = manifest("deployment")["spec"]["template"]["spec"]
    user = pod["securityContext"]["runAsUser"]
    assert user > 0
    assert f"USER {user}:{user}" in (ROOT / "Dockerfile").read_text().splitlines()
