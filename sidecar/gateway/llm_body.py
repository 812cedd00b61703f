"""Bodies on the way of a model call: read whole within bounds, or decoded as they stream.

Source: spec/llm.md sections 0 (step 2, error status map) and 2.16.
"""

from __future__ import annotations

from typing import final

from sidecar.errors import BodyTooLarge, RequestError, UpstreamError
from sidecar.http.coding import CodingError, Decoder, codings_of, decoded
from sidecar.http.headers import Headers
from sidecar.http.message import Body, FixedBody, Request, Response, read_up_to

CODING = b"content-encoding"


async def read_request(request: Request, limit_bytes: int) -> bytes:
    """The request's body, whole and without its coding; it can be read again from the request.

    Raises: RequestError 400 (damaged), 413, 415; ClientDisconnected.
    """
    body = request.body
    if type(body) is FixedBody and (body.length or 0) <= limit_bytes:
        raw = body.peek()
    else:
        raw, rest = await read_up_to(body, limit_bytes)
        if rest is not None:
            raise _too_large()
        request.body = FixedBody(raw, body.trailers)
    coding = request.headers.get(CODING)
    # Fast path: clients seldom compress what they ask.
    if coding is None:
        return raw
    try:
        codings = codings_of(coding)
    except CodingError as error:
        raise RequestError(415, "InvalidRequest", f"unsupported {error}") from error
    try:
        return decoded(raw, codings, limit_bytes)
    except CodingError as error:
        raise RequestError(400, "InvalidRequest", f"request body: {error}") from error
    except BodyTooLarge as error:
        raise _too_large() from error


def request_at_hand(request: Request, limit_bytes: int) -> bytes | None:
    """The same when it takes neither waiting nor decoding, else None."""
    body = request.body
    if type(body) is not FixedBody or (body.length or 0) > limit_bytes:
        return None
    return None if request.headers.has(CODING) else body.peek()


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
    coding = response.headers.get(CODING)
    if coding is None:
        return response.body
    try:
        codings = codings_of(coding)
    except CodingError as error:
        response.body.close()
        raise UpstreamError(502, "UpstreamFailure", f"the provider's answer: {error}") from error
    response.headers.remove_any((CODING, b"content-length"))
    return DecodedBody(response.body, Decoder(codings)) if codings else response.body


@final
class DecodedBody:
    """A body whose coding is taken off piece by piece. See Body."""

    __slots__ = ("_decoder", "_ended", "_source", "length")

    def __init__(self, source: Body, decoder: Decoder) -> None:
        self._source = source
        self._decoder = decoder
        self._ended = False
        self.length: int | None = None

    @property
    def trailers(self) -> Headers | None:
        """Those of the source."""
        return self._source.trailers

    @trailers.setter
    def trailers(self, value: Headers | None) -> None:
        self._source.trailers = value

    def read_nowait(self) -> bytes | None:
        """See Body."""
        while not self._ended:
            data = self._source.read_nowait()
            if data is None:
                return None
            plain = self._plain(data)
            if plain:
                return plain
        return b""

    async def read(self) -> bytes:
        """See Body."""
        while not self._ended:
            plain = self._plain(await self._source.read())
            if plain:
                return plain
        return b""

    def _plain(self, data: bytes) -> bytes:
        try:
            if data:
                return self._decoder.feed(data)
            self._ended = True
            self._decoder.finish()
        except (CodingError, BodyTooLarge) as error:
            self._ended = True
            self._source.close()
            text = f"the provider's answer: {error}"
            raise UpstreamError(502, "UpstreamFailure", text) from error
        return b""

    def close(self) -> None:
        """See Body."""
        self._ended = True
        self._source.close()
