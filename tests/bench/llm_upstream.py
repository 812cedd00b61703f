"""A canned provider that streams chat completions: `python -m tests.bench.llm_upstream PORT`.

What a stream is like stands in the prompt, which every proxy passes on: `bench-CHUNKS-PACE` sends
that many chunks, PACE milliseconds apart (0: at once, but each a write of its own); `bench-hold`
sends one, then one more each time that `GET /tick` is asked, and ends with the connection.
`GET /tick` answers how many streams were written to.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Final, cast, final

import uvloop

HOLD: Final = b"bench-hold"
MARK: Final = b"~"
"""Stands once in each chunk of text and nowhere else: one octet, which no framing can split."""
_ASKED: Final = re.compile(rb"bench-(\d+)-(\d+)")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _event(choices: bytes, usage: bytes) -> bytes:
    return (
        b'data: {"id":"chatcmpl-bench0000000000000000000000","object":"chat.completion.chunk",'
        b'"created":1760000000,"model":"gpt-4o-2024-08-06","service_tier":"default",'
        b'"system_fingerprint":"fp_bench00000","choices":%b,"usage":%b}\n\n' % (choices, usage)
    )


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_SAID: Final = b'{"index":0,"delta":{"content":" word%x~"},"logprobs":null,"finish_reason":null}'
_ENDED: Final = b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}'
_USAGE: Final = (
    b'{"prompt_tokens":9,"completion_tokens":200,"total_tokens":209,'
    b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}}'
)
# LiteLLM ends a stream in which a chunk is the same as the one before for too long.
CONTENT: Final = tuple(_chunk(_event(b"[%b]" % (_SAID % word), b"null")) for word in range(16))
END: Final = (
    _chunk(_event(b"[%b]" % _ENDED, b"null"))
    + _chunk(_event(b"[]", _USAGE))
    + _chunk(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


@final
class Provider(asyncio.Protocol):
    """One connection; requests come one after the other."""

    held: Final[set[Provider]] = set()

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._buffer = b""
        self._left = 0
        self._pace_seconds = 0.0
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self.held.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length is not None else 0
        if found and len(body) >= size:
            self._buffer = body[size:]
            self._answer(head, body[:size])

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET "):
            count = b"%d" % (self._tick() if head.startswith(b"GET /tick ") else 0)
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(count), count)
            )
            return
        asked = _ASKED.search(body)
        self._transport.write(_HEAD)
        if asked is None:
            self._transport.write(CONTENT[0])
            self.held.add(self)
            return
        self._left, self._pace_seconds = int(asked[1]), int(asked[2]) / 1000
        self._send()

    @classmethod
    def _tick(cls) -> int:
        for stream in cls.held:
            stream._transport.write(CONTENT[1])
        return len(cls.held)

    def _send(self) -> None:
        if self._is_lost:
            return
        if not self._left:
            self._transport.write(END)
            return
        self._left -= 1
        self._transport.write(CONTENT[self._left % len(CONTENT)])
        if self._pace_seconds:
            self._loop.call_later(self._pace_seconds, self._send)
        else:
            self._loop.call_soon(self._send)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", port, backlog=8192)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
