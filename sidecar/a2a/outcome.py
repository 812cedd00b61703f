"""What an agent's answer tells: success or error, kind of result, state of the task, context.

Source: spec/mcp_a2a.md section 3.1 (names); A2A 0.3 section 6 (flat, `kind`) and 1.0 section 3
(nested, one member's name).

An answer is watched while it passes, never held up: of a whole document the first octets up to a
bound are kept, of a stream only its last event.
"""

from __future__ import annotations

from typing import Any, Final, final

from sidecar.a2a import wire
from sidecar.a2a.calls import document_of
from sidecar.a2a.methods import Binding
from sidecar.errors import SidecarError
from sidecar.http.coding import Decoder
from sidecar.http.grpc import Frames
from sidecar.http.sse import SseDecoder

MAX_BYTES: Final = 256 * 1024
"""Of an answer or event that is looked at; a larger one tells nothing."""
_TEXT_MAX: Final = 256
_ERROR_STATUS: Final = 400
_WRAPPED: Final = {
    "task": "task",
    "message": "message",
    "msg": "message",
    "statusUpdate": "status-update",
    "artifactUpdate": "artifact-update",
}
"""Member names of 1.0 (and `msg`, of REST in 0.3) → kinds, as 0.3 calls them."""
_STREAM_KINDS: Final = ("task", "message", "status-update", "artifact-update")
_TASK_METHODS: Final = frozenset(("GetTask", "CancelTask"))
_SENDS: Final = frozenset(("SendMessage",))
_STREAMS: Final = frozenset(("SendStreamingMessage", "SubscribeToTask"))
_STATES: Final = (
    *("UNSPECIFIED", "SUBMITTED", "WORKING", "COMPLETED", "FAILED", "CANCELED", "INPUT_REQUIRED"),
    *("REJECTED", "AUTH_REQUIRED"),
)

Facts = dict[str, Any]
"""`outcome`, `errorCode`, `resultKind`, `taskState`, `contextId`: those that are known."""


def of_document(binding: Binding, status: int, document: dict[str, Any] | None) -> Facts:
    """Of a JSON answer or event."""
    facts: Facts = {"outcome": "error" if status >= _ERROR_STATUS else "unknown"}
    if document is None:
        return facts
    error = document.get("error")
    if error is not None and (binding == "JSONRPC" or status >= _ERROR_STATUS):
        facts["outcome"] = "error"
        code = error.get("code") if isinstance(error, dict) else None
        if isinstance(code, int) and not isinstance(code, bool):
            facts["errorCode"] = code
        return facts
    result = document.get("result") if binding == "JSONRPC" else document
    if status >= _ERROR_STATUS or (binding == "JSONRPC" and "result" not in document):
        return facts
    facts["outcome"] = "success"
    if isinstance(result, dict):
        _result(result, facts)
    return facts


def _result(result: dict[str, Any], facts: Facts) -> None:
    kind, inner = result.get("kind"), result
    if not isinstance(kind, str):
        kind = "task" if "id" in result and isinstance(result.get("status"), dict) else None
        for member, name in _WRAPPED.items():
            if isinstance(result.get(member), dict):
                kind, inner = name, result[member]
                break
    if kind is None:
        return
    facts["resultKind"] = kind[:_TEXT_MAX]
    status = inner.get("status")
    state = status.get("state") if isinstance(status, dict) else None
    for key, value in (("taskState", state), ("contextId", inner.get("contextId"))):
        if isinstance(value, str) and value:
            facts[key] = value[:_TEXT_MAX]


def of_message(method: str, grpc_status: int | None, message: bytes | None) -> Facts:
    """Of a gRPC call: its status, and its last message."""
    if grpc_status is None:
        return {"outcome": "unknown"}
    if grpc_status:
        return {"outcome": "error", "errorCode": grpc_status}
    facts: Facts = {"outcome": "success"}
    if message is not None:
        try:
            _message(method, message, facts)
        except wire.WireError:
            # The agent's answer is the client's to judge.
            return facts
    return facts


def _message(method: str, message: bytes, facts: Facts) -> None:
    if method in _TASK_METHODS:
        kind, inner = "task", message
    elif method in _SENDS or method in _STREAMS:
        for number, name in enumerate(_STREAM_KINDS, 1):
            found = wire.every(message, number)
            if found:
                kind, inner = name, found[-1]
                break
        else:
            return
    else:
        return
    facts["resultKind"] = kind
    state = wire.number(inner, 1, 3) if kind in ("task", "status-update") else None
    if state is not None and 0 <= state < len(_STATES):
        facts["taskState"] = f"TASK_STATE_{_STATES[state]}"
    context = wire.text(inner, 2)
    if context:
        facts["contextId"] = context[:_TEXT_MAX]


@final
class Watch:
    """Sees an answer's octets pass. `feed` and `finish` never raise for what an agent sends."""

    __slots__ = ("_binding", "_decoder", "_events", "_frames", "_held", "_method", "_status")

    def __init__(
        self,
        binding: Binding,
        method: str,
        status: int,
        content_type: bytes,
        codings: list[bytes],
    ) -> None:
        self._binding = binding
        self._method = method
        self._status = status
        self._held: bytearray | None = bytearray()
        """The document so far, or the last event; None when it is too large, or not readable."""
        is_stream = content_type.startswith(b"text/event-stream")
        self._events = SseDecoder(MAX_BYTES) if is_stream else None
        self._frames = Frames(MAX_BYTES) if binding == "GRPC" else None
        self._decoder = Decoder(codings, None if is_stream else MAX_BYTES) if codings else None

    def feed(self, data: bytes) -> None:
        """Octets of the body, in order."""
        if self._held is None:
            return
        try:
            self._take(data if self._decoder is None else self._decoder.feed(data))
        except SidecarError:
            self._held = None

    def _take(self, data: bytes) -> None:
        assert self._held is not None
        if self._events is not None:
            events = self._events.feed(data)
            if events:
                self._held = bytearray(events[-1].data)
        elif self._frames is not None:
            messages = self._frames.feed(data)
            if messages:
                self._held = bytearray(messages[-1])
        elif len(self._held) + len(data) > MAX_BYTES:
            self._held = None
        else:
            self._held += data

    def finish(self, grpc_status: int | None) -> Facts:
        """At the end of the exchange."""
        held = None if self._held is None else bytes(self._held)
        self._held = None
        if self._binding == "GRPC":
            return of_message(self._method, grpc_status, held)
        return of_document(self._binding, self._status, document_of(held) if held else None)
