"""An HTTP/2 upstream on python-h2, in a thread: tells which version a call came with."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events


class H2Upstream:
    """Answers every request with 200, its body, `x-upstream: h2`, and a trailer."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.requests: list[dict[str, str]] = []
        self.resets: list[int] = []
        self.port: int = self._listening.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self._open.append(sock)
                self._start(self._serve, sock)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(raw.close)
            sock: socket.socket = raw
            if self._tls is not None:
                sock = stack.enter_context(self._tls.wrap_socket(raw, server_side=True))
                self._open.append(sock)
            connection = h2.connection.H2Connection(
                h2.config.H2Configuration(client_side=False, header_encoding="latin-1")
            )
            connection.initiate_connection()
            sock.sendall(connection.data_to_send())
            bodies: dict[int, bytearray] = {}
            while data := sock.recv(65536):
                for event in connection.receive_data(data):
                    self._handle(connection, event, bodies)
                sock.sendall(connection.data_to_send())

    def _handle(
        self,
        connection: h2.connection.H2Connection,
        event: h2.events.Event,
        bodies: dict[int, bytearray],
    ) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.requests.append({str(k): str(v) for k, v in event.headers})
            bodies[event.stream_id] = bytearray()
        elif isinstance(event, h2.events.DataReceived):
            bodies[event.stream_id] += event.data
            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets.append(event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream, body = event.stream_id, bytes(bodies.pop(event.stream_id))
            connection.send_headers(stream, [(":status", "200"), ("x-upstream", "h2")])
            connection.send_data(stream, body[:16384])
            connection.send_headers(stream, [("x-trailer", "t")], end_stream=True)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for sock in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(10)
