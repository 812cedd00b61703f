"""The steps of one request and its response with a processor.

Source: spec/config.md sections 3.9 and 11; envoy.service.ext_proc.v3.

Order of a direction: headers → body → trailers. A head waits for its answer before it goes on. In
duplex the body is sent meanwhile, unless an answer may still change its mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from sidecar.errors import (
    BodyTooLarge,
    ClientDisconnected,
    RequestError,
    SidecarError,
    UpstreamError,
)
from sidecar.http.headers import Headers
from sidecar.http.message import Body, FixedBody, PrefixedBody, Request, Response
from sidecar.policies._pb import ext_proc_pb2 as pb
from sidecar.policies.mutation import BadAnswerError
from sidecar.policies.processing import (
    BUFFERED,
    BUFFERED_PARTIAL,
    DUPLEX,
    REASON,
    STREAMED,
    immediate,
    overridden,
    request_edit,
    request_fields,
    response_edit,
    response_fields,
    trailers_of,
)
from sidecar.policies.processing_bodies import (
    DuplexBody,
    Flow,
    SteppedBody,
    TrailedBody,
    replaced,
)
from sidecar.policies.processing_session import REQUEST, RESPONSE, ImmediateError, failure
from sidecar.policies.processor import Processor

_BODILESS: Final = frozenset((204, 205, 304))


@final
class Exchange:
    """One request and its response with a processor."""

    __slots__ = (
        "_flows",
        "_is_adorned",
        "_processor",
        "_request",
        "_response",
        "_session",
        "_sides",
        "end",
    )

    def __init__(self, processor: Processor, request: Request) -> None:
        self._processor = processor
        self._session = session = processor.session(request)
        self._request = request
        self._response: Response | None = None
        self._sides = dict(zip((REQUEST, RESPONSE), processor.sides, strict=True))
        self._is_adorned: set[str] = set()
        self._flows: dict[str, Flow] = {}
        """Bodies that are sent in the background."""
        self.end = session.end

    async def on_request(self) -> Response | None:
        """Raises: RequestError; what reading the body raises."""
        request = self._request
        whole = request.body.copy() if type(request.body) is FixedBody else None
        try:
            await self._steps(REQUEST, request)
        except ImmediateError as found:
            request.body.close()
            return self._immediate(found)
        except BadAnswerError as error:
            raise self._refused(error) from error
        except UpstreamError as error:
            request.body = await self._unprocessed(error, REQUEST, request.body, whole)
        return None

    async def on_response(self, response: Response) -> None:
        """Raises: SidecarError, which takes the response's place."""
        self._response = response
        whole = response.body.copy() if type(response.body) is FixedBody else None
        try:
            if self._session.is_over:
                # A failure of which nobody has learnt, since the request was not read to its end.
                await self._session.answer(RESPONSE)
            else:
                await self._steps(RESPONSE, response)
        except ImmediateError as found:
            response.body.close()
            _take_over(response, self._immediate(found))
        except BadAnswerError as error:
            raise self._refused(error) from error
        except UpstreamError as error:
            response.body = await self._unprocessed(error, RESPONSE, response.body, whole)

    # --- steps of both --------------------------------------------------------------------

    async def _steps(self, side: str, message: Request | Response) -> None:
        """Headers, then the body."""
        is_empty = self._is_empty(message)
        if self._sides[side].headers:
            await self._send(side, self._head(message, is_empty=is_empty), owes=f"{side}_headers")
            is_duplex = self._sides[side].body == DUPLEX
            if is_duplex and not is_empty and not self._processor.allows_override:
                self._pump(side, message.body)
            if await self._head_answered(side, message):
                return
        if is_empty:
            return
        if side not in self._flows and self._session.is_over:
            # The processor wants to see no more.
            return
        made = await self._body(side, message.body)
        if made is not message.body:
            message.body = made
            if type(made) is not TrailedBody:
                message.headers.remove_all(b"content-length")

    def _is_empty(self, message: Request | Response) -> bool:
        if isinstance(message, Request):
            is_tunnel = bool(message.upgrade) or message.method == "CONNECT"
            return is_tunnel or _has_none(message.body)
        if self._request.method == "HEAD" or message.status in _BODILESS:
            return True
        return message.tunnel is not None or _has_none(message.body)

    @staticmethod
    def _head(message: Request | Response, *, is_empty: bool) -> pb.ProcessingRequest:
        if isinstance(message, Request):
            told = pb.HttpHeaders(headers=request_fields(message), end_of_stream=is_empty)
            return pb.ProcessingRequest(request_headers=told)
        told = pb.HttpHeaders(headers=response_fields(message), end_of_stream=is_empty)
        return pb.ProcessingRequest(response_headers=told)

    async def _send(self, side: str, message: pb.ProcessingRequest, *, owes: str) -> None:
        self._prepare(side, message)
        await self._session.send(side, message, owes=owes)

    def _prepare(self, side: str, message: pb.ProcessingRequest) -> None:
        """Put what goes with the first message of a direction, and of the stream, into it."""
        if side not in self._is_adorned:
            self._is_adorned.add(side)
            self._processor.adorn(message, side, self._request, self._response)
        if not self._session.has_begun:
            modes = (self._sides[REQUEST].body, self._sides[RESPONSE].body)
            told = message.protocol_config
            told.request_body_mode, told.response_body_mode = map(pb.BodyMode.ValueType, modes)
            waits = self._processor.allows_override
            told.send_body_without_waiting_for_header_response = not waits

    async def _head_answered(self, side: str, message: Request | Response) -> bool:
        """Take the answer to headers; whether it is the answer to all of the message."""
        found = await self._session.answer(side)
        if found is None:
            return False
        kind, answer = found
        if kind != f"{side}_headers":
            raise failure(f"the processor answered `{kind}` to headers")
        if self._processor.allows_override and answer.HasField("mode_override"):
            modes = overridden(self._sides[REQUEST], self._sides[RESPONSE], answer.mode_override)
            self._sides = dict(zip((REQUEST, RESPONSE), modes, strict=True))
        common = getattr(answer, kind).response
        self._edit(side, common)
        flow = self._flows.get(side)
        is_whole = common.status == pb.Common.CONTINUE_AND_REPLACE
        if not is_whole or not _takes_body(message, self._request):
            return False
        if flow is not None:
            await flow.stop()
        self._session.drop(side)
        message.body.close()
        message.body = FixedBody(replaced(b"", common), trailers_of(common.trailers))
        message.headers.remove_all(b"content-length")
        return True

    def _edit(self, side: str, common: pb.Common) -> None:
        """Change the head, which also the answer to a body that is held may do."""
        if side == REQUEST:
            request_edit(common.header_mutation).apply_to_request(self._request)
        elif self._response is not None:
            edit = response_edit(common.header_mutation)
            edit.apply_to_response(self._request, self._response)

    # --- bodies ---------------------------------------------------------------------------

    def _flow(self, side: str, source: Body) -> Flow:
        return Flow(
            self._session,
            side,
            source,
            lambda message: self._prepare(side, message),
            self._refusal(side),
            sends_trailers=self._sides[side].trailers,
        )

    def _pump(self, side: str, source: Body) -> Flow:
        """Send a body in the background."""
        flow = self._flows[side] = self._flow(side, source)
        flow.start()
        return flow

    async def _body(self, side: str, body: Body) -> Body:
        mode = self._sides[side].body
        if side in self._flows or mode == DUPLEX:
            flow = self._flows.get(side) or self._pump(side, body)
            return DuplexBody(flow)
        flow = self._flow(side, body)
        if mode == STREAMED:
            return SteppedBody(flow)
        if mode in (BUFFERED, BUFFERED_PARTIAL):
            return await self._held(flow, is_partial=mode == BUFFERED_PARTIAL)
        return await self._with_trailers(flow) if flow.sends_trailers else body

    @staticmethod
    async def _with_trailers(flow: Flow) -> Body:
        source = flow.source
        if type(source) is not FixedBody:
            return TrailedBody(flow)
        if source.trailers:
            source.trailers = await flow.processed_trailers(source.trailers)
        return source

    async def _held(self, flow: Flow, *, is_partial: bool) -> Body:
        """A body that is shown whole, or its beginning."""
        side, limit = flow.side, self._processor.services.max_buffer_bytes
        data, more = await _read(flow.source, limit)
        is_cut = more is not None or len(data) > limit
        if is_cut and not is_partial:
            flow.source.close()
            raise BodyTooLarge(limit) if side == REQUEST else _too_large()
        own = flow.source.trailers if more is None else None
        shown, tail = data[:limit], data[limit:]
        trailers = own if flow.sends_trailers and not is_cut else None
        kind = f"{side}_body"
        try:
            message = flow.body(shown, ends=not is_cut and not trailers)
            await self._session.send(side, message, owes=kind)
            found = await self._session.answer(side)
        except UpstreamError as error:
            # All of it is still here.
            return await self._unprocessed(error, side, flow.source, _joined(data, more, own))
        if found is None:
            return _joined(data, more, own)
        if found[0] != kind:
            raise failure(f"the processor answered `{found[0]}` to a body")
        common = getattr(found[1], kind).response
        self._edit(side, common)
        body = _joined(replaced(shown, common) + tail, more, own or trailers_of(common.trailers))
        body.length = None if more is not None else body.length
        if trailers:
            body.trailers = await flow.processed_trailers(trailers)
        return body

    # --- failures -------------------------------------------------------------------------

    def _immediate(self, found: ImmediateError) -> Response:
        try:
            return immediate(found.answer, self._request)
        except BadAnswerError as error:
            raise self._refused(error) from error

    def _refused(self, error: BadAnswerError) -> RequestError:
        """What it wants cannot be done: nothing passes, whatever the failure mode."""
        self._processor.complain("the answer of %s is refused: %s", self._label, error)
        self._session.refuse(error)
        return RequestError(500, REASON, f"ext_proc failed: {error}")

    async def _unprocessed(
        self, error: UpstreamError, side: str, body: Body, whole: Body | None
    ) -> Body:
        """The body with which a message goes on as it is, if it may. Raises: RequestError.

        `whole`: the body as it came, where all of it is at hand.
        """
        self._processor.complain("the processor at %s failed: %s", self._label, error)
        if self._processor.fails_open:
            flow = self._flows.get(side)
            found = whole if flow is None or whole is not None else await flow.stop()
            if flow is None or found is not None:
                self._session.give_up()
                return body if found is None else found
        self._session.refuse(error)
        raise RequestError(500, REASON, f"ext_proc failed: {error}") from error

    @property
    def _label(self) -> str:
        return self._processor.callout.label

    def _refusal(self, side: str) -> Callable[[Exception], SidecarError]:
        """What the reader of a body is told."""

        def told(error: Exception) -> SidecarError:
            if isinstance(error, ImmediateError) and side == REQUEST:
                return _as_error(self._immediate(error), error)
            if isinstance(error, RequestError | ClientDisconnected | BodyTooLarge):
                return error
            self._processor.complain("the processor at %s failed: %s", self._label, error)
            if isinstance(error, UpstreamError | BadAnswerError):
                self._session.refuse(error)
            if side == REQUEST:
                return RequestError(500, REASON, f"ext_proc failed: {error}")
            return UpstreamError(502, REASON, f"ext_proc failed: {error}")

        return told


def _as_error(answer: Response, found: ImmediateError) -> RequestError:
    """An answer of the processor's own, for a call that is under way."""
    if answer.headers.has(b"grpc-status"):
        # The error's own form for gRPC tells the status again.
        return RequestError(found.answer.status.code or 500, REASON, "answered by the processor")
    text = (answer.body.read_nowait() or b"").decode("utf-8", "replace")
    headers = tuple(one for one in answer.headers if one[0] != b"content-type")
    return RequestError(answer.status, REASON, text, headers=headers)


def _has_none(body: Body) -> bool:
    return body.length == 0 and not (type(body) is FixedBody and body.trailers)


def _takes_body(message: Request | Response, request: Request) -> bool:
    if isinstance(message, Request):
        return not message.upgrade and message.method != "CONNECT"
    return request.method != "HEAD" and message.status not in _BODILESS


def _take_over(response: Response, made: Response) -> None:
    """Put an answer of the processor's own in the place of the backend's."""
    response.status, response.headers, response.body = made.status, made.headers, made.body
    response.reason, response.error = made.reason, made.error
    response.tunnel = None


def _too_large() -> UpstreamError:
    return UpstreamError(502, "UpstreamFailure", "response body too large")


async def _read(body: Body, limit: int) -> tuple[bytes, Body | None]:
    """Octets up to the limit or a little more, and what follows them, if anything may."""
    if type(body) is FixedBody:
        return body.read_nowait() or b"", None
    parts: list[bytes] = []
    size = 0
    while size <= limit:
        chunk = body.read_nowait()
        if chunk is None:
            chunk = await body.read()
        if not chunk:
            return b"".join(parts), None
        parts.append(chunk)
        size += len(chunk)
    return b"".join(parts), body


def _joined(data: bytes, more: Body | None, trailers: Headers | None) -> Body:
    return FixedBody(data, trailers) if more is None else PrefixedBody(data, more)
