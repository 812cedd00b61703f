"""Services that policies call, in the test's own process: every call is answered by a function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self

from sidecar.http.message import FixedBody, Request, Response

Metadata = tuple[tuple[bytes, bytes], ...]
Script = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
"""The other end of a stream: messages in, messages out. It may raise."""


class Service:
    """A Callouts whose one destination is itself. See policies.callouts.

    `unary` and `http` give the answer, or raise.
    """

    label = "service.test:81"

    def __init__(
        self,
        unary: Callable[[bytes], bytes] | None = None,
        http: Callable[[Request], Response] | None = None,
    ) -> None:
        self._unary = unary
        self._http = http
        self.script: Script | None = None
        self.step_seconds = 0.0
        self.streams: list[ScriptedStream] = []
        self.messages: list[bytes] = []
        self.requests: list[tuple[Request, bytes, str]] = []
        """Requests, their bodies, and the authority that was demanded."""
        self.references: list[tuple[Mapping[str, Any], Mapping[str, Any], str]] = []

    def resolve(
        self, reference: Mapping[str, Any], policies: Mapping[str, Any], subtype: str
    ) -> Self:
        self.references.append((reference, policies, subtype))
        return self

    async def send(
        self, request: Request, timeout_seconds: float, limit_bytes: int = 0, *, authority: str = ""
    ) -> Response:
        assert self._http is not None, "nobody speaks HTTP here"
        assert timeout_seconds > 0
        body = request.body
        assert isinstance(body, FixedBody)
        self.requests.append((request, body.unread, authority))
        return self._http(request)

    async def unary(
        self,
        path: str,
        message: bytes,
        timeout_seconds: float,
        of: Request,
        metadata: Metadata = (),
    ) -> bytes:
        assert self._unary is not None, "nobody speaks gRPC here"
        assert path.startswith("/envoy.service.")
        assert timeout_seconds > 0
        self.messages.append(message)
        return self._unary(message)

    def unary_later(self, path: str, message: bytes, timeout_seconds: float, of: Request) -> bool:
        raise AssertionError("nobody is asked in the background")

    def stream(self, path: str, of: Request, metadata: Metadata = ()) -> Any:
        assert self.script is not None, "nobody opens a stream"
        made = ScriptedStream(self.script, metadata)
        self.streams.append(made)
        return made

    def seconds(self, default: float) -> float:
        return self.step_seconds or default


class ScriptedStream:
    """See policies.callouts.Stream."""

    def __init__(self, script: Script, metadata: Metadata) -> None:
        self.metadata = metadata
        self.sent: list[bytes] = []
        self.ended = ""
        """How the policy ended it: `finished` or `closed`."""
        self._script = script
        self._in: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._out: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._more = asyncio.Event()

    async def wait_sent(self, is_it: Callable[[bytes], bool]) -> None:
        """Until a message of that kind was sent."""
        while not any(map(is_it, self.sent)):
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), 20)

    def send(self, message: bytes) -> None:
        self.sent.append(message)
        self._more.set()
        self._in.put_nowait(message)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def wait_room(self) -> None:
        await asyncio.sleep(0)

    async def _run(self) -> None:
        try:
            async for message in self._script(self._messages()):
                self._out.put_nowait(message)
        except Exception as error:
            self._out.put_nowait(error)
        else:
            self._out.put_nowait(None)

    async def _messages(self) -> AsyncIterator[bytes]:
        while (message := await self._in.get()) is not None:
            yield message

    async def receive(self) -> bytes | None:
        found = await self._out.get()
        if found is None or isinstance(found, Exception):
            self._out.put_nowait(found)
        if isinstance(found, Exception):
            raise found
        return found

    def finish(self) -> None:
        self.ended = self.ended or "finished"
        self._in.put_nowait(None)

    def close(self) -> None:
        self.ended = self.ended or "closed"
        if self._task is not None:
            self._task.cancel()
