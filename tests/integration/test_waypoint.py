"""A waypoint between other proxies of a mesh: what tunnels are for, who may, and where they go on.

Source: spec istio sections 1.5, 2.4 and 6 (rows 14, 17, 37, 56, 58, 59, 62, 63).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hbone.errors import HandshakeError, HboneError, TunnelRefusedError
from tests.hbone.pki import Pki, spiffe
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mesh import WAYPOINT, Inbound, Proxies, put_certificate
from tests.support.upstream import Answer, Seen, Upstream

PORT = free_ports(1)[0]
DOMAIN = "svc.cluster.local"
CLAIM = "x-forwarded-client-cert"
OURS = {"destination": f"default/default.default.{DOMAIN}"}
EVIL = spiffe("evil")


def says_where(seen: Seen) -> Answer:
    body = f"{seen.method} {seen.target} {seen.get('host')} {seen.get('x-by') or '-'}"
    if seen.target == "/claimed":
        body = str(seen.get_all(CLAIM))
    return Answer(200, [("content-type", "text/plain")], body.encode())


@dataclass
class Net:
    proxies: Proxies
    gateway: GatewayProcess
    hbone: Inbound
    stranger: Inbound
    folder: Path
    config: dict[str, Any]
    pki: Pki

    def door(self, authority: str, **given: Any) -> int:
        return self.proxies.door(PORT, authority, **given)

    def refusal(self, authority: str, **given: Any) -> HboneError:
        """Why a tunnel is not to be had."""
        before = len(self.proxies.refused)
        door = self.door(authority, **given)
        with (
            contextlib.suppress(ConnectionResetError),
            socket.create_connection(("127.0.0.1", door), 20) as sock,
        ):
            assert sock.recv(1) == b""
        return self.proxies.refused[before]

    def status(self, authority: str, **given: Any) -> int:
        error = self.refusal(authority, **given)
        assert isinstance(error, TunnelRefusedError), error
        return error.status


def service(name: str, vip: str, port: int, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "shop",
        "hostname": f"{name}.shop.{DOMAIN}",
        "vips": [f"/{vip}"],
        "ports": {"80": port},
        "waypoint": OURS,
        **more,
    }


def workload(name: str, ip: str, port: int, **more: Any) -> dict[str, Any]:
    return {
        "uid": name,
        "namespace": "shop",
        "workloadIps": [ip],
        "serviceAccount": name,
        "services": {f"shop/{name}.shop.{DOMAIN}": {"80": port}},
        **more,
    }


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("waypoint")
    pki = Pki()
    certificate = put_certificate(pki.leaf(WAYPOINT), pki, folder)
    with (
        Proxies(pki) as proxies,
        Upstream(says_where, host="0.0.0.0") as app,
        Upstream(lambda _: Answer(200, [], b"routed")) as other,
    ):
        hbone = proxies.inbound(spiffe("sealed", namespace="shop"))
        stranger = proxies.inbound(spiffe("stranger", namespace="shop"))
        config: dict[str, Any] = {
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
                                    "name": "routed",
                                    "hostnames": [f"routed.shop.{DOMAIN}"],
                                    "matches": [{"path": {"pathPrefix": "/elsewhere"}}],
                                    "backends": [{"host": f"127.0.0.1:{other.port}"}],
                                },
                                {
                                    "name": "cel",
                                    "hostnames": [f"cel.shop.{DOMAIN}"],
                                    "policies": {
                                        "transformations": {
                                            "request": {
                                                "set": {
                                                    "x-by": "source.identity.namespace + '/' +"
                                                    " source.identity.serviceAccount + ' ' +"
                                                    " source.identity.trustDomain + ' ' +"
                                                    " source.address + ' ' + destination.address"
                                                }
                                            }
                                        }
                                    },
                                    "backends": [{"host": f"127.0.0.1:{app.port}"}],
                                },
                            ],
                        }
                    ],
                }
            ],
            "services": [
                service("plain", "10.1.0.1", app.port),
                service("sealed", "10.1.0.2", app.port),
                service("stranger", "10.1.0.3", app.port),
                service("routed", "10.1.0.4", app.port),
                service("cel", "10.1.0.5", app.port),
                service("foreign", "10.1.0.6", app.port, waypoint={"destination": "x/y.x.svc"}),
                service("tcp", "10.1.0.7", app.port, appProtocols={"80": "TCP"}),
                service("closed", "10.1.0.8", 1, appProtocols={"80": "TCP"}),
                service("gone", "10.1.0.9", app.port),
                service("named", "10.1.0.10", app.port),
            ],
            "workloads": [
                workload("plain", "127.0.0.1", app.port, waypoint=OURS),
                workload("routed", "127.0.0.2", app.port),
                workload("tcp", "127.0.0.3", app.port),
                workload("closed", "127.0.0.4", 1),
                {**workload("named", "", app.port, hostname="localhost"), "workloadIps": []},
                workload(
                    "sealed", "127.0.0.5", app.port, protocol="HBONE", hboneMtlsPort=hbone.port
                ),
                workload(
                    "stranger",
                    "127.0.0.6",
                    app.port,
                    protocol="HBONE",
                    hboneMtlsPort=stranger.port,
                    serviceAccount="somebody-else",
                ),
            ],
        }
        with GatewayProcess(config) as gateway:
            yield Net(proxies, gateway, hbone, stranger, folder, config, pki)


def test_a_service_is_reached_by_its_address_and_by_its_name(net: Net) -> None:
    for authority in ("10.1.0.1:80", f"plain.shop.{DOMAIN}:80"):
        got = fetch(net.door(authority), "/a?b", host="any")
        assert (got.status, got.body) == (200, b"GET /a?b any -")


def test_what_a_workload_says_of_certificates_ends_here(net: Net) -> None:
    """The tunnel's certificate is the proxy's, who did not write it."""
    door = net.door(f"plain.shop.{DOMAIN}:80")
    assert fetch(door, "/claimed", headers={CLAIM: "URI=spiffe://a"}).body == b"[]"


def test_a_workload_is_reached_by_its_own_address(net: Net) -> None:
    port = net.config["services"][0]["ports"]["80"]
    assert fetch(net.door(f"127.0.0.1:{port}"), "/").status == 200


def test_what_a_tunnel_is_refused_for(net: Net) -> None:
    cases = {
        "10.1.0.200:80": 400,  # nobody's address
        "10.1.0.6:80": 400,  # another waypoint's service
        "10.1.0.1:81": 400,  # no port of it
        f"nobody.shop.{DOMAIN}:80": 400,
        "127.0.0.2:80": 400,  # a workload without a waypoint
        "10.1.0.1:15008": 503,  # a proxy's own port
        "10.1.0.8:80": 503,  # TCP that nobody takes
    }
    assert {authority: net.status(authority) for authority in cases} == cases


def test_an_endpoint_that_only_has_a_name(net: Net) -> None:
    assert fetch(net.door("10.1.0.10:80"), "/", host="h").body == b"GET / h -"


def test_a_service_without_endpoints_says_so_in_http(net: Net) -> None:
    got = fetch(net.door("10.1.0.9:80"), "/")
    assert (got.status, got.body) == (503, b"no healthy backends")


def test_the_listeners_routes_are_chosen_by_the_service_and_not_by_host(net: Net) -> None:
    door = net.door("10.1.0.4:80")
    assert fetch(door, "/elsewhere/a", host="plain").body == b"routed"
    assert fetch(door, "/", host="h").body == b"GET / h -"
    # Who was let into one service cannot ask for another's routes.
    asked = f"routed.shop.{DOMAIN}"
    assert fetch(net.door("10.1.0.1:80"), "/elsewhere/a", host=asked).body != b"routed"


def test_expressions_see_who_made_the_tunnel(net: Net) -> None:
    got = fetch(net.door("10.1.0.5:80"), "/", host="h")
    assert got.body == b"GET / h default/client cluster.local 127.0.0.1 10.1.0.5"


def test_tcp_goes_through_as_it_is(net: Net) -> None:
    got = fetch(net.door("10.1.0.7:80"), "/as-is", host="h")
    assert got.body == b"GET /as-is h -"


def test_a_foreign_trust_domain_is_cut_off(net: Net) -> None:
    error = net.refusal("10.1.0.1:80", identity=spiffe("client", "td.other"))
    assert isinstance(error, HandshakeError)
    net.gateway.wait_metric("agentgateway_hbone_connection_errors_total", 1, flag="IDENTITY_ERROR")


def test_a_foreign_authority_is_cut_off(net: Net) -> None:
    assert isinstance(net.refusal("10.1.0.1:80", pki=Pki("foreign")), HandshakeError)


def test_it_goes_on_by_a_tunnel_of_its_own(net: Net) -> None:
    net.hbone.seen.clear()
    got = fetch(net.door("10.1.0.2:80"), "/sealed", host="h")
    assert got.body == b"GET /sealed h -"
    (arrived,) = net.hbone.seen
    port = net.config["services"][1]["ports"]["80"]
    assert (arrived.authority, arrived.peer) == (f"127.0.0.5:{port}", WAYPOINT)
    assert arrived.headers["x-istio-source"] == "waypoint"
    assert len(arrived.headers["traceparent"]) == 55


def test_who_answers_must_be_who_was_meant(net: Net) -> None:
    got = fetch(net.door("10.1.0.3:80"), "/", host="h")
    assert got.status == 503
    assert net.stranger.seen == []
