"""What applications say inside the tunnels: HTTP/1.1, HTTP/2, gRPC, WebSocket, TLS, any TCP; and
gateways, whose tunnels lead to other binds.

Source: spec istio sections 1.9, 2.4 (step 5) and 6 (row 62).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from hbone.errors import TunnelRefusedError
from tests.hbone.pki import Pki, spiffe
from tests.support.authority import Authority
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mesh import WAYPOINT, Proxies, put_certificate
from tests.support.programs import needs_program
from tests.support.upstream import Answer, Upstream

WAY, GATE, HTTPS, CLEAR, PASSED, RAW = free_ports(6)
DOMAIN = "svc.cluster.local"
BODY = bytes(range(256)) * 8192  # 2 MiB


@dataclass
class Net:
    proxies: Proxies
    gateway: GatewayProcess
    roots: Authority
    ports: dict[str, int]

    def door(self, name: str) -> int:
        return self.proxies.door(WAY, f"{name}.shop.{DOMAIN}:80")

    def gate(self, port: int) -> int:
        return self.proxies.door(GATE, f"10.9.9.9:{port}")


def chat(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


def echo_stream(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    yield from requests


def grpc_server() -> tuple[grpc.Server, int]:
    server = grpc.server(ThreadPoolExecutor(4))
    method = grpc.stream_stream_rpc_method_handler(echo_stream)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Echo", {"Chat": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("protocols")
    pki, roots = Pki(), Authority()
    certificate = put_certificate(pki.leaf(WAYPOINT), pki, folder)
    pair = roots.issue(["app.test"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert, key = _files(folder, pair)
    context.load_cert_chain(cert, key)
    grpc_app, grpc_port = grpc_server()
    with (
        Proxies(pki) as proxies,
        Upstream() as app,
        Upstream(lambda _: Answer(200, [], b"by tls"), tls=context) as secure,
        serve(chat, "127.0.0.1", 0) as talker,
        ThreadPoolExecutor(1) as pool,
    ):
        pool.submit(talker.serve_forever)
        ports = {
            "http": app.port,
            "sealed": app.port,
            "raw": app.port,
            "tls": secure.port,
            "declared": secure.port,
            "chat": talker.socket.getsockname()[1],
            "grpc": grpc_port,
        }
        inbound = proxies.inbound(spiffe("sealed", namespace="shop"))
        config = _config(certificate, ports, (str(cert), str(key)), inbound.port)
        with GatewayProcess(config) as gateway:
            yield Net(proxies, gateway, roots, ports)
        talker.shutdown()
    grpc_app.stop(None)


def _files(folder: Path, pair: Any) -> tuple[Path, Path]:
    cert, key = folder / "app.pem", folder / "app.key"
    cert.write_text(pair.cert)
    key.write_text(pair.key)
    return cert, key


def _config(
    certificate: dict[str, str], ports: dict[str, int], pair: tuple[str, str], hbone_port: int
) -> dict[str, Any]:
    said = {"raw": "TCP", "declared": "TLS", "grpc": "GRPC"}
    backend = {
        "host": f"127.0.0.1:{ports['http']}",
        "policies": {"http": {"version": "HTTP/1.1"}},
    }
    route = {"backends": [backend]}
    return {
        "config": {"istio": {"certificate": certificate}},
        "binds": [
            {
                "port": WAY,
                "tunnelProtocol": "hboneWaypoint",
                "listeners": [{"protocol": "HBONE"}],
            },
            {
                "port": GATE,
                "tunnelProtocol": "hboneGateway",
                "listeners": [{"protocol": "HBONE"}],
            },
            {"port": CLEAR, "listeners": [{"routes": [route]}]},
            {
                "port": HTTPS,
                "listeners": [
                    {
                        "protocol": "HTTPS",
                        "hostname": "app.test",
                        "tls": {"cert": pair[0], "key": pair[1]},
                        "routes": [route],
                    }
                ],
            },
            {
                "port": PASSED,
                "mode": "internal",
                "listeners": [
                    {
                        "protocol": "TLS",
                        "hostname": "app.test",
                        "tcpRoutes": [{"backends": [{"host": f"127.0.0.1:{ports['tls']}"}]}],
                    }
                ],
            },
            {
                "port": RAW,
                "listeners": [
                    {
                        "protocol": "TCP",
                        "tcpRoutes": [{"backends": [{"host": f"127.0.0.1:{ports['http']}"}]}],
                    }
                ],
            },
        ],
        "services": [
            {
                "name": name,
                "namespace": "shop",
                "hostname": f"{name}.shop.{DOMAIN}",
                "ports": {"80": port},
                "waypoint": {"destination": f"default/default.default.{DOMAIN}"},
                "appProtocols": {"80": said[name]} if name in said else {},
            }
            for name, port in ports.items()
        ],
        "workloads": [
            {
                "uid": name,
                "namespace": "shop",
                "workloadIps": ["127.0.0.1"],
                "services": {f"shop/{name}.shop.{DOMAIN}": {"80": port}},
                **(
                    {"protocol": "HBONE", "hboneMtlsPort": hbone_port, "serviceAccount": "sealed"}
                    if name == "sealed"
                    else {}
                ),
            }
            for name, port in ports.items()
        ],
    }


@pytest.mark.parametrize("name", ["http", "sealed", "raw"])
def test_large_bodies_both_ways(net: Net, name: str) -> None:
    assert fetch(net.door(name), "/", "POST", body=BODY).body == BODY


def test_many_requests_on_one_connection(net: Net) -> None:
    with socket.create_connection(("127.0.0.1", net.door("http")), 20) as sock:
        for _ in range(3):
            sock.sendall(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")


def test_half_closes_pass_through_tcp(net: Net) -> None:
    with socket.create_connection(("127.0.0.1", net.door("raw")), 20) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        data = b""
        while part := sock.recv(65536):
            data += part
        assert data.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("name", ["tls", "declared"])
def test_tls_passes_through(net: Net, name: str) -> None:
    context = ssl.create_default_context(cadata=net.roots.root)
    got = fetch(net.door(name), "/", host="app.test", tls=context)
    assert got.body == b"by tls"


def test_websocket(net: Net) -> None:
    with connect(f"ws://127.0.0.1:{net.door('chat')}/x") as talk:
        talk.send("one")
        assert talk.recv(10) == "one"
        talk.send(b"\x00" * 300_000)
        assert talk.recv(10) == b"\x00" * 300_000


def test_grpc_both_ways(net: Net) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{net.door('grpc')}") as channel:
        call = channel.stream_stream("/test.Echo/Chat")
        sent = [b"%d" % number for number in range(20)]
        assert list(call(iter(sent), timeout=20)) == sent


@needs_program("h2load")
def test_http2_by_prior_knowledge(net: Net) -> None:
    command = ["h2load", "-n", "200", "-c", "2", "-m", "10", "-p", "h2c"]
    port = net.gate(CLEAR)
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/"], capture_output=True, timeout=60, check=False
    )
    assert b"200 succeeded, 0 failed" in done.stdout, done.stdout


@needs_program("curl")
def test_curl_by_the_gateways_other_binds(net: Net) -> None:
    def curl(port: int, *options: str) -> bytes:
        command = ["curl", "-sS", "--max-time", "20", "--noproxy", "*", *options]
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{port}/"], capture_output=True, check=False
        )
        return done.stdout or done.stderr

    assert curl(net.gate(CLEAR), "-d", "body") == b"body"
    assert curl(net.gate(CLEAR), "--http2-prior-knowledge", "-d", "body") == b"body"
    assert curl(net.gate(RAW), "-d", "raw") == b"raw"


def test_tls_ends_at_a_bind_behind_the_gateway(net: Net) -> None:
    context = ssl.create_default_context(cadata=net.roots.root)
    got = fetch(net.gate(HTTPS), "/", "POST", host="app.test", tls=context, body=BODY)
    assert got.body == BODY


def test_a_bind_without_a_socket_is_reached_by_tunnel_alone(net: Net) -> None:
    context = ssl.create_default_context(cadata=net.roots.root)
    assert fetch(net.gate(PASSED), "/", host="app.test", tls=context).body == b"by tls"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", PASSED), 20)


@pytest.mark.parametrize("port", [1, GATE])
def test_a_port_without_a_bind_is_404(net: Net, port: int) -> None:
    before = len(net.proxies.refused)
    gate = net.gate(port)
    with (
        contextlib.suppress(ConnectionResetError),
        socket.create_connection(("127.0.0.1", gate), 20) as sock,
    ):
        assert sock.recv(1) == b""
    error = net.proxies.refused[before]
    assert isinstance(error, TunnelRefusedError)
    assert error.status == 404
