"""Writing a stream of OpenAI responses events, whatever provider the answer comes from.

States of an item: absent → open (`output_item.added`) → done (`output_item.done`).
1. Output indexes are given in the order in which items open and are never reused.
2. At most one message and one reasoning item are open at a time; calls may be open side by side,
   since chat completions interleave them.
3. Between `start` and the one final event (completed, incomplete or failed) every item that was
   opened is done; nothing follows the final event. `is_ended` says that it is out.
4. What the `done` events and the final response repeat is what the deltas said: clients that only
   read `response.completed` see the whole answer.

Source: OpenAI API reference (responses, streaming events); spec llm section 2.8.
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.errors import UpstreamError
from sidecar.http.sse import encode_event
from sidecar.llm.convert.base import Context, Json
from sidecar.llm.convert.custom_tools import unpack
from sidecar.llm.convert.responses_output import (
    call_item,
    message_item,
    reasoning_item,
    refusal_part,
    text_part,
)

MAX_ANSWER_CHARS: Final = 16 * 1024 * 1024
"""What is held of one answer for the events that repeat it."""


@final
class _Text:
    """Text that grows: of one content part, one call's arguments or one reasoning."""

    __slots__ = ("index", "item_id", "kind", "pieces")

    def __init__(self, index: int, item_id: str, kind: str = "") -> None:
        self.index = index
        self.item_id = item_id
        self.kind = kind
        self.pieces: list[str] = []

    def joined(self) -> str:
        return "".join(self.pieces)


@final
class _Call:
    """A call that is open. `is_custom`: the client knows it as a free-form tool."""

    __slots__ = ("arguments", "call_id", "is_custom", "name")

    def __init__(self, arguments: _Text, call_id: str, name: str, *, is_custom: bool) -> None:
        self.arguments = arguments
        self.call_id = call_id
        self.name = name
        self.is_custom = is_custom


@final
class ResponsesWriter:
    """One stream. Every method gives the frames that are due."""

    __slots__ = (
        "_calls",
        "_chars",
        "_context",
        "_head",
        "_message",
        "_next",
        "_output",
        "_part",
        "_parts",
        "_reasoning",
        "_sequence",
        "is_ended",
        "is_started",
    )

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sequence = 0
        self._next = 0
        self._chars = 0
        self._head: Json = {}
        self._output: dict[int, Json] = {}
        """Items that are done, by output index."""
        self._message: _Text | None = None
        self._parts: list[Json] = []
        """Parts of the open message that are done."""
        self._part: _Text | None = None
        """The open part; its `index` is the content index."""
        self._reasoning: _Text | None = None
        self._calls: dict[int, _Call] = {}
        """The provider's number of a call → the open call."""
        self.is_started = False
        self.is_ended = False

    def start(self, model: object) -> list[bytes]:
        """`response.created`."""
        self.is_started = True
        self._head = {
            "id": self._context.new_id("resp_"),
            "object": "response",
            "created_at": self._context.now_seconds,
            "model": model if isinstance(model, str) and model else self._context.requested_model,
        }
        response = self._head | {"status": "in_progress", "output": []}
        return [self._frame("response.created", {"response": response})]

    # --- text ---

    def text(self, delta: str) -> list[bytes]:
        """More of the answer's text; opens the message and the part where they are not."""
        return self._grow("output_text", delta)

    def refusal(self, delta: str) -> list[bytes]:
        """More of a refusal."""
        return self._grow("refusal", delta)

    def close_message(self) -> list[bytes]:
        """The open message is complete."""
        return self._end_message("completed")

    def _grow(self, kind: str, delta: str) -> list[bytes]:
        part = self._part
        frames: list[bytes] = []
        if part is None or part.kind != kind:
            frames = self._open_part(kind)
            part = self._part
        assert part is not None  # by _open_part
        self._hold(part, delta)
        frames.append(self._frame(f"response.{kind}.delta", self._place(part) | {"delta": delta}))
        return frames

    def _open_part(self, kind: str) -> list[bytes]:
        frames: list[bytes] = []
        if self._message is None:
            self._message = self._open("msg_")
            item = message_item(self._message.item_id, "in_progress", [])
            frames.append(self._item_added(self._message.index, item))
        frames += self._close_part()
        self._part = _Text(len(self._parts), self._message.item_id, kind)
        empty = text_part("") if kind == "output_text" else refusal_part("")
        data = self._place(self._part) | {"part": empty}
        frames.append(self._frame("response.content_part.added", data))
        return frames

    def _place(self, part: _Text) -> Json:
        assert self._message is not None  # a part is open inside a message
        return {
            "item_id": part.item_id,
            "output_index": self._message.index,
            "content_index": part.index,
        }

    def _close_part(self) -> list[bytes]:
        part, self._part = self._part, None
        if part is None:
            return []
        text = part.joined()
        is_text = part.kind == "output_text"
        done = text_part(text) if is_text else refusal_part(text)
        frames: list[bytes] = []
        if text:
            self._parts.append(done)
            key = "text" if is_text else "refusal"
            name = f"response.{part.kind}.done"
            frames.append(self._frame(name, self._place(part) | {key: text}))
        data = self._place(part) | {"part": done}
        frames.append(self._frame("response.content_part.done", data))
        return frames

    def _end_message(self, status: str) -> list[bytes]:
        message = self._message
        if message is None:
            return []
        frames = self._close_part()
        self._message = None
        parts, self._parts = self._parts, []
        item = message_item(message.item_id, status, parts)
        if parts:
            self._output[message.index] = item
        return [*frames, self._item_done(message.index, item)]

    # --- calls ---

    def call(self, number: int, call_id: str, name: str) -> list[bytes]:
        """A call begins. `number` is the provider's; a call of the same number must have ended."""
        name = self._context.tool_names.get(name, name)
        is_custom = name in self._context.custom_tools
        arguments = self._open("ctc_" if is_custom else "fc_")
        self._calls[number] = _Call(arguments, call_id, name, is_custom=is_custom)
        item = self._call_item(self._calls[number], "", "in_progress")
        return [self._item_added(arguments.index, item)]

    def has_call(self, number: int) -> bool:
        """Whether a call of this number is open."""
        return number in self._calls

    def arguments(self, number: int, delta: str) -> list[bytes]:
        """More of an open call's arguments. A free-form input is told whole, at its end."""
        call = self._calls[number]
        self._hold(call.arguments, delta)
        if call.is_custom:
            return []
        data = self._call_place(call) | {"delta": delta}
        return [self._frame("response.function_call_arguments.delta", data)]

    def close_call(self, number: int, status: str = "completed") -> list[bytes]:
        """The call is complete; no arguments are an empty object."""
        call = self._calls.pop(number)
        text = call.arguments.joined()
        if call.is_custom:
            text = unpack(text)
            key, name = "input", "response.custom_tool_call_input"
            frames = [self._frame(f"{name}.delta", self._call_place(call) | {"delta": text})]
        else:
            text = text or "{}"
            key, name = "arguments", "response.function_call_arguments"
            frames = []
        data = self._call_place(call) | {"name": call.name, key: text}
        item = self._output[call.arguments.index] = self._call_item(call, text, status)
        frames.append(self._frame(f"{name}.done", data))
        return [*frames, self._item_done(call.arguments.index, item)]

    def _call_item(self, call: _Call, text: str, status: str) -> Json:
        identity = call.arguments.item_id
        return call_item(identity, call.call_id, call.name, text, status, is_custom=call.is_custom)

    def _call_place(self, call: _Call) -> Json:
        return {"item_id": call.arguments.item_id, "output_index": call.arguments.index}

    # --- reasoning ---

    def reasoning(self, delta: str) -> list[bytes]:
        """More of what the model thinks, as a summary; opens the item where it is not."""
        frames: list[bytes] = []
        if self._reasoning is None:
            self._reasoning = self._open("rs_")
            item = reasoning_item(self._reasoning.item_id, "", "")
            frames = [self._item_added(self._reasoning.index, item)]
        if not delta:
            return frames
        place = self._summary_place(self._reasoning)
        if not self._reasoning.pieces:
            empty = {"type": "summary_text", "text": ""}
            name = "response.reasoning_summary_part.added"
            frames.append(self._frame(name, place | {"part": empty}))
        self._hold(self._reasoning, delta)
        name = "response.reasoning_summary_text.delta"
        return [*frames, self._frame(name, place | {"delta": delta})]

    def close_reasoning(self, encrypted: str = "") -> list[bytes]:
        """The open reasoning is complete. `encrypted`: what the client has to send back."""
        reasoning, self._reasoning = self._reasoning, None
        if reasoning is None:
            return []
        text = reasoning.joined()
        frames: list[bytes] = []
        if text:
            place = self._summary_place(reasoning)
            part = {"type": "summary_text", "text": text}
            name = "response.reasoning_summary_text.done"
            frames.append(self._frame(name, place | {"text": text}))
            name = "response.reasoning_summary_part.done"
            frames.append(self._frame(name, place | {"part": part}))
        item = self._output[reasoning.index] = reasoning_item(reasoning.item_id, text, encrypted)
        return [*frames, self._item_done(reasoning.index, item)]

    def _summary_place(self, reasoning: _Text) -> Json:
        return {
            "item_id": reasoning.item_id,
            "output_index": reasoning.index,
            "summary_index": 0,
        }

    # --- the end ---

    def finish(self, reason: str | None, usage: Json | None) -> list[bytes]:
        """The answer is complete, or incomplete for `reason`. Closes what is open."""
        status = "completed" if reason is None else "incomplete"
        frames = self._close_all(status)
        response = self._final(status)
        if reason is not None:
            response["incomplete_details"] = {"reason": reason}
        if usage is not None:
            response["usage"] = usage
        frames.append(self._frame(f"response.{status}", {"response": response}))
        return frames

    def fail(self, message: str, code: str = "server_error") -> list[bytes]:
        """The answer cannot go on."""
        frames = [] if self.is_started else self.start(None)
        frames += self._close_all("incomplete")
        response = self._final("failed") | {"error": {"code": code, "message": message}}
        frames.append(self._frame("response.failed", {"response": response}))
        return frames

    def _close_all(self, status: str) -> list[bytes]:
        frames = self.close_reasoning()
        for number in list(self._calls):
            frames += self.close_call(number, status)
        return frames + self._end_message(status)

    def _final(self, status: str) -> Json:
        self.is_ended = True
        output = [self._output[index] for index in sorted(self._output)]
        return self._head | {"status": status, "output": output}

    # --- frames ---

    def _open(self, prefix: str) -> _Text:
        opened = _Text(self._next, self._context.new_id(prefix))
        self._next += 1
        return opened

    def _hold(self, text: _Text, delta: str) -> None:
        self._chars += len(delta)
        if self._chars > MAX_ANSWER_CHARS:
            raise UpstreamError(502, "UpstreamFailure", "the provider's answer is too large")
        text.pieces.append(delta)

    def _item_added(self, index: int, item: Json) -> bytes:
        data = {"output_index": index, "item": item}
        return self._frame("response.output_item.added", data)

    def _item_done(self, index: int, item: Json) -> bytes:
        return self._frame("response.output_item.done", {"output_index": index, "item": item})

    def _frame(self, name: str, data: Json) -> bytes:
        self._sequence += 1
        event = {"type": name, "sequence_number": self._sequence, **data}
        return encode_event(orjson.dumps(event), name.encode())
