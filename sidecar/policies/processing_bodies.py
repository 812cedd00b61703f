"""Bodies that pass through a processor while they are read: piece by piece, or both ways at once.

Source: envoy.service.ext_proc.v3.ProcessingMode.BodySendMode; spec/config.md section 3.9.

They are pulled like all bodies. In duplex a task of the session reads the source and sends it on;
what comes back is read when the next hop asks for it, so a slow reader holds the processor back,
and that the source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, final

from sidecar.errors import SidecarError
from sidecar.http.headers import Headers
from sidecar.http.message import Body, PrefixedBody
from sidecar.policies._pb import ext_proc_pb2 as pb
from sidecar.policies.mutation import BadAnswerError
from sidecar.policies.processing import trailer_fields, trailers_edit
from sidecar.policies.processing_session import REQUEST, ImmediateError, Session, failure

_PIECE_BYTES: Final = 64 * 1024
_KEPT_MAX: Final = 128 * 1024

Refusal = Callable[[Exception], SidecarError]
"""What a reader of the body is told of a failure."""


@final
class Flow:
    """A body of one direction on its way through a session.

    `prepare` completes each message. Until the first answer to the body what was sent of it is
    kept, up to a bound, for a processor that fails or leaves by then.
    """

    __slots__ = (
        "_kept",
        "_kept_bytes",
        "_task",
        "prepare",
        "refusal",
        "sends_trailers",
        "session",
        "side",
        "source",
    )

    def __init__(
        self,
        session: Session,
        side: str,
        source: Body,
        prepare: Callable[[pb.ProcessingRequest], None],
        refusal: Refusal,
        *,
        sends_trailers: bool,
    ) -> None:
        self.session = session
        self.side = side
        self.source = source
        self.prepare = prepare
        self.refusal = refusal
        self.sends_trailers = sends_trailers
        self._task: asyncio.Task[None] | None = None
        self._kept: list[bytes] | None = []
        self._kept_bytes = 0

    def body(self, data: bytes, *, ends: bool) -> pb.ProcessingRequest:
        """A piece, as a message."""
        piece = pb.HttpBody(body=data, end_of_stream=ends)
        if self.side == REQUEST:
            made = pb.ProcessingRequest(request_body=piece)
        else:
            made = pb.ProcessingRequest(response_body=piece)
        self.prepare(made)
        return made

    def trailers(self, trailers: Headers) -> pb.ProcessingRequest:
        """The trailers, as a message."""
        told = pb.HttpTrailers(trailers=trailer_fields(trailers))
        if self.side == REQUEST:
            made = pb.ProcessingRequest(request_trailers=told)
        else:
            made = pb.ProcessingRequest(response_trailers=told)
        self.prepare(made)
        return made

    async def processed_trailers(self, trailers: Headers) -> Headers:
        """Trailers after the processor has seen them. Raises as Session.answer."""
        kind = f"{self.side}_trailers"
        await self.session.send(self.side, self.trailers(trailers), owes=kind)
        found = await self.session.answer(self.side)
        if found is None:
            return trailers
        if found[0] != kind:
            raise failure(f"the processor answered `{found[0]}` to trailers")
        return changed(trailers, getattr(found[1], kind))

    # --- in the background ----------------------------------------------------------------

    def start(self) -> None:
        """Send the source to its end; what goes wrong is told to who waits for an answer."""
        self._task = self.session.run(self._pump)

    def let_go(self) -> None:
        """Keep nothing any more."""
        self._kept = None

    async def stop(self) -> Body | None:
        """Send no more. The body as it was; None when that is not known any more."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            # Until it has let go of the source, nobody else may read that.
            await asyncio.wait((self._task,))
        if self._kept is None:
            return None
        return PrefixedBody(b"".join(self._kept), self.source) if self._kept else self.source

    def _keep(self, data: bytes) -> None:
        if self._kept is not None:
            self._kept.append(data)
            self._kept_bytes += len(data)
            if self._kept_bytes > _KEPT_MAX:
                self._kept = None

    async def _pump(self) -> None:
        try:
            await self._pumped()
        except SidecarError as error:
            self.session.abandon(self.side, error)

    async def _pumped(self) -> None:
        session, side, source = self.session, self.side, self.source
        kind = f"{side}_body"
        data = source.read_nowait()
        while True:
            if data is None:
                session.fill(side, is_waiting=True)
                data = await source.read()
                session.fill(side, is_waiting=False)
            if not data:
                break
            self._keep(data)
            following = source.read_nowait()
            if following:
                self._keep(following)
                data, following = data + following, None
            ends = following == b"" and not self._has_trailers
            for piece, is_last in _pieces(data):
                message = self.body(piece, ends=ends and is_last)
                await session.send(side, message, owes=kind, is_patient=True)
            if ends:
                return
            data = source.read_nowait()
        if self._has_trailers:
            assert source.trailers is not None
            message, owes = self.trailers(source.trailers), f"{side}_trailers"
        else:
            message, owes = self.body(b"", ends=True), kind
        await session.send(side, message, owes=owes, is_patient=True)

    @property
    def _has_trailers(self) -> bool:
        return self.sends_trailers and bool(self.source.trailers)


def changed(trailers: Headers, answer: pb.TrailersAnswer) -> Headers:
    """Trailers as an answer wants them. Raises: BadAnswerError."""
    return trailers_edit(answer.header_mutation).apply_to_trailers(trailers)


def _pieces(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """A chunk in pieces that fit a message well, and which is the last."""
    last = max(len(data) - 1, 0) // _PIECE_BYTES
    for index in range(last + 1):
        yield data[index * _PIECE_BYTES : (index + 1) * _PIECE_BYTES], index == last


class _Passing:
    """What all of these bodies do. Subclasses give the next piece, b"" at the end."""

    __slots__ = ("_error", "_flow", "_has_ended", "length", "trailers")

    def __init__(self, flow: Flow) -> None:
        self.length: int | None = None
        self.trailers: Headers | None = None
        self._flow = flow
        self._has_ended = False
        self._error: SidecarError | None = None

    async def _next(self) -> bytes:
        raise NotImplementedError

    def read_nowait(self) -> bytes | None:
        """See Body."""
        if self._error is not None:
            raise self._error
        return b"" if self._has_ended else None

    async def read(self) -> bytes:
        """See Body."""
        if self._error is not None:
            raise self._error
        if self._has_ended:
            return b""
        try:
            return await self._next()
        except (SidecarError, BadAnswerError, ImmediateError) as error:
            # A body that failed once gives nothing more, whoever asks.
            self._error = self._flow.refusal(error)
            raise self._error from error

    def close(self) -> None:
        """See Body."""
        self._has_ended = True
        self._flow.session.drop(self._flow.side)
        self._flow.source.close()


@final
class DuplexBody(_Passing):
    """What the processor makes of a body: pieces, whenever it likes, until it says the end.

    If it leaves before the first of them, the body passes as it came.
    """

    __slots__ = ("_rest",)

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow)
        self._rest: Body | None = None

    async def _next(self) -> bytes:
        flow = self._flow
        while True:
            if self._rest is not None:
                return await self._passed(self._rest)
            found = await flow.session.answer(flow.side)
            if found is None:
                self._rest = await flow.stop()
                if self._rest is None:
                    raise failure("the processor ended the stream within a body")
                continue
            flow.let_go()
            kind, answer = found
            if kind.endswith("_trailers"):
                trailers = flow.source.trailers or Headers()
                self.trailers = changed(trailers, getattr(answer, kind)) or None
                self._has_ended = True
                return b""
            common = getattr(answer, kind).response
            if common.body_mutation.WhichOneof("mutation") != "streamed_response":
                raise failure("the processor answered a streamed body with another one")
            streamed = common.body_mutation.streamed_response
            if streamed.end_of_stream:
                self._has_ended = True
                self.trailers = flow.source.trailers
                flow.session.drop(flow.side)
            if streamed.body or self._has_ended:
                return bytes(streamed.body)

    async def _passed(self, rest: Body) -> bytes:
        data = rest.read_nowait()
        if data is None:
            data = await rest.read()
        if not data:
            self._has_ended = True
            self.trailers = rest.trailers
        return data


@final
class SteppedBody(_Passing):
    """Each piece of a body waits for the answer to it."""

    __slots__ = ()

    async def _next(self) -> bytes:
        flow = self._flow
        while True:
            data = flow.source.read_nowait()
            if data is None:
                data = await flow.source.read()
            if flow.session.is_over:
                await self._raise_failure()
                return self._passed(data)
            trailers = flow.source.trailers if flow.sends_trailers else None
            ends = not data
            if not ends or not trailers:
                kind = f"{flow.side}_body"
                await flow.session.send(flow.side, flow.body(data, ends=ends), owes=kind)
                found = await flow.session.answer(flow.side)
                if found is None:
                    return self._passed(data)
                if found[0] != kind:
                    raise failure(f"the processor answered `{found[0]}` to a body")
                data = replaced(data, getattr(found[1], kind).response)
            if ends:
                self._has_ended = True
                own = flow.source.trailers
                self.trailers = await flow.processed_trailers(trailers) if trailers else own
                return data
            if data:
                return data

    async def _raise_failure(self) -> None:
        await self._flow.session.answer(self._flow.side)

    def _passed(self, data: bytes) -> bytes:
        if not data:
            self._has_ended = True
            self.trailers = self._flow.source.trailers
        return data


@final
class TrailedBody(_Passing):
    """A body that passes as it is, and whose trailers are processed."""

    __slots__ = ()

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow)
        self.length = flow.source.length

    def read_nowait(self) -> bytes | None:
        """See Body."""
        if self._error is not None or self._has_ended:
            return super().read_nowait()
        # The end may have to wait for the processor.
        return self._flow.source.read_nowait() or None

    async def _next(self) -> bytes:
        flow = self._flow
        data = flow.source.read_nowait()
        if data is None:
            data = await flow.source.read()
        if not data:
            trailers = flow.source.trailers
            self.trailers = await flow.processed_trailers(trailers) if trailers else trailers
            self._has_ended = True
        return data


def replaced(data: bytes, common: pb.Common) -> bytes:
    """A body, or a piece of one, as an answer wants it."""
    mutation = common.body_mutation
    kind = mutation.WhichOneof("mutation")
    if kind == "clear_body":
        return b"" if mutation.clear_body else data
    if kind == "body":
        return mutation.body
    if kind == "streamed_response":
        return mutation.streamed_response.body
    return data
