"""A provider's answer becomes the client's: buffered or streamed, success or error.

Source: spec/llm.md sections 0 (error status map), 2.1 (error bodies) and 2.16.
"""

from __future__ import annotations

import struct
from typing import Final, final

import orjson

from sidecar.cel.engine import Engine
from sidecar.errors import SidecarError, UpstreamError
from sidecar.gateway.llm_body import CODING, plain_body, read_answer
from sidecar.gateway.llm_call import Prepared
from sidecar.gateway.llm_facts import Record
from sidecar.gateway.llm_guard_stream import GuardedStream
from sidecar.gateway.llm_guards import Guards
from sidecar.gateway.llm_stream import ConvertedStream, PassedStream, Usable, first_chunk
from sidecar.gateway.llm_watched import bounded
from sidecar.http.message import FixedBody, Request, Response
from sidecar.http.sse import MAX_EVENT_BYTES
from sidecar.llm.chat.base import Json
from sidecar.llm.chat.formats import CHAT
from sidecar.llm.chat.framing import EventDecoder, Framing, framing_of
from sidecar.llm.chat.passthrough import StreamTap
from sidecar.llm.chat.produced import Produced, text_chars
from sidecar.llm.convert.base import StreamEvent
from sidecar.llm.convert.cloud_error import google_error
from sidecar.llm.convert.embeddings_to_bedrock import TOKENS_HEADER
from sidecar.llm.convert.provider_error import (
    as_anthropic,
    as_openai,
    of_body,
    of_json,
)
from sidecar.llm.guard.stream_texts import STREAM_TEXTS
from sidecar.llm.providers.copilot import Copilot
from sidecar.llm.shape import ShapeError, nests_too_deeply, parse_object, to_json

_JSON: Final = b"application/json"
_EVENTS: Final = b"text/event-stream"
_STREAMS: Final = (_EVENTS, b"application/vnd.amazon.eventstream")
_GOOGLE: Final = frozenset(("generateContent", "geminiCountTokens"))
_ANTHROPIC: Final = frozenset(("messages", "anthropicTokenCount"))
_ANSWERS: Final = frozenset(("choices", "content", "output", "candidates", "data", "results"))
"""One of them is in every answer that came about."""
_FAILED: Final = "the provider's answer is an error"
_PRELUDE: Final = struct.Struct(">I")
_TOKENS_HEADER: Final = TOKENS_HEADER.encode()


class StreamRefused(UpstreamError):
    """A stream that began with an error: nothing of it was sent to the client yet."""


@final
class Answers:
    """How answers are treated: bounds, and whether their content is kept for expressions."""

    __slots__ = ("_cel", "_idle", "_limit")

    def __init__(self, limit_bytes: int, idle_seconds: float, cel: Engine) -> None:
        self._limit = limit_bytes
        self._idle = idle_seconds
        self._cel = cel

    async def made(
        self,
        response: Response,
        call: Prepared,
        record: Record,
        request: Request,
        *,
        may_move: bool,
    ) -> Response:
        """The client's answer. Raises: UpstreamError; nothing was sent to the client then.

        `may_move`: another provider can be asked, so a stream that begins with an error is refused.
        """
        try:
            return await self._made(response, call, record, request, may_move=may_move)
        except ShapeError as error:
            response.body.close()
            raise _senseless(error) from error
        except BaseException:
            response.body.close()
            raise

    async def _made(
        self,
        response: Response,
        call: Prepared,
        record: Record,
        request: Request,
        *,
        may_move: bool,
    ) -> Response:
        if call.conversion is not None:
            _read_head(response, call)
        if not 200 <= response.status < 300:
            return await self._error(response, call)
        kind = response.headers.get(b"content-type") or b""
        if call.call.is_streaming and kind.lower().startswith(_STREAMS):
            made = await self._stream(response, call, record, kind, may_move=may_move)
            guards = _guards_of(call)
            if guards is not None and guards.guards_streams:
                record.state.hides_completion = True
                body = GuardedStream(made.body, call.client, guards, request)
                body.response = made
                made.body = body
            return made
        return await self._whole(response, call, record, request)

    # --- buffered -------------------------------------------------------------------------

    async def _whole(
        self, response: Response, call: Prepared, record: Record, request: Request
    ) -> Response:
        bounded(response, self._idle)
        raw = await read_answer(response, self._limit)
        made, is_mended = self._converted(raw, call, record)
        guards = _guards_of(call)
        judged: Response | bool = False
        if guards is not None:
            record.state.hides_completion = True
            judged = await guards.on_answer(call.client, made, request)
            record.state.hides_completion = bool(judged)
            if isinstance(judged, Response):
                return judged
        return _finished(response, call, raw, made, is_changed=bool(judged or is_mended))

    def at_once(self, response: Response, call: Prepared, record: Record) -> Response | None:
        """The client's answer, when it takes no waiting: a whole success that nobody guards.

        Raises: UpstreamError, as `made`.
        """
        body = response.body
        if (
            type(body) is not FixedBody
            or not 200 <= response.status < 300
            or call.call.is_streaming
            or (body.length or 0) > self._limit
            or response.headers.has(CODING)
            or call.member.guards is not None
        ):
            return None
        if call.conversion is not None:
            _read_head(response, call)
        raw = body.unread
        try:
            made, is_mended = self._converted(raw, call, record)
            # Fast path: the provider's answer, as it came.
            if call.conversion is None and not is_mended:
                return response
            return _finished(response, call, raw, made, is_changed=is_mended)
        except ShapeError as error:
            raise _senseless(error) from error

    def _converted(self, raw: bytes, call: Prepared, record: Record) -> tuple[Json, bool]:
        """The answer as the client's format has it, noted; and whether the provider's was mended.

        Raises: UpstreamError, ShapeError.
        """
        body = parse_object(raw)
        if body is None:
            text = "the provider's answer is not a JSON object"
            raise UpstreamError(502, "UpstreamFailure", text)
        # Some say 200 and then that they failed.
        if body.get("error") and _ANSWERS.isdisjoint(body):
            raise UpstreamError(502, "UpstreamFailure", of_json(body).message or _FAILED)
        # What is passed on as it came, and read for its counts alone, is nobody's to write again.
        is_plain = call.conversion is None and call.member.guards is None
        reads_all = not is_plain or self._cel.reads_completion
        if reads_all and nests_too_deeply(raw, body):
            raise UpstreamError(502, "UpstreamFailure", "the provider's answer nests too deeply")
        # A provider's own form of a format: only the client's says usage where it is looked for.
        is_dialect = call.conversion is not None and call.upstream is call.client
        if not is_dialect:
            self._note(record, call, body)
        made = body
        if call.conversion is not None:
            made = call.conversion.response(body, call.context)
        if is_dialect:
            self._note(record, call, made)
        provider = call.member.provider
        return made, isinstance(provider, Copilot) and provider.repair(made, call.call)

    def _note(self, record: Record, call: Prepared, body: Json) -> None:
        usage = call.upstream.usage(body, with_content=self._cel.reads_completion)
        is_said = usage.input_tokens is not None and usage.output_tokens is not None
        if is_said or call.client.name not in CHAT:
            record.note(usage)
        else:
            record.note_chat(usage, text_chars(body))
        record.price()

    async def _error(self, response: Response, call: Prepared) -> Response:
        bounded(response, self._idle)
        raw = await read_answer(response, self._limit)
        made = _error_body(response.status, raw, call)
        if made is None:
            _replace(response, raw)
        else:
            _replace(response, orjson.dumps(made), _JSON)
        return response

    # --- streamed -------------------------------------------------------------------------

    async def _stream(
        self, response: Response, call: Prepared, record: Record, kind: bytes, *, may_move: bool
    ) -> Response:
        framing = framing_of(kind)
        source = plain_body(response)
        is_whole = _has_event if framing == "sse" else _has_frame
        first = await first_chunk(source, is_whole, MAX_EVENT_BYTES, self._idle)
        if may_move:
            _refuse_error(first, framing)
        body: Usable
        if call.conversion is None:
            tap = StreamTap(call.upstream, framing, with_content=self._cel.reads_completion)
            record.follow(lambda: tap.usage, tap.produced)
            body = PassedStream(source, first, self._idle, call.client, record, tap)
        else:
            reader = call.upstream.reader(with_content=self._cel.reads_completion)
            produced = Produced()
            record.follow(lambda: reader.usage, produced)
            body = ConvertedStream(
                source,
                first,
                self._idle,
                call.client,
                record,
                EventDecoder(framing),
                reader,
                call.conversion.stream(call.context),
                produced,
            )
            response.headers.set(b"content-type", _EVENTS)
            _tell_dropped(response, call)
        response.headers.remove_all(b"content-length")
        body.response = response
        response.body = body
        return response


def _guards_of(call: Prepared) -> Guards | None:
    return call.member.guards if call.client.name in STREAM_TEXTS else None


def _senseless(error: ShapeError) -> UpstreamError:
    return UpstreamError(502, "UpstreamFailure", f"the provider's answer: {error}")


def _read_head(response: Response, call: Prepared) -> None:
    """What conversions read of an answer's head."""
    request_id = response.headers.get(b"x-amzn-requestid") or b""
    call.context.request_id = request_id.decode("latin-1")
    counted = response.headers.get(_TOKENS_HEADER)
    if counted is not None:
        call.context.answer_headers[TOKENS_HEADER] = counted.decode("latin-1")


def _finished(
    response: Response, call: Prepared, raw: bytes, made: Json, *, is_changed: bool
) -> Response:
    """The client's answer, whole. `raw`: the provider's octets; `made`: what became of them."""
    if call.conversion is None:
        _replace(response, to_json(made, "body") if is_changed else raw)
        return response
    _replace(response, to_json(made, "body"), _JSON)
    _tell_dropped(response, call)
    return response


def _replace(response: Response, body: bytes, kind: bytes | None = None) -> None:
    response.headers.remove_all(b"content-length")
    if kind is not None:
        response.headers.set(b"content-type", kind)
    response.body = FixedBody(body)


def _tell_dropped(response: Response, call: Prepared) -> None:
    dropped = call.context.dropped
    if dropped:
        names = ", ".join(dropped).encode("ascii", "replace")[:1024]
        response.headers.set(b"x-agentgateway-dropped", names)


def _error_body(status: int, raw: bytes, call: Prepared) -> Json | None:
    """The provider's error as the client's format has it; None when it is that already."""
    if call.conversion is not None:
        return call.conversion.error(status, raw, call.context)
    if parse_object(raw) is not None:
        model, name = call.call.model, call.client.name
        family = call.member.provider.error_family(call.call.format, model)
        if family == "google" and name not in _GOOGLE:
            shape = as_anthropic if name in _ANTHROPIC else as_openai
            return shape(status, google_error(raw))
        return None
    # Google's list of one error, HTML of some proxy on the way, or nothing at all: a client would
    # choke on it.
    text = of_body(raw).message or f"the provider answered {status} without an error object"
    return call.client.error(status, text)


def _has_event(data: bytes) -> bool:
    return b"\n\n" in data or b"\r\n\r\n" in data or b"\r\r" in data


def _has_frame(data: bytes) -> bool:
    return len(data) >= _PRELUDE.size and len(data) >= _PRELUDE.unpack_from(data)[0]


def _refuse_error(first: bytes, framing: Framing) -> None:
    """Raises: StreamRefused when there is an error in the beginning of a stream."""
    try:
        events = EventDecoder(framing).feed(first)
    except SidecarError as error:
        text = "the provider's stream began with what makes no sense"
        raise StreamRefused(502, "UpstreamFailure", text) from error
    # Nothing of what came so far was sent: whatever stands before an error can still be left out.
    if any(map(_is_error, events)):
        raise StreamRefused(502, "UpstreamFailure", "the provider's stream began with an error")


def _is_error(event: StreamEvent) -> bool:
    data = event.data
    if data is None:
        return False
    return (
        event.name == "error"
        or event.name.endswith("Exception")
        or data.get("type") in ("error", "response.failed")
        or (isinstance(data.get("error"), dict) and "choices" not in data)
    )
