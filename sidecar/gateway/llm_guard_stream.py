"""A streamed answer under guards: events are held until their text was judged.

Source: spec/llm.md section 4.2 (streaming).
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.errors import RequestError, SidecarError, UpstreamError
from sidecar.gateway.llm_guard_window import BLOCKED, CODE, Blocked, JudgedWindow
from sidecar.gateway.llm_guards import Guards
from sidecar.http.headers import Headers
from sidecar.http.message import Body, Request, Response
from sidecar.http.sse import SseDecoder, SseEvent
from sidecar.llm.chat.base import Json, WireFormat
from sidecar.llm.chat.framing import DONE
from sidecar.llm.guard.stream_texts import STREAM_TEXTS
from sidecar.llm.shape import nests_too_deeply

_OPENAI: Final = frozenset(("completions", "responses"))


@final
class GuardedStream:
    """A body over the stream in the client's format. See Body.

    An event that cannot be read cannot be judged: it ends the stream, as a refusal does.
    """

    __slots__ = (
        "_client",
        "_decoder",
        "_ended",
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
        self._decoder = SseDecoder()
        self._window = JudgedWindow(STREAM_TEXTS[client.name], guards, request)
        self._ended = False

    def read_nowait(self) -> bytes | None:
        """See Body. Judging may take an answer of somebody else's."""
        return b"" if self._ended else None

    async def read(self) -> bytes:
        """See Body. A failure is an event, not an exception."""
        while not self._ended:
            try:
                made = await self._step()
            except Blocked as refusal:
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
        released = await self._window.released(is_last=is_last)
        if is_last:
            self._ended = True
        return released

    def _rest(self) -> list[SseEvent]:
        """An event that lacked its blank line: some clients take it for one."""
        return self._decoder.finish() + SseDecoder().feed(self._decoder.pending + b"\n\n")

    def _refused(self, message: str) -> bytes:
        """agentgateway's error where the format lets types be anything."""
        kind = BLOCKED if self._client.name in _OPENAI else ""
        cut = self._cut(403, message, kind, CODE)
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
    if nests_too_deeply(event.data, value):
        raise UpstreamError(502, "UpstreamFailure", "a stream event is nested too deeply")
    return value
