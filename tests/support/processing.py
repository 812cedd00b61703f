"""The policy `extProc` over one exchange, its processor played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Body, FixedBody, Request, Response
from sidecar.policies._pb import ext_proc_pb2 as pb
from sidecar.policies.order import make
from tests.support.callouts import Service
from tests.support.clock import HeldClock
from tests.support.ext_proc import echo
from tests.support.messages import request, services

DOWN = UpstreamError(503, "UpstreamFailure", "connection reset")
Sent = pb.ProcessingRequest
Messages = AsyncIterator[Any]
Script = Callable[[Messages], AsyncIterator[Any]]


async def passing(messages: Messages) -> AsyncIterator[Any]:
    async for message in messages:
        yield echo(message)


class Processor(Service):
    """A processor that says what a script says."""

    def __init__(self, script: Script = passing, seconds: float = 5.0) -> None:
        super().__init__()
        self.step_seconds = seconds

        async def encoded(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async def decoded() -> Messages:
                async for message in messages:
                    yield Sent.FromString(message)

            async for said in script(decoded()):
                yield said.SerializeToString()

        self.script = encoded

    @property
    def kinds(self) -> list[str]:
        """What the one stream was sent."""
        (stream,) = self.streams
        return [str(Sent.FromString(one).WhichOneof("request")) for one in stream.sent]

    async def wait_sent(self, kind: str) -> None:
        """Until a message of that kind was sent, and the sender has gone on."""
        await self.streams[0].wait_sent(lambda one: Sent.FromString(one).HasField(kind))
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def sent(self) -> list[Any]:
        (stream,) = self.streams
        return [Sent.FromString(one) for one in stream.sent]


class Exchange:
    """A policy over one request and its response. Time passes when the test says."""

    def __init__(
        self,
        processor: Processor,
        options: dict[str, Any],
        *,
        limit_bytes: int = 100_000,
        **more: Any,
    ) -> None:
        payload = {"host": "a:1", "processingOptions": options, **more}
        self.clock = HeldClock()
        around = replace(services(limit_bytes, clock=self.clock), callouts=processor)
        self.policy: Any = make("extProc", payload, around)

    async def ask(self, made: Request) -> Response | None:
        answer = await self.policy.on_request(made)
        assert answer is None or isinstance(answer, Response)
        return answer

    async def answer(self, made: Request, got: Response) -> Response:
        await self.policy.on_response(made, got)
        return got

    @staticmethod
    def end(made: Request) -> None:
        endings, made.endings = made.endings, ()
        for one in endings:
            one(made, None)


class Coming:
    """A body whose pieces come when the test says."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.length = None
        self.trailers: Headers | None = None
        self.waits = asyncio.Event()
        self.taken = 0
        self.is_closed = False
        self._queue: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        for piece in pieces:
            self.come(piece)

    def come(self, piece: bytes | Exception) -> None:
        self._queue.put_nowait(piece)

    def read_nowait(self) -> bytes | None:
        try:
            return self._given(self._queue.get_nowait())
        except asyncio.QueueEmpty:
            return None

    async def read(self) -> bytes:
        self.waits.set()
        return self._given(await self._queue.get())

    def _given(self, piece: bytes | Exception) -> bytes:
        if isinstance(piece, Exception):
            raise piece
        if not piece:
            self.come(b"")
        self.taken += len(piece)
        return piece

    def close(self) -> None:
        self.is_closed = True


async def read(body: Body) -> bytes:
    data = b""
    while piece := await body.read():
        data += piece
    return data


def post(body: Any) -> Request:
    made = request("POST", "/", {"content-length": "3"})
    made.body = FixedBody(body) if isinstance(body, bytes) else body
    return made


def saying(*said: Any) -> Script:
    async def script(messages: Messages) -> AsyncIterator[Any]:
        await anext(messages)
        for one in said:
            yield one
        async for _ in messages:
            continue

    return script
