"""WebSocket and other upgrades through the gateway, with the `websockets` client and server.

Source: spec/config.md section 10.8; RFC 6455; RFC 9110 section 7.8.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from tests.support.authority import Authority
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.octets import TcpUpstream, read_all, read_exactly
from tests.support.upstream import Upstream

PLAIN, TLS = free_ports(2)
CHAT = Subprotocol("chat.v2")


def serve_one(connection: ServerConnection) -> None:
    """Tell of the request when asked, close when asked, else echo."""
    with contextlib.suppress(ConnectionClosed):
        for message in connection:
            if message == "close":
                connection.close(4001, "as you wish")
            elif message == "request":
                assert connection.request is not None
                connection.send(f"{connection.request.path} {connection.request.headers['Host']}")
            elif message == "flood":
                for _ in range(100_000):
                    connection.send(bytes(1024))
            else:
                connection.send(message)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(
        serve_one,
        "127.0.0.1",
        0,
        subprotocols=[CHAT],
        select_subprotocol=lambda _, offered: CHAT if CHAT in offered else None,
        max_size=None,
        compression=None,
    ) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def gateway(
    server: Server, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("tls")
    pair = authority.issue(["ws.test"])
    (folder / "crt").write_text(pair.cert)
    (folder / "key").write_text(pair.key)
    tls = {"cert": str(folder / "crt"), "key": str(folder / "key")}
    backends = [{"host": f"127.0.0.1:{server.socket.getsockname()[1]}"}]

    def switch(sock: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        other = b"other" if b"/differs" in head else b"My-Proto"
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ")
        sock.sendall(other + b"\r\n\r\nhello")
        sock.sendall(sock.recv(100).upper())

    with Upstream() as plain, TcpUpstream(switch) as custom:
        routes: list[dict[str, Any]] = [
            {"backends": backends},
            {
                "matches": [{"path": {"pathPrefix": "/plain"}}],
                "backends": [{"host": plain.address}],
            },
            {
                "matches": [{"path": {"pathPrefix": "/custom"}}],
                "backends": [{"host": custom.address}],
            },
            {
                "matches": [{"path": {"pathPrefix": "/policies"}}],
                "policies": {
                    "retry": {"attempts": 2, "codes": [503]},
                    "timeout": {"requestTimeout": "5s"},
                    "transformations": {"request": {"set": {":path": "'/rewritten'"}}},
                    "responseHeaderModifier": {"set": {"x-policy": "ran"}},
                },
                "backends": backends,
            },
            {
                "matches": [{"path": {"pathPrefix": "/denied"}}],
                "policies": {"authorization": {"rules": ["false"]}},
                "backends": backends,
            },
        ]
        config = {
            "binds": [
                {"port": PLAIN, "listeners": [{"routes": routes}]},
                {"port": TLS, "listeners": [{"protocol": "HTTPS", "tls": tls, "routes": routes}]},
            ]
        }
        with GatewayProcess(config) as process:
            yield process


def open_one(path: str = "/", **more: Any) -> ClientConnection:
    opened: ClientConnection = connect(
        f"ws://127.0.0.1:{PLAIN}{path}", compression=None, max_size=None, proxy=None, **more
    )
    return opened


@pytest.mark.usefixtures("gateway")
def test_text_binary_and_ping() -> None:
    with open_one() as ws:
        ws.send("grüße")
        assert ws.recv(10) == "grüße"
        ws.send(b"\x00\xff")
        assert ws.recv(10) == b"\x00\xff"
        assert ws.ping().wait(20)


@pytest.mark.usefixtures("gateway")
def test_over_tls(authority: Authority) -> None:
    context = ssl.create_default_context(cadata=authority.root)
    raw = socket.create_connection(("127.0.0.1", TLS), 20)
    with connect("wss://ws.test/x", sock=raw, ssl=context, compression=None) as ws:
        ws.send("request")
        assert ws.recv(10) == "/x ws.test"


@pytest.mark.usefixtures("gateway")
def test_subprotocol_is_chosen_by_the_upstream() -> None:
    offered = [Subprotocol("chat.v1"), CHAT]
    with open_one(subprotocols=offered) as ws:
        assert ws.subprotocol == "chat.v2"


@pytest.mark.usefixtures("gateway")
def test_large_message() -> None:
    message = bytes(range(256)) * 4096 * 8
    with open_one() as ws:
        ws.send(message)
        assert ws.recv(30) == message


@pytest.mark.usefixtures("gateway")
def test_close_code_of_the_upstream() -> None:
    with open_one() as ws:
        ws.send("close")
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv(10)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "as you wish")


@pytest.mark.usefixtures("gateway")
def test_policies_of_a_route_hold() -> None:
    with open_one("/policies") as ws:
        assert ws.response is not None
        assert ws.response.headers["x-policy"] == "ran"
        ws.send("request")
        assert str(ws.recv(10)).startswith("/rewritten ")
    with pytest.raises(InvalidStatus) as caught:
        open_one("/denied")
    assert caught.value.response.status_code == 403


@pytest.mark.usefixtures("gateway")
def test_an_upstream_that_does_not_upgrade() -> None:
    """Its own answer is no 101, and is passed on."""
    with pytest.raises(InvalidStatus) as caught:
        open_one("/plain")
    assert caught.value.response.status_code == 200


@pytest.mark.usefixtures("gateway")
def test_another_protocol() -> None:
    with socket.create_connection(("127.0.0.1", PLAIN), 20) as sock:
        sock.sendall(
            b"GET /custom HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: my-proto\r\n\r\n"
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"upgrade: my-proto\r\n" in head.lower()
        assert read_exactly(sock, 5) == b"hello"
        sock.sendall(b"shout")
        assert read_all(sock) == b"SHOUT"


@pytest.mark.usefixtures("gateway")
def test_another_protocol_than_asked_for() -> None:
    with socket.create_connection(("127.0.0.1", PLAIN), 20) as sock:
        sock.sendall(
            b"GET /custom/differs HTTP/1.1\r\nhost: h\r\n"
            b"connection: upgrade, close\r\nupgrade: my-proto\r\n\r\n"
        )
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert answer.endswith(
        b"request upgrade failed, backend tried other but my-proto was requested"
    )


def test_a_reload_keeps_the_connection(server: Server) -> None:
    port = free_ports(1)[0]
    host = f"127.0.0.1:{server.socket.getsockname()[1]}"

    def config(name: str) -> dict[str, Any]:
        routes = [{"name": name, "backends": [{"host": host}]}]
        return {"binds": [{"port": port, "listeners": [{"routes": routes}]}]}

    with (
        GatewayProcess(config("one")) as gateway,
        connect(f"ws://127.0.0.1:{port}/", proxy=None) as ws,
    ):
        ws.send("before")
        assert ws.recv(10) == "before"
        gateway.reload(config("two"))
        ws.send("after")
        assert ws.recv(10) == "after"


def test_a_client_that_does_not_read(gateway: GatewayProcess) -> None:
    """100 MB are on their way and nobody takes them: the gateway holds only its buffers."""

    def private_kib() -> int:
        lines = [
            line
            for pid in gateway.worker_pids()
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        ]
        return sum(int(line.split()[1]) for line in lines)

    before = private_kib()
    with socket.create_connection(("127.0.0.1", PLAIN), 20) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.sendall(
            b"GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert sock.recv(12) == b"HTTP/1.1 101"
        sock.sendall(b"\x81\x85\x00\x00\x00\x00flood")
        calm = threading.Event()
        for _ in range(5):
            calm.wait(0.1)
            assert private_kib() - before < 4096
