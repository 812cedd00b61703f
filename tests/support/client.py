"""One request on a connection of its own, and what came back."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Got:
    """A response, whole. Field names are lower-case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def get(self, name: str) -> str | None:
        """The first value of a field."""
        return next((value for key, value in self.headers if key == name), None)

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


def fetch(
    port: int,
    target: str = "/",
    method: str = "GET",
    *,
    host: str = "h.test",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
    seconds: float = 20.0,
) -> Got:
    """Ask 127.0.0.1. With `tls`, `host` is the server name too."""
    connection: http.client.HTTPConnection
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    else:
        connection = _Named("127.0.0.1", port, timeout=seconds, context=tls)
        connection.name = host.partition(":")[0]
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        if host:
            connection.putheader("host", host)
        for name, value in pairs:
            connection.putheader(name, value)
        names = {name.lower() for name, _ in pairs}
        if body is not None and not names & {"content-length", "transfer-encoding"}:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        fields = [(name.lower(), value) for name, value in answer.getheaders()]
        return Got(answer.status, fields, answer.read())
    finally:
        connection.close()


class _Named(http.client.HTTPSConnection):
    """Connects to an address and asks for a name."""

    name = ""
    _context: ssl.SSLContext

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self.name)
