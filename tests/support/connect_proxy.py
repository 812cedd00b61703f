"""An HTTP proxy that takes CONNECT and nothing else, in threads."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self


class ConnectProxy:
    """Connects names of `hosts` (and addresses) for who shows `credential`; `asked` are its heads.

    `hosts`: name to address, or `name:port` to `address:port`.

    `answer`: sent to every CONNECT instead, and the connection is closed; "" to say nothing.
    """

    def __init__(
        self,
        hosts: Mapping[str, str] | None = None,
        *,
        credential: str = "",
        answer: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = hosts or {}
        self._credential = credential
        self._answer = answer
        self._tls = tls
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.asked: list[str] = []
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(20)
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._open.append(client)
            self._start(self._serve, client)

    def _start(self, run: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
                self._open.append(client)
            head = b""
            while b"\r\n\r\n" not in head:
                part = client.recv(4096)
                if not part:
                    return
                head += part
            text = head.decode()
            self.asked.append(text)
            if self._answer == "":
                client.recv(1)
            elif self._answer is not None:
                client.sendall(self._answer.encode())
                client.close()
            else:
                self._connect(client, text)

    def _connect(self, client: socket.socket, head: str) -> None:
        if self._credential and f"proxy-authorization: {self._credential}" not in head:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            client.close()
            return
        method, target, _ = head.split("\r\n", 1)[0].split(" ")
        assert method == "CONNECT"
        host, _, port = self._hosts.get(target, target).rpartition(":")
        far = socket.create_connection((self._hosts.get(host, host.strip("[]")), int(port)))
        self._open.append(far)
        client.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n")
        self._start(_copy, far, client)
        _copy(client, far)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
