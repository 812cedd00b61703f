"""Bodies on the way of a model call: read whole within bounds, or decoded as they stream.

Source: spec/llm.md sections 0 (step 2, error status map) and 2.16.
"""

from __future__ import annotations

from sidecar.errors import BodyTooLarge, RequestError, UpstreamError
from sidecar.http.decoded import plain_body as decoded_body
from sidecar.http.decoded import plain_request
from sidecar.http.message import Body, FixedBody, Request, Response, read_up_to

CODING = b"content-encoding"


async def read_request(request: Request, limit_bytes: int) -> bytes:
    """The request's body, whole and without its coding; it can be read again from the request.

    Raises: RequestError 400 (damaged), 413, 415; ClientDisconnected.
    """
    body = request.body
    if type(body) is FixedBody and (body.length or 0) <= limit_bytes:
        raw = body.unread
    else:
        raw, rest = await read_up_to(body, limit_bytes)
        if rest is not None:
            raise _too_large()
        request.body = FixedBody(raw, body.trailers)
    # Fast path: clients seldom compress what they ask.
    if not request.headers.has(CODING):
        return raw
    try:
        return plain_request(request, raw, limit_bytes)
    except BodyTooLarge as error:
        raise _too_large() from error


def request_at_hand(request: Request, limit_bytes: int) -> bytes | None:
    """The same when it takes neither waiting nor decoding, else None."""
    body = request.body
    if type(body) is not FixedBody or (body.length or 0) > limit_bytes:
        return None
    return None if request.headers.has(CODING) else body.unread


def _too_large() -> RequestError:
    return RequestError(413, "InvalidRequest", "request body too large", close=True)


async def read_answer(response: Response, limit_bytes: int) -> bytes:
    """The answer's body, whole and without its coding. Raises: UpstreamError 502."""
    body = plain_body(response)
    whole, rest = await read_up_to(body, limit_bytes)
    if rest is not None:
        rest.close()
        raise UpstreamError(502, "UpstreamFailure", "the provider's answer is too large")
    return whole


def plain_body(response: Response) -> Body:
    """The answer's body without its coding, which leaves the headers. Raises: UpstreamError 502."""
    return decoded_body(response, "the provider's answer")
