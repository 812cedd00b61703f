"""The sidecar's own sockets: marked, so that nobody redirects them to us again, and listening.

Source: spec istio 1.10; socket(7) (SO_MARK, SO_REUSEPORT); ip(7) (IP_TRANSPARENT).
"""

from __future__ import annotations

import errno
import socket
from typing import Final, final

from hbone.aio import Prepare
from istio.errors import IstioError

PACKET_MARK: Final = 1337
"""0x539, as Istio's redirect rules have it."""

_BACKLOG: Final = 4096
_KEEPALIVE_SECONDS: Final = 180
_KEEPALIVE_PROBES: Final = 9
_SOL_IP: Final = 0
_IP_TRANSPARENT: Final = 19
_SOL_IPV6: Final = 41
_IPV6_TRANSPARENT: Final = 75


@final
class CaptureError(IstioError):
    """The sidecar cannot be set up as it is configured, by `path`: the operator's fault."""

    def __init__(self, key: str, reason: str) -> None:
        self.path = f"config.istio.sidecar.{key}" if key else "config.istio.sidecar"
        self.reason = reason
        super().__init__(f"{self.path}: {reason}")


def outgoing(mark: int, *, is_transparent: bool = False) -> Prepare:
    """Prepares sockets before they connect: mark (0: none), keepalive, no delay.

    `is_transparent`: they may be bound to addresses of others.
    """

    def prepare(sock: socket.socket) -> None:
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if is_transparent:
            _let_be_transparent(sock)
        keep_alive(sock)

    return prepare


def keep_alive(sock: socket.socket) -> None:
    """Find out about peers that are gone: nothing else ends a relayed connection that is silent."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)


def check_mark(mark: int) -> None:
    """Whether sockets can be marked. Raises: CaptureError, which says what to do instead."""
    if not mark:
        return
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        except OSError as error:
            raise CaptureError(
                "packetMark",
                f"cannot mark packets with {mark}: {error.strerror}; give the container "
                "CAP_NET_ADMIN, or set 0 where the redirect rules pass over the sidecar's user",
            ) from error


def check_transparent() -> None:
    """Whether sockets can have addresses of others. Raises: CaptureError."""
    with socket.socket() as sock:
        try:
            _let_be_transparent(sock)
        except OSError as error:
            raise CaptureError(
                "preserveSource",
                f"cannot use the addresses of clients: {error.strerror}; it needs CAP_NET_ADMIN",
            ) from error


def _let_be_transparent(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(_SOL_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(_SOL_IP, _IP_TRANSPARENT, 1)


def listening(host: str, port: int) -> socket.socket:
    """A listening socket that workers share. Raises: CaptureError, which names the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own: no address is seen in two forms.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        in_use = error.errno == errno.EADDRINUSE
        why = "in use by another process" if in_use else error.strerror
        raise CaptureError("", f"port {port}: {why}") from error
    return sock
