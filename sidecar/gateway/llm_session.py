"""A realtime session that is counted: what the provider says goes by, and is read for its usage.

Source: spec/llm.md section 2.15; RFC 6455.

Every turn's `response.done` has the usage of that turn, and the session costs their sum, which is
charged when it ends. Of a turn that was cut, what it had brought by then is estimated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol, final

import orjson

from sidecar.errors import UpstreamError
from sidecar.gateway.llm_facts import LlmState
from sidecar.gateway.llm_realtime import EXTENSIONS, MAX_MESSAGE_BYTES
from sidecar.http import websocket
from sidecar.http.message import Response, Tunnel
from sidecar.http.websocket import CLOSE, WebSocketError
from sidecar.llm.chat import loose
from sidecar.llm.chat.produced import Produced
from sidecar.llm.chat.realtime import FORMAT
from sidecar.llm.usage import Usage

_DONE: Final = "response.done"
_MARKS: Final = (b'"response.', b'"session.')
"""Is in each event that is of interest; most of the others are long."""


class Follower(Protocol):
    """Who wants to know what a session has used (llm_facts.Record)."""

    state: LlmState

    def follow(self, usage: Callable[[], Usage]) -> None:
        """See there."""

    def first_text(self) -> None:
        """See there."""


def metered(response: Response, record: Follower) -> None:
    """Count the session that a response begins, if it does. Raises: UpstreamError 502."""
    tunnel = response.tunnel
    if tunnel is None:
        return
    if response.headers.get(EXTENSIONS):
        tunnel.close()
        text = "the provider compresses messages, which was not asked for"
        raise UpstreamError(502, "UpstreamFailure", text)
    response.tunnel = MeteredSession(tunnel, record)


@final
class MeteredSession:
    """The provider's side of a session, as the client's side sees it. See Tunnel."""

    __slots__ = ("_decoder", "_far", "_is_broken", "_produced", "_reader", "_record")

    def __init__(self, far: Tunnel, record: Follower) -> None:
        self._far = far
        self._record = record
        self._decoder = websocket.Decoder(MAX_MESSAGE_BYTES, is_masked=False)
        self._is_broken = False
        self._reader = FORMAT.reader()
        self._produced = Produced()
        """Of the turn under way."""
        record.follow(self._usage)

    async def read(self) -> bytes:
        """See Tunnel."""
        data = await self._far.read()
        if data and not self._is_broken:
            self._see(data)
        return data

    def _see(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except WebSocketError:
            # The client will find out itself; what was read until here counts.
            self._is_broken = True
            return
        for message in messages:
            if message.opcode < CLOSE and any(mark in message.data for mark in _MARKS):
                self._read(message.data)

    def _read(self, data: bytes) -> None:
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        if not isinstance(event, dict):
            return
        if self._reader.feed("", event):
            self._produced.add(event)
            self._record.first_text()
        elif loose.text(event.get("type")) == _DONE:
            self._produced = Produced()

    def _usage(self) -> Usage:
        usage = self._reader.usage
        if not self._produced.events:
            return usage
        self._record.state["estimated"] = True
        return replace(usage, output_tokens=(usage.output_tokens or 0) + self._produced.tokens)

    async def write(self, data: bytes) -> None:
        """See Tunnel."""
        await self._far.write(data)

    def write_eof(self) -> None:
        """See Tunnel."""
        self._far.write_eof()

    def close(self) -> None:
        """See Tunnel."""
        self._far.close()


__all__ = ["MeteredSession", "metered"]
