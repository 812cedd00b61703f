"""An HTTP/1.1 upstream in a thread that records what it is sent and answers as a test says."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass
class Seen:
    """One request as it arrived: names lower-case, in wire order."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    peer: tuple[str, int]

    def get(self, name: str) -> str | None:
        """The first value of a field."""
        return next((value for key, value in self.headers if key == name), None)

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


@dataclass
class Answer:
    """What to send; a body given as an iterable is sent in chunks, with `trailers` behind it."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | list[bytes] | Iterator[bytes] = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    drop: bool = False
    """Close the connection instead of answering."""


Script = Callable[[Seen], Answer]


def echo(seen: Seen) -> Answer:
    """200 with the body that came."""
    return Answer(200, [("content-type", "text/plain")], seen.body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _body(self) -> bytes:
        length = self.headers.get("content-length")
        if length is not None:
            return self.rfile.read(int(length))
        if self.headers.get("transfer-encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            continue
        return b"".join(parts)

    def _serve(self) -> None:
        fields = [(name.lower(), value) for name, value in self.headers.items()]
        seen = Seen(self.command, self.path, fields, self._body(), self.client_address[:2])
        self.server.upstream.record(seen)
        answer = self.server.upstream.script(seen)
        if answer.drop:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        body = answer.body
        if isinstance(body, bytes):
            if answer.status not in (204, 304):
                self.send_header("content-length", str(len(body)))
        else:
            self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(body, bytes):
            self.wfile.write(body)
            return
        for chunk in body:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.flush()
        lines = [f"{name}: {value}\r\n" for name, value in answer.trailers]
        self.wfile.write(f"0\r\n{''.join(lines)}\r\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at `seen` instead."""


class _UnixHandler(_Handler):
    disable_nagle_algorithm = False


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    upstream: Upstream

    def process_request(self, request: Any, client_address: Any) -> None:
        self.upstream.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that ends early is an everyday event here."""


class _UnixServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, _ = self.socket.accept()
        return sock, ("unix", 0)


class Upstream:
    """`with Upstream(script) as up:` listens on `up.address` until the block ends."""

    def __init__(
        self,
        script: Script = echo,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        unix: str = "",
    ) -> None:
        self.script = script
        self.connections: list[socket.socket] = []
        """Every one there was, whether open or not."""
        self._seen: list[Seen] = []
        self._changed = threading.Condition()
        if unix:
            self._server: _Server = _UnixServer(unix, _UnixHandler)  # type: ignore[arg-type]
        else:
            self._server = _Server((host, 0), _Handler)
        self._server.upstream = self
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def record(self, seen: Seen) -> None:
        with self._changed:
            self._seen.append(seen)
            self._changed.notify_all()

    @property
    def seen(self) -> list[Seen]:
        """All so far."""
        with self._changed:
            return list(self._seen)

    def take(self) -> list[Seen]:
        """All since the last call."""
        with self._changed:
            taken, self._seen = self._seen, []
            return taken

    def wait(self, count: int, seconds: float = 20.0) -> list[Seen]:
        """Take them once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._seen) >= count, seconds), self._seen
            taken, self._seen = self._seen, []
            return taken

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
