"""Ways from a waypoint to workloads that are not just a tunnel: through another network's gateway,
by Istio's older TLS, with TLS inside the tunnel; and to who answers by the wrong name.

Source: spec istio sections 1.1, 1.2 and 2.4 (step 9), 6 (rows 11, 34, 62).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.hbone.pki import Pki, spiffe
from tests.support.authority import Authority
from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mesh import WAYPOINT, Inbound, Proxies, put_certificate
from tests.support.upstream import Upstream

PORT, EDGE = free_ports(2)
DOMAIN = "shop.svc.cluster.local"
FAR = spiffe("far", namespace="shop")
BODY = bytes(range(256)) * 2048


def own(name: str) -> str:
    return spiffe(name, namespace="shop")


def tls_context(pki: Pki, identity: str, folder: Path) -> ssl.SSLContext:
    """As an older sidecar takes connections."""
    leaf = pki.leaf(identity)
    file = folder / f"{identity.rpartition('/')[2]}.pem"
    file.write_bytes(leaf.key + leaf.chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.load_verify_locations(cadata=pki.root_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["istio"])
    return context


@dataclass
class Net:
    proxies: Proxies
    far: Inbound
    sealed: Inbound
    other: Inbound
    """Another waypoint."""
    apps: dict[str, Upstream]
    gateway: GatewayProcess
    pki: Pki
    folder: Path

    def ask(self, name: str, body: bytes = b"x") -> Got:
        door = self.proxies.door(PORT, f"{name}.{DOMAIN}:80")
        return fetch(door, "/", "POST", host=f"{name}.test", body=body)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("upstreams")
    pki, roots = Pki(), Authority()
    pair = roots.issue(["inner.test"])
    (folder / "inner.pem").write_text(pair.key + pair.cert)
    (folder / "inner-roots.pem").write_text(roots.root)
    inner_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inner_tls.load_cert_chain(folder / "inner.pem")
    with (
        Proxies(pki) as proxies,
        Upstream() as plain,
        Upstream(tls=tls_context(pki, own("legacy"), folder)) as legacy,
        Upstream(tls=tls_context(pki, own("impostor"), folder)) as impostor,
        Upstream(tls=inner_tls) as inner,
    ):
        apps = {"far": plain, "legacy": legacy, "imposed": impostor, "inner": inner}
        apps |= {"strange": plain, "lost": plain}
        far = proxies.between(spiffe("gateway", namespace="istio-system"), FAR)
        far.target = plain.port
        sealed = proxies.inbound(own("inner"))
        other = proxies.inbound(own("other"))
        other.target = plain.port
        config = _config(put_certificate(pki.leaf(WAYPOINT), pki, folder), apps, folder)
        gateway = {"destination": "/127.0.0.7", "hboneMtlsPort": far.port}
        remote = {"network": "remote", "networkGateway": gateway, "workloadIps": ["10.0.0.1"]}
        hbone = {"protocol": "HBONE", "hboneMtlsPort": sealed.port}
        for one in config["workloads"]:
            one |= {
                "far": remote,
                "strange": remote,
                "lost": {"network": "remote", "workloadIps": ["10.0.0.2"]},
                "legacy": {"protocol": "LEGACY_ISTIO_MTLS"},
                "imposed": {"protocol": "LEGACY_ISTIO_MTLS"},
                "inner": hbone,
            }[one["uid"]]
        config["workloads"].append(
            {
                "uid": "gateway",
                "namespace": "istio-system",
                "serviceAccount": "gateway",
                "workloadIps": ["127.0.0.7"],
            }
        )
        config["services"].append(_guarded(other.port))
        config["workloads"] += [_workload("guarded", plain.port), _workload("other", plain.port)]
        config["workloads"][-1]["workloadIps"] = ["127.0.0.8"]
        (folder / "revoked.pem").write_bytes(pki.crl())
        config["config"]["istio"]["revocations"] = str(folder / "revoked.pem")
        with GatewayProcess(config) as running:
            yield Net(proxies, far, sealed, other, apps, running, pki, folder)


def _config(certificate: dict[str, str], apps: dict[str, Upstream], folder: Path) -> dict[str, Any]:
    names = {"far": [FAR], "strange": [spiffe("somebody")]}
    guarded = {"service": {"name": f"shop/guarded.{DOMAIN}", "port": 80}}
    tls = {"root": str(folder / "inner-roots.pem"), "hostname": "inner.test"}
    return {
        "config": {"istio": {"certificate": certificate}},
        "binds": [
            {
                "port": PORT,
                "tunnelProtocol": "hboneWaypoint",
                "listeners": [
                    {
                        "protocol": "HBONE",
                        "routes": [
                            {
                                "hostnames": [f"inner.{DOMAIN}"],
                                "backends": [
                                    {
                                        "service": {
                                            "name": f"shop/inner.{DOMAIN}",
                                            "port": 80,
                                        },
                                        "policies": {"backendTLS": tls},
                                    }
                                ],
                            }
                        ],
                    }
                ],
            },
            {"port": EDGE, "listeners": [{"routes": [{"backends": [guarded]}]}]},
        ],
        "services": [
            {
                "name": name,
                "namespace": "shop",
                "hostname": f"{name}.{DOMAIN}",
                "ports": {"80": app.port},
                "subjectAltNames": names.get(name, []),
                "waypoint": {"destination": "default/default.default.svc.cluster.local"},
                # That is us, so nothing changes.
                "ingressUseWaypoint": True,
            }
            for name, app in apps.items()
        ],
        "workloads": [_workload(name, app.port) for name, app in apps.items()],
    }


def _workload(name: str, port: int) -> dict[str, Any]:
    return {
        "uid": name,
        "namespace": "shop",
        "serviceAccount": name,
        "workloadIps": ["127.0.0.1"],
        "services": {f"shop/{name}.{DOMAIN}": {"80": port}},
    }


def _guarded(port: int) -> dict[str, Any]:
    """A service of another waypoint, which is at `port`."""
    return {
        "name": "guarded",
        "namespace": "shop",
        "hostname": f"guarded.{DOMAIN}",
        "ports": {"80": 1},
        "waypoint": {"destination": "/127.0.0.8", "hboneMtlsPort": port},
        "ingressUseWaypoint": True,
    }


def test_another_network_by_a_tunnel_in_a_tunnel(net: Net) -> None:
    net.far.seen.clear()
    assert net.ask("far", BODY).body == BODY
    outer, inner = net.far.seen
    assert outer.authority == inner.authority == f"far.{DOMAIN}:80"
    assert (outer.peer, inner.peer) == (WAYPOINT, WAYPOINT)
    assert outer.headers["x-istio-source"] == "waypoint"


def test_the_inner_tunnel_ends_at_whom_the_service_names(net: Net) -> None:
    net.far.seen.clear()
    assert net.ask("strange").status == 503
    assert len(net.far.seen) == 1  # the outer one alone


def test_a_network_without_a_gateway_is_out_of_reach(net: Net) -> None:
    got = net.ask("lost")
    assert (got.status, got.body) == (503, b"no healthy backends")


def test_an_older_sidecar(net: Net) -> None:
    assert net.ask("legacy", BODY).body == BODY


def test_an_older_sidecar_of_somebody_else(net: Net) -> None:
    assert net.ask("imposed").status == 503
    assert net.apps["imposed"].seen == []


def test_tls_inside_the_tunnel(net: Net) -> None:
    net.sealed.seen.clear()
    assert net.ask("inner", BODY).body == BODY
    (arrived,) = net.sealed.seen
    assert arrived.authority == f"127.0.0.1:{net.apps['inner'].port}"


def test_a_service_that_wants_gateways_at_its_waypoint(net: Net) -> None:
    assert fetch(EDGE, "/", "POST", host="any.test", body=BODY).body == BODY
    (arrived,) = net.other.seen
    assert arrived.authority == f"guarded.{DOMAIN}:80"
    assert arrived.peer == WAYPOINT


def test_an_older_sidecar_that_is_revoked(net: Net) -> None:
    assert net.ask("legacy", BODY).body == BODY
    asked = len(net.apps["legacy"].seen)
    gone = x509.load_pem_x509_certificate((net.folder / "legacy.pem").read_bytes())
    revision = net.gateway.dump()["revision"]
    fresh = net.folder / "revoked.new"
    fresh.write_bytes(net.pki.crl(gone))
    fresh.replace(net.folder / "revoked.pem")
    net.gateway.wait_applied(revision + 1)
    # Neither by the connection that was kept, nor by another.
    assert net.ask("legacy", BODY).status == 503
    assert len(net.apps["legacy"].seen) == asked
    assert net.ask("inner", BODY).body == BODY
