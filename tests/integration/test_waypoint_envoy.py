"""A waypoint between two applications that Envoys bring to it and take from it: HTTP, gRPC and TCP,
allowed and denied by identity.

Source: spec istio sections 2.3, 5.4 and 6 (rows 62, 63, 68).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.hbone.aio import envoy
from tests.hbone.aio.mesh import CLIENT, SERVER
from tests.hbone.pki import Pki
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess
from tests.support.mesh import put_certificate
from tests.support.octets import read_exactly

pytestmark = pytest.mark.skipif(envoy.binary() is None, reason="envoy is not installed")

HOST = "svc.ns.svc.cluster.local"
BODY = bytes(range(256)) * 4096  # 1 MiB


def echo(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    yield from requests


@dataclass
class Net:
    ports: envoy.Ports
    gateway: GatewayProcess
    config: dict[str, Any]
    folder: Path

    def speak(self, protocol: str) -> None:
        """What the service's port is said to speak; "" for nothing."""
        service = self.config["services"][0]
        said = {"8080": protocol} if protocol else {}
        if service["appProtocols"] != said:
            service["appProtocols"] = said
            self.gateway.reload(self.config)

    def put_policies(self, *rules: tuple[str, dict[str, Any]]) -> None:
        documents = [
            {
                "apiVersion": "security.istio.io/v1",
                "kind": "AuthorizationPolicy",
                "metadata": {"name": f"p{number}", "namespace": "ns"},
                "spec": {
                    "targetRefs": [{"group": "", "kind": "Service", "name": "svc"}],
                    "action": action,
                    "rules": [rule],
                },
            }
            for number, (action, rule) in enumerate(rules)
        ]
        revision = self.gateway.dump()["revision"]
        fresh = self.folder / "policies.new"
        fresh.write_text(yaml.safe_dump_all(documents))
        os.replace(fresh, self.folder / "policies.yaml")
        self.gateway.wait_line(f"configuration revision {revision + 1}")
        self.gateway.wait_applied(revision + 1)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("envoy")
    (folder / "policies.yaml").write_text("")
    pki = Pki()
    app = grpc.server(ThreadPoolExecutor(4))
    methods = {"Chat": grpc.stream_stream_rpc_method_handler(echo)}
    app.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
    with envoy.running(pki, folder) as ports:
        config: dict[str, Any] = {
            "config": {
                "istio": {
                    "certificate": put_certificate(pki.leaf(SERVER), pki, folder),
                    "policyFiles": [str(folder / "policies.yaml")],
                }
            },
            "binds": [
                {
                    "port": ports.our_server,
                    "tunnelProtocol": "hboneWaypoint",
                    "listeners": [{"protocol": "HBONE"}],
                }
            ],
            "services": [
                {
                    "name": "svc",
                    "namespace": "ns",
                    "hostname": HOST,
                    "ports": {"8080": ports.app},
                    "waypoint": {"destination": "default/default.default.svc.cluster.local"},
                    "appProtocols": {},
                }
            ],
            "workloads": [
                {
                    "uid": "app",
                    "namespace": "default",
                    "serviceAccount": "server",
                    "workloadIps": ["127.0.0.1"],
                    "protocol": "HBONE",
                    "hboneMtlsPort": ports.hbone,
                    "services": {f"ns/{HOST}": {"8080": ports.app}},
                }
            ],
        }
        assert app.add_insecure_port(f"127.0.0.1:{ports.app}")
        app.start()
        with GatewayProcess(config) as gateway:
            yield Net(ports, gateway, config, folder)
    app.stop(None)


def chat(port: int, path: str = "/test.Echo/Chat") -> list[bytes]:
    sent = [BODY[:1000], b"", BODY]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return list(channel.stream_stream(path)(iter(sent), timeout=20))


def test_grpc_through_both(net: Net) -> None:
    net.speak("")
    assert chat(net.ports.out) == [BODY[:1000], b"", BODY]


def test_tcp_through_both(net: Net) -> None:
    # gRPC again, as octets of which the gateway understands nothing.
    net.speak("TCP")
    assert chat(net.ports.out)[-1] == BODY


def test_http_and_what_a_policy_lets_be_asked(net: Net) -> None:
    net.speak("")
    principal = CLIENT.removeprefix("spiffe://")
    rule = {
        "from": [{"source": {"principals": [principal]}}],
        "to": [{"operation": {"paths": ["/test.Echo/*"]}}],
    }
    net.put_policies(("ALLOW", rule))
    assert chat(net.ports.out)[-1] == BODY
    with pytest.raises(grpc.RpcError) as caught:
        chat(net.ports.out, "/test.Other/Chat")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    got = fetch(net.ports.out, "/closed")
    assert (got.status, got.body) == (403, b"RBAC: access denied")


def test_who_is_denied_gets_no_tunnel(net: Net) -> None:
    net.speak("TCP")
    principal = CLIENT.removeprefix("spiffe://")
    net.put_policies(("DENY", {"from": [{"source": {"principals": [principal]}}]}))
    with socket.create_connection(("127.0.0.1", net.ports.out), 20) as sock:
        sock.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert read_exactly(sock, 1) == b""
    net.gateway.wait_metric("agentgateway_hbone_tunnels_total", 1, status="401")


def test_an_outsider_is_cut_off(net: Net) -> None:
    with socket.create_connection(("127.0.0.1", net.ports.out_as_outsider), 20) as sock:
        sock.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert read_exactly(sock, 1) == b""
    net.gateway.wait_metric("agentgateway_hbone_connection_errors_total", 1, flag="IDENTITY_ERROR")
