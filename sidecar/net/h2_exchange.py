"""One exchange of H2Client: its stream, its request's fields, and how its failure is told.

Source: RFC 9113 section 8.3.1.
"""

from __future__ import annotations

import asyncio
from typing import Final, final

from h2.errors import ErrorCodes

from sidecar.errors import UpstreamError
from sidecar.http.h2_fields import MessageError, ResponseHead, outgoing
from sidecar.http.headers import Field, Headers
from sidecar.http.message import Body, Request
from sidecar.net.h2_stream import Stream

Head = tuple[str, str, str, str, Headers]
"""(method, scheme, authority, target, headers); Host and hop-by-hop fields are left out."""

_TRAILERS_WANTED: Final = (b"te", b"trailers")


def call_failed(why: str, *, retryable: bool = False, sent: bool = True) -> UpstreamError:
    """The upstream took the call and did not answer it."""
    return UpstreamError(
        503, "UpstreamFailure", f"upstream call failed: {why}", retryable=retryable, sent=sent
    )


@final
class ClientStream(Stream):
    """An exchange under way. `head` is given the response's head, or the error instead of it."""

    __slots__ = ("has_no_body", "head", "informational", "is_sent", "request", "upload")

    def __init__(
        self, stream_id: int, now: float, request: Request, head: asyncio.Future[ResponseHead]
    ) -> None:
        super().__init__(stream_id, now)
        self.request = request
        self.head = head
        self.informational = 0
        self.has_no_body = False
        """The response has none, whatever its Content-Length says."""
        self.upload: Body | None = None
        """The request's body while a task sends it."""
        self.is_sent = False
        """The request went out whole."""


def request_fields(head: Head, request: Request, body: Body) -> list[Field]:
    """The fields of a request, pseudo fields first, checked. Raises UpstreamError, nothing sent."""
    method, scheme, authority, target, headers = head
    fields: list[Field] = [(b":method", method.encode("latin-1"))]
    if method != "CONNECT":
        fields.append((b":scheme", scheme.encode("latin-1")))
    fields.append((b":authority", authority.encode("latin-1")))
    if method != "CONNECT":
        fields.append((b":path", target.encode("latin-1")))
    try:
        for _, value in fields:
            if not value or b" " in value:
                raise MessageError("an empty or illegal pseudo-header field")
        outgoing([(b"pseudo", value) for _, value in fields])
        fields.extend(field for field in outgoing(headers) if field[0] != b"content-length")
    except (MessageError, UnicodeEncodeError) as error:
        raise UpstreamError(
            500, "Internal", "invalid http: a rewritten request is malformed", sent=False
        ) from error
    length = body.length
    if length or (length == 0 and method in ("POST", "PUT", "PATCH")):
        fields.append((b"content-length", b"%d" % length))
    if request.wants_trailers:
        fields.append(_TRAILERS_WANTED)
    return fields


def code_name(code: int) -> str:
    """An error code as RFC 9113 calls it."""
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"code {code}"
