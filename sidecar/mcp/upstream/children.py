"""The MCP servers that this worker runs: which are there, how many, and when each one ends.

Source: issue 5; spec/mcp_a2a.md section 5.2 (7, 19); design section 8 (64 children).

One process serves one session, or all stateless requests of one principal. Processes outlive a
configuration as long as the target stays what it is: the table is the worker's, and `key` of a
target tells one state of its configuration from another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar, final

import orjson

from sidecar import jsonrpc
from sidecar.errors import UpstreamError
from sidecar.jsonrpc import Json, JsonRpcError
from sidecar.mcp.upstream.base import Era, Scope, is_anyones
from sidecar.mcp.upstream.dialogue import Dialogue
from sidecar.mcp.upstream.inbox import Inbox
from sidecar.mcp.upstream.process import Process, Spawner, StdioSpec
from sidecar.mcp.upstream.stderr import StderrLog

_log = logging.getLogger("sidecar.mcp.upstream")
_T = TypeVar("_T")
_BACKOFF_FIRST_SECONDS: Final = 0.5
_BACKOFF_LAST_SECONDS: Final = 30.0
_HEALTHY_SECONDS: Final = 10.0
"""A server that lived so long may be started again at once."""
_SWEEP_SECONDS: Final = 5.0
_JUNK_SHOWN: Final = 20
"""Lines of one process that are reported as no message; the rest is only dropped."""


@final
@dataclass(frozen=True, slots=True)
class ChildLimits:
    """Bounds of the table, and of one server."""

    children: int = 64
    """Of this worker."""
    per_target: int = 64
    idle_seconds: float = 300.0
    """A pooled server without a request ends."""
    session_idle_seconds: float = 3600.0
    """A session's does so only when its session was not ended in time, so longer than a session's
    life."""
    request_idle_seconds: float = 300.0
    """Between two messages of one request."""
    greeting_seconds: float = 60.0
    """Until the answer to `initialize`: a first start may fetch the program."""
    slow_reader_seconds: float = 10.0
    """How long a reader that does not read may stop its server."""


ChildKey = tuple[str, str, bytes]
"""Target's key, kind and key of the scope."""


@final
class Child:
    """One server and the conversation with it."""

    def __init__(self, name: str, key: ChildKey, limits: ChildLimits) -> None:
        self.key = key
        self.greeting: Json | None = None
        """The server's answer to `initialize`, once it has come."""
        self.is_announced = False
        """`notifications/initialized` was sent."""
        self.greeting_lock = asyncio.Lock()
        self.started = self.used = time.monotonic()
        self.is_stopped = False
        """Its end is wanted."""
        self.process: Process
        self._name = name
        self._limits = limits
        self._junk = 0
        self._slow: asyncio.TimerHandle | None = None
        seconds, is_shared = limits.request_idle_seconds, is_anyones(*key[1:])
        self.dialogue = Dialogue(name, seconds, self._tell, self._hold, is_anyones=is_shared)

    async def call(self, message: Json, era: Era) -> Inbox:
        """Send a request; its answer comes into the box. Raises: UpstreamError."""
        self.used = time.monotonic()
        wire, inbox = self.dialogue.call(message, era)
        try:
            await self.process.write(orjson.dumps(wire) + b"\n")
        except BaseException:
            self.dialogue.forget(inbox)
            raise
        return inbox

    async def send(self, message: Json) -> None:
        """Send a notification or an answer. Raises: UpstreamError."""
        self.used = time.monotonic()
        wire = self.dialogue.outgoing(message)
        if wire is not None:
            await self.process.write(orjson.dumps(wire) + b"\n")

    def line(self, line: bytes) -> None:
        """A line of the server's output."""
        try:
            document = jsonrpc.parse(line)
            for message in document if isinstance(document, list) else (document,):
                self.dialogue.receive(message, len(line))
        except JsonRpcError:
            self._junk += 1
            if self._junk <= _JUNK_SHOWN:
                _log.warning(
                    "MCP target %s: a line of %d bytes that is no message was dropped",
                    self._name,
                    len(line),
                )

    def _tell(self, message: Json) -> None:
        self.process.write_nowait(orjson.dumps(message) + b"\n")

    def _hold(self, is_held: bool) -> None:
        self.process.hold(is_held)
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
        if is_held:
            seconds = self._limits.slow_reader_seconds
            self._slow = asyncio.get_running_loop().call_later(seconds, self.dialogue.drop_slow)

    def over(self, status: int) -> None:
        """The process has ended."""
        if self._slow is not None:
            self._slow.cancel()
        how = f"signal {-status}" if status < 0 else f"exit code {status}"
        text = f"MCP target {self._name} ended ({how})"
        self.dialogue.end(UpstreamError(502, "UpstreamFailure", text))

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for it."""
        return self.dialogue.waiting > 0 or self.greeting_lock.locked()


@final
@dataclass(slots=True)
class _Failures:
    """Ends of one target's servers soon after their starts."""

    count: int = 0
    until: float = 0.0
    """Monotonic seconds; no start before."""


@final
class Children:
    """The worker's table of servers."""

    def __init__(self, limits: ChildLimits | None = None, spawner: Spawner | None = None) -> None:
        self.limits = limits or ChildLimits()
        self._spawner = spawner or Spawner()
        self._children: dict[ChildKey, Child] = {}
        self._starting: dict[ChildKey, asyncio.Task[Child]] = {}
        self._failures: dict[str, _Failures] = {}
        self._logs: dict[str, StderrLog] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._children) + len(self._starting)

    def find(self, key: str, scope: Scope) -> Child | None:
        """The running server of this scope."""
        return self._children.get((key, scope.kind, scope.key))

    async def get(self, key: str, name: str, spec: StdioSpec, scope: Scope) -> Child:
        """The running server of this scope, or a new one.

        Raises: UpstreamError when there may be no more, or none yet, or it cannot be started.
        """
        child_key = (key, scope.kind, scope.key)
        child = self._children.get(child_key)
        if child is not None:
            return child
        task = self._starting.get(child_key)
        if task is None:
            self._check(child_key, name)
            task = self._own(self._start(child_key, name, spec))
            self._starting[child_key] = task
            task.add_done_callback(lambda task: self._was_started(child_key, task))
        # Whoever asked first may leave; the others still want it.
        return await asyncio.shield(task)

    async def end(self, key: str, scope: Scope) -> None:
        """End the server of a scope, if there is one; returns when nothing of it is left."""
        child_key = (key, scope.kind, scope.key)
        starting = self._starting.get(child_key)
        if starting is not None:
            # Whoever wanted it may have left meanwhile.
            await asyncio.wait((starting,))
        child = self._children.get(child_key)
        if child is not None:
            await asyncio.shield(self.stop(child))

    async def retire(self, keys: frozenset[str], *, is_urgent: bool = True) -> None:
        """End the servers of all targets but these, as a configuration without them wants it.

        `is_urgent`: also those that somebody waits for.
        """
        self._failures = {key: value for key, value in self._failures.items() if key in keys}
        self._logs = {key: value for key, value in self._logs.items() if key in keys}
        gone = self._matching(lambda key: key[0] not in keys)
        await _all(self.stop(child) for child in gone if is_urgent or not child.is_busy)

    async def close(self) -> None:
        """End all, and the keeper."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        if self._starting:
            await asyncio.wait(set(self._starting.values()))
        await _all(self.stop(child) for child in list(self._children.values()))
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        await self._spawner.close()

    def stop(self, child: Child) -> asyncio.Task[None]:
        """End a server; it is out of the table at once."""
        child.is_stopped = True
        self._remove(child)
        return self._own(child.process.stop())

    # --- starts and ends ------------------------------------------------------------------

    def _check(self, key: ChildKey, name: str) -> None:
        """Whether a server may be started. Raises: UpstreamError."""
        if self._is_closed:
            raise _unavailable(f"MCP target {name} cannot be started: the worker ends")
        failures = self._failures.get(key[0])
        left = failures.until - time.monotonic() if failures is not None else 0.0
        if failures is not None and left > 0:
            raise _unavailable(
                f"MCP target {name} ended {failures.count} times soon after its start; "
                f"it may be started again in {left:.1f} s"
            )
        is_same: Callable[[ChildKey], bool] = lambda other: other[0] == key[0]  # noqa: E731
        starting = sum(map(is_same, self._starting))
        if len(self._matching(is_same)) + starting >= self.limits.per_target:
            self._make_room(is_same, f"MCP target {name} has {self.limits.per_target} processes")
        if len(self) >= self.limits.children:
            self._make_room(lambda _: True, f"this worker has {self.limits.children} MCP processes")

    def _make_room(self, is_meant: Callable[[ChildKey], bool], text: str) -> None:
        """End the pooled server that was idle for longest. Raises: UpstreamError."""
        pooled = self._matching(lambda key: key[1] == "principal" and is_meant(key))
        idle = [child for child in pooled if not child.is_busy]
        if not idle:
            raise _unavailable(f"{text}, which is the most")
        self.stop(min(idle, key=lambda child: child.used))

    async def _start(self, key: ChildKey, name: str, spec: StdioSpec) -> Child:
        child = Child(name, key, self.limits)
        log = self._logs.setdefault(key[0], StderrLog(name))

        def over(status: int) -> None:
            child.over(status)
            self._ended(child, status, name)

        try:
            child.process = await self._spawner.spawn(name, spec, child.line, log.reader(), over)
        except UpstreamError:
            self._failed(key[0])
            raise
        if child.process.ended.done():
            status = child.process.ended.result()
            raise _unavailable(f"MCP target {name} ended at once ({status})")
        self._children[key] = child
        if self._sweep is None:
            self._plan_sweep()
        _log.debug("MCP target %s: process %d started", name, child.process.pid)
        return child

    def _was_started(self, key: ChildKey, task: asyncio.Task[Child]) -> None:
        self._starting.pop(key, None)
        if not task.cancelled():
            # Looked at, so that a failure is not reported once more when nobody waits for it.
            task.exception()

    def _ended(self, child: Child, status: int, name: str) -> None:
        self._remove(child)
        if child.is_stopped:
            return
        _log.warning("MCP target %s: process ended by itself, status %d", name, status)
        if time.monotonic() - child.started < _HEALTHY_SECONDS:
            self._failed(child.key[0])
        else:
            self._failures.pop(child.key[0], None)

    def _failed(self, key: str) -> None:
        failures = self._failures.setdefault(key, _Failures())
        failures.count += 1
        wait = _BACKOFF_FIRST_SECONDS * 2 ** min(failures.count - 1, 10)
        failures.until = time.monotonic() + min(wait, _BACKOFF_LAST_SECONDS)

    def _remove(self, child: Child) -> None:
        if self._children.get(child.key) is child:
            del self._children[child.key]

    def _matching(self, is_meant: Callable[[ChildKey], bool]) -> list[Child]:
        return [child for key, child in self._children.items() if is_meant(key)]

    def _plan_sweep(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self.sweep)

    def sweep(self) -> None:
        """End those that were idle for too long."""
        now = time.monotonic()
        limits = self.limits
        for child in list(self._children.values()):
            is_pooled = child.key[1] == "principal"
            allowed = limits.idle_seconds if is_pooled else limits.session_idle_seconds
            if child.is_busy:
                child.used = now
            elif now - child.used >= allowed:
                self.stop(child)
        self._sweep = None
        if self._children and not self._is_closed:
            self._plan_sweep()

    def _own(self, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _all(tasks: Any) -> None:
    waiting: list[Awaitable[None]] = list(tasks)
    if waiting:
        await asyncio.gather(*waiting)


def _unavailable(text: str) -> UpstreamError:
    return UpstreamError(503, "UpstreamFailure", text, sent=False)
