"""Bodies without their content coding, which is taken off of responses as they stream. No I/O.

Source: RFC 9110 section 8.4; hardening.md case 48.
"""

from __future__ import annotations

from typing import final

from sidecar.errors import BodyTooLarge, RequestError, UpstreamError
from sidecar.http.coding import CodingError, Decoder, codings_of, decoded
from sidecar.http.message import Body, Request, Response
from sidecar.http.wrapped import WrappedBody

_CODING = b"content-encoding"


def plain_request(request: Request, raw: bytes, limit_bytes: int) -> bytes:
    """The whole body `raw` of a request without its coding.

    Raises: RequestError 400 (damaged), 415; BodyTooLarge.
    """
    try:
        codings = codings_of(request.headers.get(_CODING))
    except CodingError as error:
        raise RequestError(415, "InvalidRequest", f"unsupported {error}") from error
    try:
        return decoded(raw, codings, limit_bytes)
    except CodingError as error:
        raise RequestError(400, "InvalidRequest", f"request body: {error}") from error


def plain_body(response: Response, what: str) -> Body:
    """The answer's body without its coding, which leaves the headers; `what` stands in errors.

    Raises: UpstreamError 502.
    """
    coding = response.headers.get(_CODING)
    # Fast path: nobody asked for a coding.
    if coding is None:
        return response.body
    try:
        codings = codings_of(coding)
    except CodingError as error:
        response.body.close()
        raise UpstreamError(502, "UpstreamFailure", f"{what}: {error}") from error
    response.headers.remove_any((_CODING, b"content-length"))
    return DecodedBody(response.body, Decoder(codings), what) if codings else response.body


@final
class DecodedBody(WrappedBody):
    """A body whose coding is taken off piece by piece. See Body. `what` stands in errors."""

    __slots__ = ("_decoder", "_ended", "_what")

    def __init__(self, source: Body, decoder: Decoder, what: str) -> None:
        self._source = source
        self._decoder = decoder
        self._what = what
        self._ended = False
        self.length = None

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
            text = f"{self._what}: {error}"
            raise UpstreamError(502, "UpstreamFailure", text) from error
        return b""

    def close(self) -> None:
        """See Body."""
        self._ended = True
        self._source.close()
