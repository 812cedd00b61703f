"""The taxonomy of what goes wrong: the operator's fault, the client's, the peer's; else our bug.

Source: house style, section Errors. Errors become responses in `sidecar.gateway.respond` alone.
"""

from __future__ import annotations


class SidecarError(Exception):
    """Root of every error this package raises on purpose."""


class ConfigError(SidecarError):
    """Configuration that cannot be honoured.

    `path` names the place with dots and indexes, as `binds[0].listeners[1].tls.cert`; it is empty
    when the whole document is meant.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


class RequestError(SidecarError):
    """A request that is refused. `status` is HTTP's; `code` a stable metric label, the `reason`.

    `message` becomes the response body of a plain HTTP client, so it holds no secret.
    `headers` are added to the response. `close` asks for the connection to end after the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers
        self.close = close


class UpstreamError(SidecarError):
    """A peer behind the gateway failed us.

    `status` is what the client gets unless a retry helps. `retryable`: no byte of a response has
    been seen and the request may be tried again. `sent`: some of it may have been acted on.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retryable = retryable
        self.sent = sent


class BodyTooLarge(SidecarError):
    """A body passed the limit under which someone wanted to hold it whole."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"body is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class ClientDisconnected(SidecarError):
    """The client went away; nobody is left to answer."""
