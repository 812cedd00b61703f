"""A streamed answer under guards: events are held until their text was judged.

Source: spec/llm.md section 4.2 (streaming).
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.errors import RequestError, SidecarError, UpstreamError
from sidecar.gateway.llm_guards import Guards
from sidecar.http.headers import Headers
from sidecar.http.message import Body, Request, Response
from sidecar.http.sse import SseDecoder, SseEvent
from sidecar.llm.chat.base import Json, WireFormat
from sidecar.llm.chat.framing import DONE
from sidecar.llm.guard.masked import Span
from sidecar.llm.guard.stream_texts import STREAM_TEXTS
from sidecar.llm.guard.window import Channel, Window

_BLOCKED: Final = "guardrail_blocked"
_CODE: Final = "guardrail_intervention"
_OPENAI: Final = frozenset(("completions", "responses"))
_KNOWN_MAX: Final = 64


class _Blocked(Exception):
    """A guard refused; its message is the client's."""


@final
class GuardedStream:
    """A body over the stream in the client's format. See Body.

    An event that cannot be read cannot be judged: it ends the stream, as a refusal does.
    """

    __slots__ = (
        "_client",
        "_decoder",
        "_ended",
        "_guards",
        "_known",
        "_request",
        "_source",
        "_window",
        "length",
        "response",
        "trailers",
    )

    def __init__(self, source: Body, client: WireFormat, guards: Guards, request: Request) -> None:
        self.length: int | None = None
        self.trailers: Headers | None = None
        self.response: Response | None = None
        """Whose body this is."""
        self._source = source
        self._client = client
        self._guards = guards
        self._request = request
        self._decoder = SseDecoder()
        self._window = Window(STREAM_TEXTS[client.name])
        self._known: dict[str, list[Span]] = {}
        """Texts that formats repeat whole, judged once."""
        self._ended = False

    def read_nowait(self) -> bytes | None:
        """See Body. Judging may take an answer of somebody else's."""
        return b"" if self._ended else None

    async def read(self) -> bytes:
        """See Body. A failure is an event, not an exception."""
        while not self._ended:
            try:
                made = await self._step()
            except _Blocked as refusal:
                return self._refused(str(refusal))
            except RequestError as error:
                return self._cut(error.status, error.message)
            except SidecarError as error:
                status = error.status if isinstance(error, UpstreamError) else 502
                return self._cut(status, str(error))
            if made:
                return made
        return b""

    async def _step(self) -> bytes:
        data = await self._source.read()
        is_last = not data
        events = self._rest() if is_last else self._decoder.feed(data)
        for event in events:
            self._window.add(event, _parsed(event))
        releases_all = is_last or self._window.is_full
        for channel in self._window.due(is_last=releases_all):
            await self._judged(channel, is_last=releases_all)
        if is_last:
            self._ended = True
        return self._window.release(is_last=releases_all)

    def _rest(self) -> list[SseEvent]:
        """An event that lacked its blank line: some clients take it for one."""
        return self._decoder.finish() + SseDecoder().feed(self._decoder.pending + b"\n\n")

    async def _judged(self, channel: Channel, *, is_last: bool) -> None:
        text = channel.text
        spans = self._known.get(text) if channel.is_whole else None
        if spans is None:
            verdict = await self._guards.on_window(text, channel.released, self._request)
            if isinstance(verdict, str):
                raise _Blocked(verdict)
            spans = verdict
            if channel.is_whole and len(self._known) < _KNOWN_MAX:
                self._known[text] = spans
        channel.settle(spans, is_last=is_last)

    def _refused(self, message: str) -> bytes:
        """agentgateway's error where the format lets types be anything."""
        kind = _BLOCKED if self._client.name in _OPENAI else ""
        cut = self._cut(403, message, kind, _CODE)
        if self.response is not None:
            self.response.error = "refused by a prompt guard"
        return cut

    def _cut(self, status: int, message: str, kind: str = "", code: str = "") -> bytes:
        """The stream's last octets; what is held is never sent, the provider is cancelled."""
        self._ended = True
        self._source.close()
        if self.response is not None:
            self.response.error = message
        return self._client.error_frame(status, message, kind, code)

    def close(self) -> None:
        """See Body."""
        self._ended = True
        self._source.close()


def _parsed(event: SseEvent) -> Json | None:
    if event.data == DONE:
        return None
    try:
        value = orjson.loads(event.data)
    except orjson.JSONDecodeError as error:
        raise UpstreamError(502, "UpstreamFailure", "a stream event is not JSON") from error
    if not isinstance(value, dict):
        raise UpstreamError(502, "UpstreamFailure", "a stream event is not a JSON object")
    return value
