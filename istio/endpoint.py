"""Where a service of the control plane is, how it proves itself, and how we prove ourselves to it.

Source: spec istio 3.1 and 3.5.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import urlsplit

import grpc
import grpc.aio

from istio.errors import IstioError
from istio.tasks import drop

SYSTEM: Final = "SYSTEM"
"""As `roots`: what the machine trusts."""
_MAX_FILE_BYTES: Final = 1024 * 1024
_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Each channel for itself: the wait after a failed connection is ours to choose.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)

Stamp = tuple[tuple[int, int, int] | None, ...]


@final
@dataclass(frozen=True, slots=True)
class Endpoint:
    """`address`: `https://host:port`, or `http://host:port` for plaintext.

    Raises: IstioError when it is neither.
    """

    address: str
    roots: str | None = None
    """PEM file, PEM text or SYSTEM (default) of what its certificate must chain to."""
    token_file: str | None = None
    """Of the bearer token, read again for each use; over plaintext too, if `address` says so."""
    server_name: str | None = None
    """What its certificate is for. Default: the host of the address."""
    cluster_id: str = ""
    """Sent as `clusterid` unless empty."""
    headers: tuple[tuple[str, str], ...] = ()
    """Further metadata, names in lower case."""

    def __post_init__(self) -> None:
        _split(self.address)

    @property
    def is_plaintext(self) -> bool:
        """Whether there is no TLS."""
        return _split(self.address)[1]

    def metadata(self) -> list[tuple[str, str]]:
        """Of one call. Raises: IstioError when there is no token where one should be."""
        result: list[tuple[str, str]] = []
        if self.token_file is not None:
            token = _read(self.token_file, "token").decode("utf-8", "replace").strip()
            if not token or not token.isascii() or not token.isprintable():
                raise IstioError(f"the token file {self.token_file} holds no token")
            result.append(("authorization", f"Bearer {token}"))
        if self.cluster_id:
            result.append(("clusterid", self.cluster_id))
        return [*result, *self.headers]

    def stamp(self) -> Stamp:
        """Another value when the roots' file changed: then a channel is to be made again."""
        if self.is_plaintext or not _is_file(self.roots):
            return ()
        try:
            found = os.stat(str(self.roots))
        except OSError:
            return (None,)
        return ((found.st_mtime_ns, found.st_size, found.st_ino),)

    def channel(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
        """A new channel, not connected yet. Raises: IstioError when the roots cannot be read."""
        target, is_plaintext = _split(self.address)
        every = [*_KEEPALIVE, *options]
        if is_plaintext:
            return grpc.aio.insecure_channel(target, options=every)
        if self.server_name is not None:
            every.append(("grpc.ssl_target_name_override", self.server_name))
        credentials = grpc.ssl_channel_credentials(_roots(self.roots))
        return grpc.aio.secure_channel(target, credentials, options=every)


def _split(address: str) -> tuple[str, bool]:
    """gRPC's target, and whether it is plaintext."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise IstioError(f"`{address}` is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/"):
        raise IstioError(f"`{address}` is no address such as https://istiod.istio-system.svc:15012")
    if parts.username is not None or parts.query or parts.fragment:
        raise IstioError("an address has a host and a port, and nothing else")
    name = f"[{host}]" if ":" in host else host
    is_plaintext = parts.scheme == "http"
    return f"dns:///{name}:{port or (80 if is_plaintext else 443)}", is_plaintext


def _is_file(roots: str | None) -> bool:
    return roots is not None and roots != SYSTEM and "-----BEGIN" not in roots


def _roots(roots: str | None) -> bytes | None:
    """PEM texts; None has gRPC use its own list."""
    if roots is None or roots == SYSTEM:
        return _system_roots()
    pem = _read(roots, "roots") if _is_file(roots) else roots.encode()
    # gRPC says of bad roots only that a handshake failed, and takes its own for empty ones.
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        where = f"{roots} holds" if _is_file(roots) else "the roots hold"
        raise IstioError(f"{where} no PEM certificate") from error
    return pem


def _system_roots() -> bytes | None:
    paths = ssl.get_default_verify_paths()
    known = (paths.cafile, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
    for path in known:
        with suppress(OSError):
            if path is not None:
                return Path(path).read_bytes()
    return None


def _read(path: str, what: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise IstioError(f"cannot read the {what} file {path}: {error.strerror}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise IstioError(f"the {what} file {path} is larger than {_MAX_FILE_BYTES} bytes")
    return content


async def wait_connected(
    channel: grpc.aio.Channel, call: Any, seconds: float, address: str
) -> None:
    """Return when the channel stands, or the call failed already. Raises: IstioError."""
    ready = asyncio.ensure_future(channel.channel_ready())
    ended = asyncio.ensure_future(call.code())
    try:
        await asyncio.wait((ready, ended), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done() and not ended.done():
            raise IstioError(
                f"connect {address} timed out; a NetworkPolicy may block it, or its TLS hangs"
            )
    finally:
        await drop(ready, ended)


def explained(code: grpc.StatusCode, details: str | None, address: str) -> str:
    """What a failed call tells the operator."""
    hints = {
        grpc.StatusCode.UNAUTHENTICATED: "; the token is not accepted",
        grpc.StatusCode.PERMISSION_DENIED: "; the identity of the token may not do this",
    }
    text = (details or "no details")[:512]
    return f"{address} answered {code.name}: {text}{hints.get(code, '')}"
