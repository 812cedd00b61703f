"""Bodies of responses whose content coding is taken off as they stream. No I/O of its own.

Source: RFC 9110 section 8.4; hardening.md case 48.
"""

from __future__ import annotations

from typing import final

from sidecar.errors import BodyTooLarge, UpstreamError
from sidecar.http.coding import CodingError, Decoder, codings_of
from sidecar.http.headers import Headers
from sidecar.http.message import Body, Response

_CODING = b"content-encoding"


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
class DecodedBody:
    """A body whose coding is taken off piece by piece. See Body. `what` stands in errors."""

    __slots__ = ("_decoder", "_ended", "_source", "_what", "length")

    def __init__(self, source: Body, decoder: Decoder, what: str) -> None:
        self._source = source
        self._decoder = decoder
        self._what = what
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
            text = f"{self._what}: {error}"
            raise UpstreamError(502, "UpstreamFailure", text) from error
        return b""

    def close(self) -> None:
        """See Body."""
        self._ended = True
        self._source.close()
