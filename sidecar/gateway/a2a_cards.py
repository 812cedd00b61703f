"""Fetches an agent's card and gives it to the client rewritten, with validators of its own.

Source: spec/mcp_a2a.md sections 3.1 (gaps 1 to 4) and 3.2; A2A 1.0 section 8.6 (caching);
RFC 9110 sections 8.8.3 and 13.1.2.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, final

from sidecar.a2a import card, errors
from sidecar.a2a.calls import document_of
from sidecar.a2a.card import BadCard, Public
from sidecar.a2a.framing import BadFrame, unframed
from sidecar.a2a.outcome import of_document
from sidecar.errors import BodyTooLarge, RequestError
from sidecar.gateway.a2a_refusal import refusal
from sidecar.http import grpc
from sidecar.http.coding import CodingError, codings_of, decoded
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response, read_up_to
from sidecar.policies.a2a import STATE, Call, Card
from sidecar.policies.rewriting import split
from sidecar.routing import canonical

Send = Callable[[], Awaitable[Response]]

_CONDITIONS: Final = (
    *(b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since"),
    *(b"if-range", b"range", b"accept-encoding"),
)
"""They are about the agent's octets, which the client never sees."""
_OF_OCTETS: Final = (
    *(b"content-length", b"content-encoding", b"content-md5", b"content-digest", b"digest"),
    *(b"repr-digest", b"etag", b"last-modified", b"accept-ranges"),
)
_PORTS: Final = {"http": 80, "https": 443}
_REASON: Final = "UpstreamFailure"


@final
class Cards:
    """Of one backend."""

    __slots__ = ("_config", "_sign")

    def __init__(self, config: Card) -> None:
        self._config = config
        self._sign = None if config.signing is None else config.signing.signer()

    async def serve(self, request: Request, call: Call, send: Send) -> Response:
        """Ask the agent by `send`, and rewrite what it gives. Raises: SidecarError."""
        public = self._public(request)
        known = request.headers.get_all(b"if-none-match")
        headers = request.headers.copy()
        headers.remove_any(_CONDITIONS)
        headers.append((b"accept-encoding", b"identity"))
        if call.binding == "GRPC":
            headers.remove_any((b"grpc-accept-encoding",))
            headers.append((b"grpc-accept-encoding", b"identity"))
        request.headers = headers
        verb = request.method
        if verb == "HEAD":
            # The length and the validator are those of the card as we give it.
            request.method = "GET"
        try:
            response = await send()
        finally:
            request.method = verb
        if response.status != 200:  # nothing else carries a card
            return response
        try:
            raw = await self._read(response)
            body, tag = self._made(call, raw, response, public)
        except (BadCard, BadFrame) as error:
            response.body.close()
            text = f"the agent's card cannot be served: {error}"
            return refusal(call.binding, call.details.identity, errors.BAD_AGENT, text, _REASON)
        self._finish(request, call, response, body)
        if call.binding == "HTTP+JSON":
            self._validate(response, tag, known)
        return response

    async def _read(self, response: Response) -> bytes:
        """Raises: BadCard, UpstreamError."""
        limit = self._config.max_bytes
        body = response.body
        raw, rest = await read_up_to(body, limit)
        if rest is not None:
            raise BadCard(f"it is larger than {limit} bytes")
        try:
            return decoded(raw, codings_of(response.headers.get(b"content-encoding")), limit)
        except (CodingError, BodyTooLarge) as error:
            raise BadCard(str(error)) from error

    def _finish(self, request: Request, call: Call, response: Response, body: bytes) -> None:
        trailers = response.body.trailers
        response.headers.remove_any(_OF_OCTETS)
        response.body = FixedBody(body, trailers)
        state = request.state.get(STATE)
        if isinstance(state, dict) and call.binding != "GRPC":
            state.update(of_document(call.binding, response.status, document_of(body)))

    def _validate(self, response: Response, tag: bytes, known: list[bytes]) -> None:
        headers = response.headers
        headers.append((b"etag", tag))
        if not headers.has(b"cache-control"):
            headers.append((b"cache-control", self._config.cache_control.encode()))
        if self._config.public_url is None:
            headers.append((b"vary", self._varies()))
        if known and card.is_known(known, tag):
            response.status = 304
            headers.remove_any((b"content-type",))
            response.body = FixedBody()
            response.body.length = None

    def _made(
        self, call: Call, raw: bytes, response: Response, public: Public
    ) -> tuple[bytes, bytes]:
        """The card, in the form of the binding, and its validator. Raises: BadCard, BadFrame."""
        if call.binding == "JSONRPC":
            return card.answer(raw, public, self._sign), b""
        if call.binding == "HTTP+JSON":
            return card.document(raw, public, self._sign)
        if not raw:
            # The call failed: its status is in the head or the trailers.
            return raw, b""
        coding = response.headers.get(b"grpc-encoding")
        message = unframed(raw, coding, self._config.max_bytes)
        response.headers.remove_any((b"grpc-encoding",))
        return grpc.frame(card.message(message, call.head.era, public)), b""

    # --- how clients reach us -------------------------------------------------------------------

    def _varies(self) -> bytes:
        names = b"x-forwarded-proto"
        return names + b", x-forwarded-host" if self._config.trust_forwarded_host else names

    def _public(self, request: Request) -> Public:
        """Raises: RequestError 400."""
        config = self._config
        base = config.public_url
        if base is None:
            base = f"{_scheme(request)}://{self._authority(request)}"
        scheme, _, rest = base.partition("://")
        host, port = split(rest.partition("/")[0])
        target = config.grpc_authority or f"{host}:{port or _PORTS[scheme]}"
        outer, inner = card.prefixes(request.received_path, request.path)
        return Public(base, target, outer, inner)

    def _authority(self, request: Request) -> str:
        authority = request.received_authority
        if self._config.trust_forwarded_host:
            given = _first(request.headers, b"x-forwarded-host")
            authority = canonical.authority(given) if given else authority
        if not authority:
            raise RequestError(400, "InvalidRequest", "the request names no host")
        return authority


def _first(headers: Headers, name: bytes) -> str:
    value = headers.get(name) or b""
    return value.partition(b",")[0].strip().decode("latin-1")


def _scheme(request: Request) -> str:
    """As the outermost proxy saw it, which the reference takes from this field too."""
    given = _first(request.headers, b"x-forwarded-proto").lower()
    return given if given in _PORTS else request.scheme
