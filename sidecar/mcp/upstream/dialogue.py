"""Which message of one connection belongs to whom: for stdio and HTTP+SSE, which carry all on one.

No I/O: messages come in, messages go out.

Source: spec/mcp_a2a.md sections 1.3, 1.4 and 5.2 (6, 7); issue 5.

Ids and progress tokens of requests are replaced by numbers of the connection's own, so that
requests of several clients, or a client that uses an id twice, do not meet. A message that is no
answer goes, in this order, to

1. the request whose progress token or subscription id it names;
2. when it is about a request by its nature (a log line, a question to the user): the newest
   request whose reader still reads, which is the only one when there is one;
3. the newest listening stream;
4. a bounded backlog, which the next listening stream gets first. What is pushed out of it is lost;
   a request so lost is answered with an error, so that the server does not wait.

Where clients that nobody can tell apart share the connection, 2 holds for an only request, and 3
and 4 not at all: what one of them may not see of another is dropped.

A server's `ping` is answered here: it asks whether this connection lives.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

from sidecar import jsonrpc
from sidecar.errors import UpstreamError
from sidecar.jsonrpc import Id, Json
from sidecar.mcp.upstream.base import Era
from sidecar.mcp.upstream.inbox import Inbox

_log = logging.getLogger("sidecar.mcp.upstream")
SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
LISTEN: Final = "subscriptions/listen"
BACKLOG_BYTES: Final = 1024 * 1024
BACKLOG_MESSAGES: Final = 256
MAX_CALLS: Final = 1024
"""Requests without an answer, those that nobody waits for any more included."""
_OF_NO_REQUEST: Final = frozenset(
    (
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        "notifications/elicitation/complete",
        "notifications/tasks",
        "notifications/tasks/status",
    )
)


@final
@dataclass(slots=True)
class _Call:
    """A request without an answer yet."""

    wire: int
    identity: Id
    token: object
    """The client's progress token; None when it wants no progress."""
    era: Era
    is_listen: bool
    inbox: Inbox


@final
class Dialogue:
    """One connection with one server, as to who is who on it.

    `write`: sends a message and does not wait. `hold`: True when a reader is slow and the server
    should be read no further, False when it may be again. `is_anyones`: whether it is shared by
    clients that may be different people.
    """

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_calls",
        "_error",
        "_hold",
        "_idle",
        "_is_anyones",
        "_is_held",
        "_listeners",
        "_name",
        "_numbers",
        "_write",
    )

    def __init__(
        self,
        name: str,
        idle_seconds: float,
        write: Callable[[Json], None],
        hold: Callable[[bool], None],
        *,
        is_anyones: bool = False,
    ) -> None:
        self._name = name
        self._is_anyones = is_anyones
        self._idle = idle_seconds
        self._write = write
        self._hold = hold
        self._is_held = False
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._listeners: list[Inbox] = []
        self._backlog: deque[tuple[Json, int]] = deque()
        self._backlog_bytes = 0
        self._error: UpstreamError | None = None

    @property
    def waiting(self) -> int:
        """Requests whose answer somebody waits for, and listening streams."""
        return sum(not call.inbox.is_closed for call in self._calls.values()) + len(self._listeners)

    # --- to the server --------------------------------------------------------------------

    def call(self, message: Json, era: Era) -> tuple[Json, Inbox]:
        """The request as the server gets it, and where its answer will come.

        Raises: UpstreamError when the connection has ended, or has too many requests.
        """
        if self._error is not None:
            raise self._error
        if len(self._calls) >= MAX_CALLS:
            self._drop_abandoned()
        wire = next(self._numbers)
        is_listen = message["method"] == LISTEN
        inbox = Inbox(self._name, None if is_listen else self._idle)
        params = message.get("params")
        meta = params.get("_meta") if params else None
        token = meta.get("progressToken") if isinstance(meta, dict) else None
        call = _Call(wire, message["id"], token, era, is_listen, inbox)
        self._calls[wire] = call
        inbox.on_close = lambda: self._given_up(call)
        inbox.on_room = self._release
        message = {**message, "id": wire}
        if token is not None and params is not None:
            message["params"] = {**params, "_meta": {**params["_meta"], "progressToken": wire}}
        return message, inbox

    def forget(self, inbox: Inbox) -> None:
        """A request that could not be sent."""
        for wire, call in self._calls.items():
            if call.inbox is inbox:
                del self._calls[wire]
                return

    def outgoing(self, message: Json) -> Json | None:
        """A notification or an answer as the server gets it; None when it would mean nothing."""
        if message.get("method") != "notifications/cancelled":
            return message
        params = message.get("params") or {}
        named = params.get("requestId")
        for call in reversed(self._calls.values()):
            # 1 and True, or 1 and 1.0, are different ids.
            if type(named) is type(call.identity) and named == call.identity:
                return {**message, "params": {**params, "requestId": call.wire}}
        return None

    def _drop_abandoned(self) -> None:
        """Make room for a request. Raises: UpstreamError."""
        for wire, call in self._calls.items():
            if call.inbox.is_closed:
                del self._calls[wire]
                return
        text = f"MCP target {self._name} has {MAX_CALLS} requests without an answer"
        raise UpstreamError(503, "UpstreamFailure", text, sent=False)

    def _given_up(self, call: _Call) -> None:
        # A legacy client that leaves has not cancelled, so the server goes on; what it still says
        # about the request has no reader. A modern one has.
        if call.era == "legacy" or call.wire not in self._calls:
            return
        del self._calls[call.wire]
        params: Json = {"requestId": call.wire, "reason": "the client closed the stream"}
        self._write({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

    def listen(self) -> Inbox:
        """A stream of what belongs to no request; the backlog comes first. Raises: UpstreamError"""
        if self._error is not None:
            raise self._error
        inbox = Inbox(self._name, None)
        inbox.on_close = lambda: self._unlisten(inbox)
        inbox.on_room = self._release
        self._listeners.append(inbox)
        while self._backlog:
            inbox.put(*self._backlog.popleft())
        self._backlog_bytes = 0
        return inbox

    def _unlisten(self, inbox: Inbox) -> None:
        if inbox in self._listeners:
            self._listeners.remove(inbox)

    # --- from the server ------------------------------------------------------------------

    def receive(self, message: object, size_bytes: int) -> None:
        """Give a message to whom it belongs. Raises: JsonRpcError for what is none."""
        kind = jsonrpc.kind_of(message)
        assert isinstance(message, dict)
        if kind in ("result", "error"):
            self._answered(message, size_bytes)
        elif kind == "request" and message["method"] == "ping":
            self._write(jsonrpc.result(message["id"], {}))
        else:
            self._told(message, size_bytes)

    def end(self, error: UpstreamError) -> None:
        """The connection is over: who waits gets the error, who listens the end."""
        if self._error is not None:
            return
        self._error = error
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.inbox.finish(error)
        for inbox in self._listeners:
            inbox.finish()
        self._listeners = []

    def _answered(self, message: Json, size_bytes: int) -> None:
        call = self._asker(message)
        if call is None:
            _log.debug("%s: an answer to no request, or a second one, was dropped", self._name)
            return
        del self._calls[call.wire]
        self._give(call, {**message, "id": call.identity}, size_bytes)
        call.inbox.finish()

    def _asker(self, message: Json) -> _Call | None:
        identity = message.get("id")
        if identity is None and len(self._calls) == 1:
            # An error without an id: the server could not read whom it answers.
            return next(iter(self._calls.values()))
        return self._call_of(identity)

    def _call_of(self, number: object) -> _Call | None:
        return self._calls.get(number) if type(number) is int else None

    def _told(self, message: Json, size_bytes: int) -> None:
        method = message["method"]
        params = message.get("params") or {}
        if method == "notifications/progress":
            call = self._call_of(params.get("progressToken"))
            if call is not None and call.token is not None:
                params = {**params, "progressToken": call.token}
                self._give(call, {**message, "params": params}, size_bytes)
            return
        if method == "notifications/cancelled" and self._torn_down(message, params, size_bytes):
            return
        call = self._subscribed(params) or self._newest(method)
        if call is not None:
            self._give(call, message, size_bytes)
        elif self._is_anyones:
            self._lose(message)
        elif self._listeners:
            self._put(self._listeners[-1], message, size_bytes)
        else:
            self._keep(message, size_bytes)

    def _torn_down(self, message: Json, params: Json, size_bytes: int) -> bool:
        """A modern server ends a subscription so; a legacy one takes back a request of its own."""
        call = self._call_of(params.get("requestId"))
        if call is None or call.era == "legacy":
            return False
        del self._calls[call.wire]
        params = {**params, "requestId": call.identity}
        self._put(call.inbox, {**message, "params": params}, size_bytes)
        call.inbox.finish()
        return True

    def _subscribed(self, params: Json) -> _Call | None:
        meta = params.get("_meta")
        return self._call_of(meta.get(SUBSCRIPTION)) if isinstance(meta, dict) else None

    def _newest(self, method: str) -> _Call | None:
        if method in _OF_NO_REQUEST or (self._is_anyones and len(self._calls) > 1):
            return None
        for call in reversed(self._calls.values()):
            if not (call.inbox.is_closed or call.inbox.is_ended or call.is_listen):
                return call
        return None

    def _give(self, call: _Call, message: Json, size_bytes: int) -> None:
        self._put(call.inbox, _tagged(message, call) if call.is_listen else message, size_bytes)

    def _put(self, inbox: Inbox, message: Json, size_bytes: int) -> None:
        inbox.put(message, size_bytes)
        if inbox.is_full and not self._is_held:
            self._is_held = True
            self._hold(True)

    def _release(self) -> None:
        if self._is_held and not any(inbox.is_full for inbox in self._inboxes()):
            self._is_held = False
            self._hold(False)

    def drop_slow(self) -> None:
        """Give up the streams whose readers do not read."""
        text = f"the reader of MCP target {self._name} is too slow"
        for inbox in [inbox for inbox in self._inboxes() if inbox.is_full]:
            inbox.drop(UpstreamError(503, "UpstreamFailure", text))

    def _inboxes(self) -> list[Inbox]:
        return [call.inbox for call in self._calls.values()] + self._listeners

    def _keep(self, message: Json, size_bytes: int) -> None:
        backlog = self._backlog
        backlog.append((message, size_bytes))
        self._backlog_bytes += size_bytes
        while len(backlog) > BACKLOG_MESSAGES or self._backlog_bytes > BACKLOG_BYTES:
            lost, lost_bytes = backlog.popleft()
            self._backlog_bytes -= lost_bytes
            self._lose(lost)

    def _lose(self, lost: Json) -> None:
        _log.debug("%s: nobody listens, a message was dropped", self._name)
        if "id" in lost:
            text = "no client listens"
            self._write(jsonrpc.error(lost["id"], jsonrpc.INTERNAL_ERROR, text))


def _tagged(message: Json, call: _Call) -> Json:
    """A message of a subscription under the id that the client knows it by."""
    key = "params" if "method" in message else "result"
    value = message.get(key)
    meta: Any = value.get("_meta") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(meta, dict) or SUBSCRIPTION not in meta:
        return message
    return {**message, key: {**value, "_meta": {**meta, SUBSCRIPTION: call.identity}}}
