"""`backendTunnel`: backends behind proxies that take CONNECT. Source: spec/config.md 3.11."""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.authority import Authority
from tests.support.client import fetch
from tests.support.connect_proxy import ConnectProxy
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.upstream import Answer, Seen, Upstream

KEY = "Basic Z2F0ZXdheTpzM2NyM3Q="
NAMES = {"inside.test": "127.0.0.1"}


def named(seen: Seen) -> Answer:
    return Answer(200, [], f"{seen.get('host')} {seen.target} {len(seen.body)}".encode())


@dataclass
class Running:
    port: int
    tcp_port: int
    proxies: dict[str, ConnectProxy]
    plain: Upstream
    secure: Upstream
    gateway: GatewayProcess

    def get(self, name: str, **more: Any) -> tuple[int, str]:
        got = fetch(self.port, f"/{name}", **more)
        return got.status, got.text


def tls_context(authority: Authority, folder: Path, name: str) -> ssl.SSLContext:
    file = folder / f"{name}.pem"
    file.write_bytes(authority.issue([name]).any())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def tunnel(proxy: ConnectProxy, **policies: Any) -> dict[str, Any]:
    return {"backendTunnel": {"proxy": {"host": proxy.address}, "policies": policies}}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    authority = Authority()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "root.pem").write_text(authority.root)
        plain = stack.enter_context(Upstream(named))
        inner = tls_context(authority, folder, "inside.test")
        secure = stack.enter_context(Upstream(named, tls=inner))
        outer = tls_context(authority, folder, "127.0.0.1")
        proxies = {
            "open": ConnectProxy(NAMES),
            "locked": ConnectProxy(NAMES, credential=KEY),
            "bearer": ConnectProxy(NAMES, credential="Bearer s3cr3t"),
            "secure": ConnectProxy(NAMES, tls=outer),
            "refusing": ConnectProxy(answer="HTTP/1.1 403 Forbidden\r\n\r\nno"),
            "garbled": ConnectProxy(answer="SSH-2.0-OpenSSH\r\n\r\n"),
            "ahead": ConnectProxy(answer="HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
            "silent": ConnectProxy(answer=""),
        }
        for proxy in proxies.values():
            stack.enter_context(proxy)
        at = f"inside.test:{plain.port}"
        safe = f"inside.test:{secure.port}"
        root = {"root": str(folder / "root.pem")}
        credential = {
            "key": {"value": KEY, "location": {"header": {"name": "proxy-authorization"}}}
        }
        patience = {"connectTimeout": "200ms", "keepalives": {}}
        ways: dict[str, tuple[str, dict[str, Any]]] = {
            "open": (at, tunnel(proxies["open"])),
            "tls": (safe, {"backendTLS": root, **tunnel(proxies["open"])}),
            "locked": (at, tunnel(proxies["locked"], backendAuth=credential)),
            "default": (at, tunnel(proxies["bearer"], backendAuth={"key": "s3cr3t"})),
            "keyless": (at, tunnel(proxies["locked"])),
            "secure": (at, tunnel(proxies["secure"], backendTLS=root)),
            "twice": (safe, {"backendTLS": root, **tunnel(proxies["secure"], backendTLS=root)}),
            "chained": (at, tunnel(proxies["open"], **tunnel(proxies["secure"], backendTLS=root))),
            "refusing": (at, tunnel(proxies["refusing"])),
            "garbled": (at, tunnel(proxies["garbled"])),
            "ahead": (safe, {"backendTLS": root, **tunnel(proxies["ahead"])}),
            "silent": (at, {**tunnel(proxies["silent"]), "tcp": patience}),
        }
        routes = [
            {
                "name": way,
                "matches": [{"path": {"pathPrefix": f"/{way}"}}],
                "backends": [{"host": host, "policies": policies}],
            }
            for way, (host, policies) in ways.items()
        ]
        port, tcp_port = free_ports(2)
        relayed = {"host": at, "policies": tunnel(proxies["open"])}
        config = {
            "binds": [
                {"port": port, "listeners": [{"routes": routes}]},
                {
                    "port": tcp_port,
                    "listeners": [{"protocol": "TCP", "tcpRoutes": [{"backends": [relayed]}]}],
                },
            ]
        }
        gateway = stack.enter_context(GatewayProcess(config, workers=1))
        yield Running(port, tcp_port, proxies, plain, secure, gateway)


def test_requests_go_through_the_proxy_that_resolves_the_name(running: Running) -> None:
    target = f"inside.test:{running.plain.port}"
    for number in range(3):
        body = b"x" * 100_000 * number
        got = running.get("open", method="POST", body=body)
        assert got == (200, f"{target} /open {len(body)}")
    # One connection, kept.
    (head,) = running.proxies["open"].asked
    assert head == f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n"


@pytest.mark.parametrize("way", ["tls", "locked", "default", "secure", "twice", "chained"])
def test_tls_inside_around_and_both_credentials_and_proxies_behind_proxies(
    running: Running, way: str
) -> None:
    for _ in range(2):
        status, text = running.get(way)
        assert status == 200, text
        assert text.startswith("inside.test:")
    if way == "locked":
        (head,) = running.proxies["locked"].asked
        assert f"proxy-authorization: {KEY}\r\n" in head
        assert all(seen.get("proxy-authorization") is None for seen in running.plain.seen)


FAULTS = {
    "keyless": "answered 407",
    "refusing": "answered 403",
    "garbled": "malformed response head",
    "ahead": "the proxy sent octets before TLS began",
    "silent": "timed out after 0.2s, through a proxy",
}


@pytest.mark.parametrize("way", FAULTS)
def test_proxies_that_do_not_let_through(running: Running, way: str) -> None:
    status, text = running.get(way)
    assert status == 503
    assert text.startswith("upstream call failed: connect inside.test:")
    assert FAULTS[way] in text
    assert KEY not in running.gateway.log()


def test_octets_that_are_no_http(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.tcp_port), timeout=20) as client:
        client.sendall(b"GET /raw HTTP/1.1\r\nhost: raw\r\nconnection: close\r\n\r\n")
        data = b""
        while part := client.recv(65536):
            data += part
    assert data.endswith(b"raw /raw 0")
