"""One exchange with a processor: a stream whose messages and answers both directions share.

Source: envoy.service.ext_proc.v3.ExternalProcessor; spec/config.md section 3.9.

States of the stream: not begun → open → over. Over is either well (the processor ended with OK:
it wants to see no more, and what follows goes on as it is) or a failure.

Invariants
1. An answer is taken only by the direction it names, and only if it was asked for.
2. Of the tasks that wait for answers one reads the stream; the others wait for what it finds.
3. What has been read for a direction that does not take it is bounded: nobody reads on meanwhile.
4. Whoever waits for an answer waits no longer than `seconds`, counted from when the processor was
   last sent something for that direction; time in which a client or a backend is slow to send its
   body, or to take it, does not count.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, final

from google.protobuf.message import DecodeError

from sidecar.errors import SidecarError, UpstreamError
from sidecar.http.message import Request
from sidecar.policies._pb import ext_proc_pb2 as pb
from sidecar.policies.callouts import Callout, Stream
from sidecar.policies.mutation import BadAnswerError, learn, plain
from sidecar.policies.processing import PATH
from sidecar.telemetry.clock import Clock

REQUEST: Final = "request"
RESPONSE: Final = "response"
TIMEOUT_SECONDS: Final = 10.0
"""How long an answer may take where `policies.http.requestTimeout` says nothing."""
_OVERRIDE_MAX_SECONDS: Final = 60.0
_BOX_BYTES: Final = 256 * 1024
_TOLD_MAX: Final = 256 * 1024
"""Bound of the metadata of all answers of an exchange."""
_VARIABLE: Final = "extproc"

Answer = pb.ProcessingResponse


def failure(why: str) -> UpstreamError:
    """A processor that does not do its part."""
    return UpstreamError(502, "UpstreamFailure", why)


@final
class _Box:
    """Answers to one direction that nobody has taken yet."""

    __slots__ = (
        "answers",
        "error",
        "is_dropped",
        "is_filling",
        "owed",
        "sent_ns",
        "size",
        "wanted_ns",
    )

    def __init__(self) -> None:
        self.answers: deque[tuple[str, Answer, int]] = deque()
        self.size = 0
        self.owed: set[str] = set()
        """Kinds of answers that were asked for."""
        self.is_dropped = False
        """Nobody takes what comes."""
        self.is_filling = False
        """Somebody waits for a body that is to be sent."""
        self.error: SidecarError | None = None
        """What went wrong with the body that is sent."""
        self.sent_ns = 0
        self.wanted_ns = 0
        """When somebody began to wait for the next one."""

    def waited(self, now_ns: int) -> float:
        """Seconds for which the processor has owed an answer to somebody who waits."""
        return (now_ns - max(self.sent_ns, self.wanted_ns)) * 1e-9


@final
class Session:
    """See the module. `end` must be called once; it is an Ending of the request."""

    __slots__ = (
        "_boxes",
        "_callout",
        "_clock",
        "_extra_seconds",
        "_failure",
        "_has_answered",
        "_immediate",
        "_is_over",
        "_is_reading",
        "_metadata",
        "_reading",
        "_request",
        "_seconds",
        "_stream",
        "_tasks",
        "_told_bytes",
        "_waiters",
    )

    def __init__(
        self,
        callout: Callout,
        request: Request,
        metadata: tuple[tuple[bytes, bytes], ...],
        clock: Clock,
    ) -> None:
        self._callout = callout
        self._request = request
        self._metadata = metadata
        self._clock = clock
        self._seconds = callout.seconds(TIMEOUT_SECONDS)
        self._extra_seconds = 0.0
        self._stream: Stream | None = None
        self._boxes = {REQUEST: _Box(), RESPONSE: _Box()}
        self._immediate: pb.Immediate | None = None
        self._failure: UpstreamError | BadAnswerError | None = None
        self._has_answered = False
        self._is_over = False
        self._is_reading = False
        self._reading: asyncio.Timeout | None = None
        """What bounds the wait of the one who reads."""
        self._waiters: list[asyncio.Future[None]] = []
        self._told_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_over(self) -> bool:
        """Whether the processor is asked no more."""
        return self._is_over

    @property
    def has_begun(self) -> bool:
        """Whether anything was sent."""
        return self._stream is not None

    # --- sending --------------------------------------------------------------------------

    async def send(
        self, side: str, message: pb.ProcessingRequest, *, owes: str, is_patient: bool = False
    ) -> None:
        """Send a message of a direction. `owes`: the kind of answer it asks for; "" for none.

        `is_patient`: somebody else waits for the answers, and may be slow to take them. Raises:
        UpstreamError when the processor takes nothing for too long. That the stream is over is told
        by `answer`.
        """
        if self._is_over:
            return
        stream = self._stream
        if stream is None:
            stream = self._callout.stream(PATH, self._request, self._metadata)
            self._stream = stream
            self._wake()
        box = self._boxes[side]
        if owes:
            box.owed.add(owes)
        stream.send(bytes(message.SerializeToString()))
        try:
            async with asyncio.timeout(None if is_patient else self._seconds):
                await stream.wait_room()
        except TimeoutError:
            raise self._fail(failure("the processor does not read")) from None
        box.sent_ns = self._clock.monotonic_ns()

    def fill(self, side: str, *, is_waiting: bool) -> None:
        """Whether a body of this direction is being waited for, so that no answer can be due."""
        box = self._boxes[side]
        box.is_filling = is_waiting
        box.sent_ns = self._clock.monotonic_ns()

    # --- answers --------------------------------------------------------------------------

    async def answer(self, side: str) -> tuple[str, Answer] | None:
        """`(kind, answer)`, the next of a direction; None when the processor wants to see no more.

        Raises: ImmediateError, UpstreamError, BadAnswerError; whatever reading the body raised.
        """
        box = self._boxes[side]
        if not box.answers:
            box.wanted_ns = self._clock.monotonic_ns()
        while not box.answers:
            if self._immediate is not None:
                raise ImmediateError(self._immediate)
            if box.error is not None:
                raise box.error
            if self._failure is not None:
                raise self._failure
            if self._is_over:
                return None
            await self._wait(box)
        kind, found, size = box.answers.popleft()
        box.size -= size
        self._extra_seconds = 0.0
        self._wake()
        return kind, found

    async def _wait(self, box: _Box) -> None:
        """Until something happened that `answer` is to look at."""
        limit = self._extra_seconds or self._seconds
        passed = box.waited(self._clock.monotonic_ns())
        try:
            async with asyncio.timeout(max(limit - passed, 0.001)) as bound:
                if self._stream is not None and not self._is_held_up:
                    self._reading = bound
                    await self._read()
                else:
                    await self._woken()
        except TimeoutError:
            now = self._clock.monotonic_ns()
            limit = self._extra_seconds or self._seconds
            if box.is_filling:
                box.sent_ns = now
            elif box.waited(now) >= limit:
                self._fail(UpstreamError(504, "Timeout", f"no answer within {limit:g} s"))

    @property
    def _is_held_up(self) -> bool:
        return self._is_reading or any(one.size > _BOX_BYTES for one in self._boxes.values())

    async def _woken(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _interrupt(self) -> None:
        """Let everybody look again, also who waits for the stream."""
        if self._reading is not None and not self._reading.expired():
            self._reading.reschedule(asyncio.get_running_loop().time())
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _read(self) -> None:
        """Take one message off the stream (invariant 2)."""
        assert self._stream is not None, "nothing was sent"
        self._is_reading = True
        try:
            data = await self._stream.receive()
            if data is None:
                self._ended()
            else:
                self._take(data)
        except (UpstreamError, BadAnswerError) as error:
            self._fail(error)
        finally:
            self._is_reading = False
            self._reading = None
            self._wake()

    def _ended(self) -> None:
        if not self._has_answered:
            raise failure("the processor ended the stream without an answer")
        self._is_over = True

    def _take(self, data: bytes) -> None:
        """Sort an answer in (invariant 1). Raises: UpstreamError, BadAnswerError."""
        try:
            answer = Answer.FromString(data)
        except DecodeError as error:
            raise failure("the processor's answer is no ProcessingResponse") from error
        self._told_bytes += answer.dynamic_metadata.ByteSize()
        if self._told_bytes > _TOLD_MAX:
            raise BadAnswerError(f"it tells more than {_TOLD_MAX} bytes of metadata")
        learn(self._request.state, _VARIABLE, plain(answer.dynamic_metadata))
        kind = answer.WhichOneof("response")
        if kind is None:
            self._prolong(answer)
            return
        self._has_answered = True
        if kind == "immediate_response":
            self._immediate = answer.immediate_response
            self._is_over = True
            return
        side = REQUEST if kind.startswith(REQUEST) else RESPONSE
        box = self._boxes[side]
        if kind not in box.owed:
            raise failure(f"the processor answered `{kind}`, which was not asked")
        if not kind.endswith("_body"):
            box.owed.discard(kind)
        if not box.is_dropped:
            box.answers.append((kind, answer, len(data)))
            box.size += len(data)

    def _prolong(self, answer: Answer) -> None:
        """A processor may ask for more time, once an answer."""
        seconds = answer.override_message_timeout.ToNanoseconds() * 1e-9
        if not answer.HasField("override_message_timeout") or seconds <= 0:
            raise failure("the processor's answer says nothing")
        if not self._extra_seconds:
            self._extra_seconds = min(seconds, _OVERRIDE_MAX_SECONDS)
            now = self._clock.monotonic_ns()
            for box in self._boxes.values():
                box.sent_ns = now

    # --- the end --------------------------------------------------------------------------

    def abandon(self, side: str, error: SidecarError) -> None:
        """The body of a direction cannot be sent to its end."""
        self._boxes[side].error = error
        self._interrupt()

    def drop(self, side: str) -> None:
        """Nobody takes answers of a direction any more."""
        box = self._boxes[side]
        box.is_dropped = True
        box.answers.clear()
        box.size = 0
        self._wake()

    def _fail(self, error: UpstreamError | BadAnswerError) -> UpstreamError | BadAnswerError:
        if self._failure is None:
            self._failure = error
        self._is_over = True
        for task in self._tasks:
            task.cancel()
        self._interrupt()
        return error

    def give_up(self) -> None:
        """The processor is asked no more, and its failure is no longer told."""
        self._failure = None
        self._is_over = True
        self._close()

    def run(self, make: Callable[[], Any]) -> asyncio.Task[None]:
        """Run a coroutine as long as the session lasts; it tells its failures itself."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(make())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def refuse(self, error: UpstreamError | BadAnswerError) -> None:
        """Cut the stream; whoever asks from now on is told why."""
        self._fail(error)
        self._close()

    def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._stream is not None:
            self._stream.close()

    def end(self, request: Request, response: object) -> None:
        """See sidecar.http.message.Ending."""
        for task in self._tasks:
            task.cancel()
        if self._stream is None:
            return
        if self._failure is not None or self._immediate is not None:
            self._stream.close()
        else:
            self._stream.finish()
        self._is_over = True


@final
class ImmediateError(Exception):
    """The processor answers the client itself."""

    def __init__(self, answer: pb.Immediate) -> None:
        super().__init__("answered by the processor")
        self.answer = answer
