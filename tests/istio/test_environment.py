"""The environment of a pod: what istiod sets is taken, what is wrong names its variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from istio.environment import REFUSED, Environment, parse
from istio.place import place_of
from istio.workload import Place
from sidecar.config.static import static_config
from sidecar.errors import ConfigError

ISTIOD = {
    "POD_NAME": "waypoint-6f4-x",
    "POD_NAMESPACE": "shop",
    "NAMESPACE": "shop",
    "INSTANCE_IP": "10.0.0.7",
    "SERVICE_ACCOUNT": "waypoint",
    "CPU_LIMIT": "2",
    "GATEWAY": "waypoint",
    "RUST_BACKTRACE": "1",
    "CLUSTER_ID": "c1",
    "NETWORK": "n1",
    "TRUST_DOMAIN": "td.example",
    "ISTIO_META_DNS_CAPTURE": "true",
    "XDS_ADDRESS": "istiod.istio-system.svc:15012",
    "CA_ADDRESS": "istiod.istio-system.svc:15012",
}
"""As section 2.6 has it."""
MERGED = {"clusterId": "c1", "namespace": "shop", "serviceAccount": "waypoint"}


def pod(folder: Path) -> Path:
    """The files that istiod mounts."""
    for name in (
        "var/run/secrets/xds/root-cert.pem",
        "var/run/secrets/istio/root-cert.pem",
        "var/run/secrets/xds-tokens/xds-token",
        "var/run/secrets/tokens/istio-token",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return folder


def test_what_istiod_sets(tmp_path: Path) -> None:
    root = pod(tmp_path)
    env = ISTIOD | {"XDS_HEADER_X_Y": "z", "ALT_CA_HOSTNAME": "istiod.local", "LOCALITY": "r/z"}
    config: dict[str, Any] = {**MERGED, "trustDomain": "td.example"}
    found = parse(env, config, root)
    assert found.xds is not None
    assert found.ca is not None
    assert found.xds.address == found.ca.address == "https://istiod.istio-system.svc:15012"
    assert found.xds.roots == str(root / "var/run/secrets/xds/root-cert.pem")
    assert found.ca.roots == str(root / "var/run/secrets/istio/root-cert.pem")
    assert found.xds.token_file == str(root / "var/run/secrets/xds-tokens/xds-token")
    assert found.ca.token_file == str(root / "var/run/secrets/tokens/istio-token")
    assert found.xds.headers == (("x-y", "z"),)
    assert (found.xds.cluster_id, found.ca.server_name) == ("c1", "istiod.local")
    assert str(found.identity) == "spiffe://td.example/ns/shop/sa/waypoint"
    assert place_of(env, config | {"network": "n1"}) == Place("r", "z", "", "", "c1", "n1")


def test_nothing_is_asked_for_where_nothing_is_said(tmp_path: Path) -> None:
    assert parse({}, {}, tmp_path) == Environment()
    assert parse({"XDS_ADDRESS": "", "CA_ADDRESS": ""}, {}, pod(tmp_path)) == Environment()


def test_without_mounts_the_machines_roots_and_no_token(tmp_path: Path) -> None:
    found = parse({"XDS_ADDRESS": "http://127.0.0.1:15010"}, {}, tmp_path)
    assert found.xds is not None
    assert found.xds.is_plaintext
    assert (found.xds.roots, found.xds.token_file) == ("SYSTEM", None)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("XDS_ADDRESS", "ftp://x", "no address"),
        ("CA_ADDRESS", "https://host:99999", "no address"),
        ("XDS_AUTH_TOKEN", "eyJhbGciOi.secret." + "x" * 5000, "not a token"),
        ("CA_AUTH_TOKEN", "eyJhbGciOi.secret", "not a token"),
        ("CA_HEADER_A_B", "x\ny", "value may look so"),
        ("SECRET_TTL", "1s", "1 minute to 90 days"),
        ("SECRET_TTL", "2400h", "1 minute to 90 days"),
        ("SECRET_TTL", "soon", ""),
        *((name, "true", "cannot be honoured") for name in REFUSED),
    ],
)
def test_what_is_wrong_names_its_variable(
    variable: str, value: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as problem:
        parse(ISTIOD | {variable: value}, MERGED, tmp_path)
    assert problem.value.path == variable
    assert said in problem.value.message
    assert "secret" not in str(problem.value)


@pytest.mark.parametrize(
    ("missing", "variable"), [("namespace", "NAMESPACE"), ("serviceAccount", "SERVICE_ACCOUNT")]
)
def test_the_authority_has_to_be_told_who_asks(missing: str, variable: str, tmp_path: Path) -> None:
    config = {key: value for key, value in MERGED.items() if key != missing}
    with pytest.raises(ConfigError) as problem:
        parse({"CA_ADDRESS": "ca:1"}, config, tmp_path)
    assert problem.value.path == variable


def test_lifetimes(tmp_path: Path) -> None:
    assert parse({"SECRET_TTL": "36h"}, {}, tmp_path).ttl_seconds == 129600


@pytest.mark.parametrize("text", ["/zone", "a/b/c/d"])
def test_a_place_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="region/zone/subzone") as problem:
        place_of({"LOCALITY": text}, {})
    assert problem.value.path == "LOCALITY"


def test_a_place_of_a_node() -> None:
    assert place_of({"NODE_NAME": "node-1"}, {}) == Place(node="node-1", cluster="Kubernetes")


def test_the_rest_of_it_is_the_configurations(tmp_path: Path) -> None:
    env = {key: value for key, value in ISTIOD.items() if not key.endswith("_ADDRESS")}
    config = static_config({}, env)
    found = parse({"CA_ADDRESS": "ca:1"}, config, tmp_path)
    assert str(found.identity) == "spiffe://td.example/ns/shop/sa/waypoint"
    assert config["network"] == "n1"
