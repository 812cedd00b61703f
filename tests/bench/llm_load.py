"""Load for the LLM benchmark: chats by wrk, streams and their first tokens by clients of ours."""

from __future__ import annotations

import asyncio
import math
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast, final

import orjson
import uvloop

from tests.bench.llm_peers import CHAT, KEY, STREAMED_MODEL, chat
from tests.bench.llm_upstream import MARK
from tests.bench.load import LoadError, Seen, percentile

_SCRIPT: Final = Path(__file__).parent / "wrk" / "chat.lua"
_END: Final = b"0\r\n\r\n"
_FIRST_CHUNKS: Final = 3
CHUNKS: Final = 200


def request(body: bytes) -> bytes:
    """A whole request for a chat."""
    return (
        b"POST %b HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
    ) % (CHAT.encode(), KEY.encode(), len(body), body)


def streamed(chunks: int, pace_milliseconds: int) -> bytes:
    """A whole request for a stream of so many chunks."""
    prompt = f"bench-{chunks}-{pace_milliseconds}"
    return request(chat(STREAMED_MODEL, prompt, stream=True))


def chats(port: int, body: bytes, connections: int, seconds: float) -> Seen:
    """A closed loop of wrk, one thread. Raises: LoadError."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "--timeout"]
        command += ["30s", "-s", str(_SCRIPT), f"http://127.0.0.1:{port}{CHAT}"]
        done = subprocess.run(
            [*command, "--", file.name, KEY],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=False,
        )
    if done.returncode:
        raise LoadError(f"wrk ended with {done.returncode}: {done.stderr.strip()}")
    report = orjson.loads(done.stdout.strip().splitlines()[-1])
    count = report["requests"]
    if not count:
        raise LoadError("no request was answered")
    p50, p99 = report["p50"], report["p99"]
    return Seen(count, report["micros"] / 1e6, report["errors"], p50, p99, count)


@dataclass
class _Counted:
    streams: int = 0
    chunks: int = 0
    errors: int = 0
    seconds: list[float] = field(default_factory=list)


@final
class StreamClient(asyncio.Protocol):
    """Asks for streams one after the other and counts their chunks."""

    def __init__(self, message: bytes, whole: int, until: float, counted: _Counted) -> None:
        """`whole`: chunks of text of a whole stream; a new one begins until `until` (monotonic)."""
        self._message = message
        self._whole = whole
        self._until = until
        self._counted = counted
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._tail = b""
        self._events = 0
        self._began = 0.0
        self._is_closed = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._events = 0
        self._tail = b""
        self._began = time.monotonic()
        self._transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        self._events += data.count(MARK)
        self._tail = (self._tail + data)[-len(_END) :]
        if self._tail == _END:
            self._finish()

    def _finish(self) -> None:
        counted = self._counted
        counted.streams += 1
        counted.chunks += self._events
        counted.errors += self._events != self._whole
        counted.seconds.append(time.monotonic() - self._began)
        if time.monotonic() < self._until:
            self._ask()
        else:
            self._is_closed = True
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._counted.errors += not self._is_closed
        if not self.ended.done():
            self.ended.set_result(None)


def streams(port: int, pace_milliseconds: int, connections: int, seconds: float) -> Seen:
    """So many streams at a time, of CHUNKS chunks each; CPU is counted by the chunk.

    Raises: LoadError.
    """
    message = streamed(CHUNKS, pace_milliseconds)

    async def run() -> _Counted:
        counted = _Counted()
        loop = asyncio.get_running_loop()
        until = time.monotonic() + seconds
        clients = [
            (
                await loop.create_connection(
                    lambda: StreamClient(message, CHUNKS, until, counted), "127.0.0.1", port
                )
            )[1]
            for _ in range(connections)
        ]
        async with asyncio.timeout(seconds + 60):
            await asyncio.gather(*(client.ended for client in clients))
        return counted

    began = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        counted = runner.run(run())
    spent = time.monotonic() - began
    if not counted.seconds:
        raise LoadError("no stream came to its end")
    micros = [one * 1e6 for one in counted.seconds]
    p50, p99 = percentile(micros, 0.5), percentile(micros, 0.99)
    return Seen(counted.streams, spent, counted.errors, p50, p99, counted.chunks)


def first_tokens(port: int, count: int) -> list[float]:
    """Microseconds from a request to its first event, one request after the other.

    Raises: OSError, LoadError.
    """
    message = streamed(_FIRST_CHUNKS, 1)
    found = []
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            began = time.perf_counter()
            client.sendall(message)
            data = client.recv(65536)
            while MARK not in data:
                data += _more(client)
            found.append((time.perf_counter() - began) * 1e6)
            while not data.endswith(_END):
                data += _more(client)
    return found


def _more(client: socket.socket) -> bytes:
    data = client.recv(65536)
    if not data:
        raise LoadError("a stream was cut")
    return data
