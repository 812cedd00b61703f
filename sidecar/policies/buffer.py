"""Holds whole bodies before they go on.

Source: spec/config.md section 3.4; hardening case 47.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field

from sidecar.errors import RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response, read_up_to
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.schema import PolicyConfig


class Body(PolicyConfig):
    """Bound of one direction."""

    max_bytes: int | None = Field(default=None, ge=0)
    """Largest body held, bytes. Default: `frontendPolicies.http.maxBufferSize` (2 MiB)."""
    failure_mode: Literal["failClosed", "failOpen"] = "failClosed"
    """A larger body: refused (`failClosed`, 413 or 502), or streamed on (`failOpen`)."""


class Config(PolicyConfig):
    """Which bodies are held. Upgraded connections never are."""

    request: Body | None = None
    """The request's. Default: streamed."""
    response: Body | None = None
    """The response's. Default: streamed."""


@final
class Buffer:
    """Reads bodies into FixedBody, each direction only when it is configured."""

    __slots__ = (
        "on_request",
        "on_response",
        "request_is_closed",
        "request_limit_bytes",
        "response_is_closed",
        "response_limit_bytes",
    )

    def __init__(self, config: Config, services: Services) -> None:
        self.request_limit_bytes = _limit(config.request, services)
        self.response_limit_bytes = _limit(config.response, services)
        self.request_is_closed = _is_closed(config.request)
        self.response_is_closed = _is_closed(config.response)
        self.on_request = None if config.request is None else self._hold_request
        """Raises: RequestError 413 (failClosed), and what reading the body raises."""
        self.on_response = None if config.response is None else self._hold_response
        """Turns the response into an empty 502 (failClosed). Raises: what reading raises."""

    async def _hold_request(self, request: Request) -> None:
        if request.upgrade:
            return
        body = request.body
        whole, rest = await read_up_to(body, self.request_limit_bytes)
        if rest is None:
            request.body = FixedBody(whole, body.trailers)
        elif self.request_is_closed:
            rest.close()
            # The empty message makes an empty body (section 11).
            raise RequestError(413, "Internal", "")
        else:
            request.body = rest

    async def _hold_response(self, request: Request, response: Response) -> None:
        if response.tunnel is not None:
            return
        body = response.body
        whole, rest = await read_up_to(body, self.response_limit_bytes)
        if rest is None:
            response.body = FixedBody(whole, body.trailers)
        elif self.response_is_closed:
            rest.close()
            response.status = 502
            response.headers = Headers()
            response.body = FixedBody()
            response.reason = "UpstreamFailure"
            response.error = f"response body is larger than {self.response_limit_bytes} bytes"
        else:
            response.body = rest


def _limit(body: Body | None, services: Services) -> int:
    if body is None or body.max_bytes is None:
        return services.max_buffer_bytes
    return body.max_bytes


def _is_closed(body: Body | None) -> bool:
    return body is None or body.failure_mode == "failClosed"


KIND = PolicyKind("buffer", Config, Buffer)
