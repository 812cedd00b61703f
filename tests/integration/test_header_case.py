"""`http1HeaderCase: preserve`, from octets to octets. Source: spec/config.md section 1.10."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.gateway import GatewayProcess, free_ports

ANSWER = (
    b"HTTP/1.1 200 OK\r\nX-Request-ID: 7\r\nContent-Type: text/plain\r\nx-low: 1\r\n"
    b"Content-Length: 2\r\n\r\nok"
)


class RawUpstream:
    """Answers every head with the same octets, and keeps what came."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.heads: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                data = b""
                while part := connection.recv(65536):
                    data += part
                    while b"\r\n\r\n" in data:
                        head, _, data = data.partition(b"\r\n\r\n")
                        self.heads.append(head)
                        connection.sendall(ANSWER)

    def close(self) -> None:
        self._server.close()


def exchange(port: int, *lines: bytes) -> list[bytes]:
    """The lines of the answer's head."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"\r\n".join((*lines, b"connection: close", b"", b"")))
        data = b""
        while part := client.recv(65536):
            data += part
    assert data.endswith(b"\r\n\r\nok")
    return data.partition(b"\r\n\r\n")[0].split(b"\r\n")


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[int, RawUpstream]]:
    upstream = RawUpstream()
    (port,) = free_ports(1)
    added = {"request": {"set": {"X-Added": "'1'", "x-changed": "'2'"}}}
    route = {"policies": {"transformations": added}, "backends": [{"host": upstream.address}]}
    plain = {
        "matches": [{"path": {"pathPrefix": "/plain"}}],
        "backends": [{"host": upstream.address}],
    }
    config = {
        "binds": [{"port": port, "listeners": [{"routes": [route, plain]}]}],
        "frontendPolicies": {"http": {"http1HeaderCase": "preserve"}},
    }
    with GatewayProcess(config, workers=1):
        yield port, upstream
    upstream.close()


@pytest.mark.parametrize("path", [b"/", b"/plain"])
def test_names_go_on_as_they_were_spelt(running: tuple[int, RawUpstream], path: bytes) -> None:
    port, upstream = running
    for _ in range(3):
        got = exchange(
            port,
            b"GET %b HTTP/1.1" % path,
            b"Host: a.test",
            b"X-API-Key: k",
            b"SOAPAction: x",
            b"x-lower: l",
            b"X-Changed: 1",
        )
        lines = upstream.heads.pop().split(b"\r\n")
        assert lines[0] == b"GET %b HTTP/1.1" % path
        assert lines[1] == b"Host: a.test"
        assert {b"X-API-Key: k", b"SOAPAction: x", b"x-lower: l"} <= set(lines)
        if path == b"/":
            # What the gateway adds is lower-case; what it changes keeps the client's spelling.
            assert {b"x-added: 1", b"X-Changed: 2"} <= set(lines)
        assert {b"X-Request-ID: 7", b"Content-Type: text/plain", b"x-low: 1"} <= set(got)
        # Framing is the gateway's own.
        assert b"content-length: 2" in got
