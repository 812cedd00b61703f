"""AuthorizationPolicy at the waypoint: who may open a tunnel, what may be asked in it, and what
happens to tunnels that are open when a policy changes.

Source: spec istio sections 2.8, 4 and 6 (rows 13, 52, 63, 68).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hbone.errors import TunnelRefusedError
from tests.hbone.pki import Pki, spiffe
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mesh import WAYPOINT, Proxies, put_certificate
from tests.support.octets import read_all
from tests.support.upstream import Answer, Upstream

PORT, SANDWICH = free_ports(2)
DOMAIN = "svc.cluster.local"
NAMES = ("open", "allowed", "denied", "asked", "raw", "tls")
SPEAKS = {"raw": "TCP", "tls": "TLS"}
FRIEND, OTHER = spiffe("friend"), spiffe("other")


def policy(name: str, service: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": service}],
            **spec,
        },
    }


def from_friend(**operation: Any) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "from": [{"source": {"principals": [FRIEND.removeprefix("spiffe://")]}}]
    }
    if operation:
        rule["to"] = [{"operation": operation}]
    return rule


POLICIES = [
    policy("allow-friend", "allowed", action="ALLOW", rules=[from_friend()]),
    policy("deny-friend", "denied", action="DENY", rules=[from_friend()]),
    policy(
        "asks", "asked", action="ALLOW", rules=[from_friend(methods=["GET"], paths=["/open/*"])]
    ),
    policy("raw", "raw", action="ALLOW", rules=[from_friend()]),
    policy("tls", "tls", action="ALLOW", rules=[from_friend(methods=["GET"])]),
    {
        **policy("quarantine", ""),
        "spec": {
            "selector": {"matchLabels": {"quarantine": "yes"}},
            "action": "DENY",
            "rules": [from_friend()],
        },
    },
]


def put_policies(folder: Path, *policies: dict[str, Any]) -> None:
    fresh = folder / "policies.new"
    fresh.write_text(yaml.safe_dump_all(policies))
    os.replace(fresh, folder / "policies.yaml")


@dataclass
class Net:
    proxies: Proxies
    gateway: GatewayProcess
    folder: Path
    config: dict[str, Any]
    silent: socket.socket

    def door(self, name: str, identity: str) -> int:
        return self.proxies.door(PORT, f"{name}.shop.{DOMAIN}:80", identity=identity)

    def is_refused(self, name: str, identity: str) -> bool:
        """Whether the tunnel is answered with 401."""
        before = len(self.proxies.refused)
        door = self.door(name, identity)
        with (
            contextlib.suppress(ConnectionResetError, BrokenPipeError),
            socket.create_connection(("127.0.0.1", door), 20) as sock,
        ):
            sock.sendall(b"GET /open/x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            while sock.recv(65536):
                continue
        found = self.proxies.refused[before:]
        assert all(isinstance(one, TunnelRefusedError) and one.is_denied for one in found)
        return bool(found)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("policies")
    pki = Pki()
    certificate = put_certificate(pki.leaf(WAYPOINT), pki, folder)
    put_policies(folder, *POLICIES)
    with (
        Proxies(pki) as proxies,
        Upstream(lambda seen: Answer(200, [], seen.target.encode())) as app,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        names = NAMES
        ports = dict.fromkeys(names, app.port) | {"tls": silent.getsockname()[1]}
        config: dict[str, Any] = {
            "config": {
                "istio": {
                    "certificate": certificate,
                    "policyFiles": [str(folder / "policies.yaml")],
                }
            },
            "binds": [
                {
                    "port": PORT,
                    "tunnelProtocol": "hboneWaypoint",
                    "listeners": [
                        {
                            "protocol": "HBONE",
                            "routes": [
                                {
                                    "matches": [{"path": {"exact": "/grouped"}}],
                                    "backends": [{"routeGroup": "shared"}],
                                }
                            ],
                        }
                    ],
                },
                {
                    "port": SANDWICH,
                    "tunnelProtocol": "proxy",
                    "listeners": [{"routes": []}],
                },
            ],
            "frontendPolicies": {"connect": {"mode": "tunnel"}},
            "routeGroups": [
                {
                    "name": "shared",
                    "routes": [{"backends": [{"host": f"127.0.0.1:{app.port}"}]}],
                }
            ],
            "services": [
                {
                    "name": name,
                    "namespace": "shop",
                    "hostname": f"{name}.shop.{DOMAIN}",
                    "vips": [f"/10.3.0.{NAMES.index(name)}"],
                    "ports": {"80": ports[name]},
                    "waypoint": {"destination": f"default/default.default.{DOMAIN}"},
                    **({"appProtocols": {"80": SPEAKS[name]}} if name in SPEAKS else {}),
                }
                for name in names
            ],
            "workloads": [
                {
                    "uid": "app",
                    "namespace": "shop",
                    "workloadIps": ["127.0.0.1"],
                    "waypoint": {"destination": f"default/default.default.{DOMAIN}"},
                    "services": {
                        f"shop/{name}.shop.{DOMAIN}": {"80": ports[name]} for name in names
                    },
                }
            ],
        }
        with GatewayProcess(config) as gateway:
            yield Net(proxies, gateway, folder, config, silent)


def test_no_policy_lets_everybody_in(net: Net) -> None:
    assert not net.is_refused("open", FRIEND)
    assert not net.is_refused("open", OTHER)


@pytest.mark.parametrize(
    ("service", "identity", "is_refused"),
    [
        ("allowed", FRIEND, False),
        ("allowed", OTHER, True),
        ("denied", FRIEND, True),
        ("denied", OTHER, False),
        ("raw", FRIEND, False),
        ("raw", OTHER, True),
        # Somebody with whom no request could be allowed gets no tunnel either.
        ("asked", OTHER, True),
    ],
)
def test_who_gets_a_tunnel(net: Net, service: str, identity: str, is_refused: bool) -> None:
    assert net.is_refused(service, identity) == is_refused


def test_what_may_be_asked(net: Net) -> None:
    door = net.door("asked", FRIEND)
    assert fetch(door, "/open/a").body == b"/open/a"
    for target, method in (("/closed", "GET"), ("/open/a", "POST"), ("/open/../closed", "GET")):
        got = fetch(door, target, method)
        assert (got.status, got.body) == (403, b"RBAC: access denied"), target


def test_a_refusal_of_grpc_is_a_grpc_status(net: Net) -> None:
    headers = {"content-type": "application/grpc", "te": "trailers"}
    got = fetch(net.door("asked", FRIEND), "/a.B/C", "POST", headers=headers, body=b"")
    assert (got.status, got.get("grpc-status")) == (200, "7")


def test_a_policy_that_comes_ends_tunnels_that_it_denies(net: Net) -> None:
    with socket.create_connection(("127.0.0.1", net.door("raw", FRIEND)), 20) as sock:
        sock.settimeout(20)
        ask(sock)
        revision = net.gateway.dump()["revision"]
        deny = policy("stop", "raw", action="DENY", rules=[from_friend()])
        put_policies(net.folder, *POLICIES, deny)
        try:
            # Nothing is said on it any more: it is the policy that ends it.
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
            net.gateway.wait_applied(revision + 1)
            assert net.is_refused("raw", FRIEND)
        finally:
            put_policies(net.folder, *POLICIES)
    net.gateway.wait_applied(revision + 2)


def test_a_label_that_comes_ends_tunnels_that_a_policy_denies_by_it(net: Net) -> None:
    app = net.config["workloads"][0]
    port = net.config["services"][0]["ports"]["80"]
    door = net.proxies.door(PORT, f"127.0.0.1:{port}", identity=FRIEND)
    with socket.create_connection(("127.0.0.1", door), 20) as sock:
        sock.settimeout(20)
        ask(sock)
        net.gateway.reload({**net.config, "workloads": [{**app, "labels": {"quarantine": "yes"}}]})
        try:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        finally:
            net.gateway.reload(net.config)


def test_a_broken_policy_changes_nothing(net: Net) -> None:
    revision = net.gateway.dump()["revision"]
    broken = policy("broken", "open", action="ALLOW", rules=[{"to": [{"operation": {"pots": []}}]}])
    put_policies(net.folder, *POLICIES, broken)
    try:
        net.gateway.wait_line("configuration refused")
        assert net.gateway.dump()["revision"] == revision
        assert net.is_refused("allowed", OTHER)
    finally:
        put_policies(net.folder, *POLICIES)


def test_each_service_behind_one_route_is_judged_by_its_own_policies(net: Net) -> None:
    for _ in range(2):
        assert fetch(net.door("open", OTHER), "/grouped").status == 200
        assert fetch(net.door("asked", FRIEND), "/grouped").status == 403


def test_a_server_is_not_heard_before_its_tunnel_could_be_judged(net: Net) -> None:
    with socket.create_connection(("127.0.0.1", net.door("tls", FRIEND)), 20) as sock:
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    net.silent.setblocking(False)
    with pytest.raises(BlockingIOError):
        net.silent.accept()


def test_a_tunnel_leads_nowhere_but_to_its_service(net: Net) -> None:
    with socket.create_connection(("127.0.0.1", net.door("open", OTHER)), 20) as sock:
        sock.sendall(
            f"CONNECT 127.0.0.1:{SANDWICH} HTTP/1.1\r\nhost: 127.0.0.1:{SANDWICH}\r\n\r\n".encode()
        )
        assert read_all(sock)[9:12] == b"405"


def test_a_policy_that_comes_ends_what_another_proxy_handed_on(net: Net) -> None:
    with handed_on("raw", FRIEND) as raw, handed_on("open", OTHER) as other:
        for sock in (raw, other):
            ask(sock)
        revision = net.gateway.dump()["revision"]
        deny = policy("stop", "raw", action="DENY", rules=[from_friend()])
        put_policies(net.folder, *POLICIES, deny)
        try:
            raw.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert raw.recv(1) == b""
            ask(other)
            net.gateway.wait_applied(revision + 1)
        finally:
            put_policies(net.folder, *POLICIES)
    net.gateway.wait_applied(revision + 2)


def test_a_configuration_that_workers_refuse_takes_no_policy_away(net: Net) -> None:
    revision = net.gateway.dump()["revision"]
    istio = {**net.config["config"]["istio"], "policyFiles": []}
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        more = {"port": port, "listeners": [{"routes": []}]}
        net.gateway.write(
            {**net.config, "config": {"istio": istio}, "binds": [*net.config["binds"], more]}
        )
        try:
            net.gateway.wait_line(f"port {port}: in use by another process")
            net.gateway.wait_applied(revision + 2)  # what was there before, once more
            assert net.is_refused("allowed", OTHER)
        finally:
            net.gateway.write(net.config)


def ask(sock: socket.socket) -> None:
    """One request, whose answer is read to its end."""
    sock.sendall(b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n")
    data = b""
    while not data.endswith(b"/a"):
        part = sock.recv(65536)
        assert part, data
        data += part
    assert data.startswith(b"HTTP/1.1 200")


def handed_on(name: str, identity: str) -> socket.socket:
    """A connection that a proxy of the mesh hands on."""
    body = socket.inet_aton("10.0.0.7") + socket.inet_aton(f"10.3.0.{NAMES.index(name)}")
    body += struct.pack("!HH", 5555, 80)
    body += b"\xd0" + struct.pack("!H", len(identity)) + identity.encode()
    sock = socket.create_connection(("127.0.0.1", SANDWICH), 20)
    sock.sendall(b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack("!H", len(body)) + body)
    return sock


def sandwiched(name: str, identity: str, target: str = "/open/x") -> bytes:
    """What comes back of a request that a proxy of the mesh hands on; nothing when it is cut."""
    request = f"GET {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n".encode()
    with handed_on(name, identity) as sock:
        try:
            sock.sendall(request)
            return read_all(sock)
        except (ConnectionResetError, BrokenPipeError):
            return b""


@pytest.mark.parametrize(
    ("service", "identity", "status"),
    [
        ("allowed", FRIEND, b"200"),
        ("allowed", OTHER, b""),
        ("denied", FRIEND, b""),
        ("denied", OTHER, b"200"),
        ("raw", FRIEND, b"200"),
        ("raw", OTHER, b""),
    ],
)
def test_the_same_where_another_proxy_takes_the_tunnels(
    net: Net, service: str, identity: str, status: bytes
) -> None:
    assert sandwiched(service, identity)[9:12] == status


def test_what_may_be_asked_where_another_proxy_takes_the_tunnels(net: Net) -> None:
    assert sandwiched("asked", FRIEND)[9:12] == b"200"
    assert sandwiched("asked", FRIEND, "/closed")[9:12] == b"403"
