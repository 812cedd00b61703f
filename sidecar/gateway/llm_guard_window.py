"""The window of a stream with the guards that judge it.

Source: spec/llm.md section 4.2 (streaming).
"""

from __future__ import annotations

from typing import Final, final

from sidecar.errors import UpstreamError
from sidecar.gateway.llm_guards import Guards
from sidecar.http.message import Request
from sidecar.http.sse import SseEvent
from sidecar.llm.chat.base import Json
from sidecar.llm.guard.masked import Span
from sidecar.llm.guard.stream_texts import StreamTexts
from sidecar.llm.guard.window import Channel, Encode, Window, as_sse

BLOCKED: Final = "guardrail_blocked"
CODE: Final = "guardrail_intervention"
"""Type and code of the error that a client gets for a refusal."""
_KNOWN_MAX: Final = 64


class Blocked(Exception):
    """A guard refused; its message is the client's."""


@final
class JudgedWindow:
    """Events go in, and come out when their texts were judged."""

    __slots__ = ("_calls", "_guards", "_request", "_spans", "_window")

    def __init__(
        self, texts: StreamTexts, guards: Guards, request: Request, encode: Encode = as_sse
    ) -> None:
        self._window = Window(texts, encode)
        self._guards = guards
        self._request = request
        # Formats repeat texts whole, at the end of a part, of an item and of the answer: these are
        # judged once.
        self._spans: dict[str, list[Span]] = {}
        self._calls: dict[str, str] = {}

    def add(self, event: SseEvent, data: Json | None) -> None:
        """One more event; see Window."""
        self._window.add(event, data)

    async def released(self, *, is_last: bool) -> bytes:
        """What may go now. Raises: Blocked; RequestError 503, UpstreamError: it cannot go on."""
        releases_all = is_last or self._window.is_full
        for channel in self._window.due(is_last=releases_all):
            if not channel.is_call:
                await self._judge_text(channel, is_last=releases_all)
                continue
            if not (is_last or channel.is_whole):
                text = "the arguments of a tool call are too long to be judged"
                raise UpstreamError(502, "UpstreamFailure", text)
            await self._judge_call(channel)
        return self._window.release(is_last=releases_all)

    async def _judge_text(self, channel: Channel, *, is_last: bool) -> None:
        text = channel.text
        # What was released before is not judged again: of the whole nothing is known then.
        is_whole = channel.is_whole and not channel.released
        spans = self._spans.get(text) if is_whole else None
        if spans is None:
            verdict = await self._guards.on_window(text, channel.released, self._request)
            if isinstance(verdict, str):
                raise Blocked(verdict)
            spans = verdict
            if is_whole and len(self._spans) < _KNOWN_MAX:
                self._spans[text] = spans
        channel.settle(spans, is_last=is_last)

    async def _judge_call(self, channel: Channel) -> None:
        text = channel.text
        made = self._calls.get(text)
        if made is None:
            made, refusal = await self._guards.on_call(text, self._request)
            if refusal is not None:
                raise Blocked(refusal)
            if len(self._calls) < _KNOWN_MAX:
                self._calls[text] = made
        channel.settle_call(made)
