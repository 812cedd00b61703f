"""What a request costs over HTTP/2: python-h2 as it comes, our codec, and the whole server.

Run: python -m tests.bench.h2_bench. Process CPU time, one core; 8 request fields (one of them a
never-indexed credential), 5 response fields, 100 octets of body.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from hpack import Decoder, Encoder
from hyperframe.frame import HeadersFrame, SettingsFrame

from sidecar.http.h2 import H2Codec, H2Limits, block_of
from sidecar.http.h2_fields import FieldRules, request_head
from sidecar.http.h2_guard import PREFACE
from sidecar.http.h2_hpack import BlockDecoder, decode_huffman, encode_fields
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.net.h2_server import H2Server
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.telemetry.clock import SystemClock

COUNT = 20_000
TOKEN = b"Bearer abcdefghijklmnop"
GET = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"example.com"),
    (b":path", b"/v1/items?x=1"),
    (b"user-agent", b"h2load nghttp2/1.52.0"),
    (b"accept", b"*/*"),
    (b"x-request-id", b"0123456789abcdef0123456789abcdef"),
    (b"authorization", TOKEN, True),
]
FIELDS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"100"),
    (b"date", b"Sat, 21 Nov 2026 06:00:00 GMT"),
    (b"server", b"x"),
]
BODY = b"x" * 100


def chunks(many: int) -> Iterator[tuple[bytes, list[int]]]:
    """Octets of `many` requests at a time, and their stream ids."""
    encoder = Encoder()
    stream_id = 1
    for _ in range(COUNT // many):
        data = b""
        ids = list(range(stream_id, stream_id + 2 * many, 2))
        stream_id += 2 * many
        for number in ids:
            flags = ["END_HEADERS", "END_STREAM"]
            data += HeadersFrame(number, encoder.encode(GET), flags=flags).serialize()
        yield data, ids


def opening() -> bytes:
    grant = b"\0\0\x04\x08\0\0\0\0\0" + (2**30).to_bytes(4)
    return PREFACE + SettingsFrame(0, settings={4: 2**20}).serialize() + grant


def python_h2(many: int) -> float:
    """python-h2 with its defaults."""
    connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()
    connection.receive_data(opening())
    work = list(chunks(many))
    started = time.process_time()
    for data, ids in work:
        connection.receive_data(data)
        for number in ids:
            connection.send_headers(number, [(b":status", b"200"), *FIELDS])
            connection.send_data(number, BODY, end_stream=True)
        connection.data_to_send()
    return time.process_time() - started


def codec(many: int) -> float:
    """The same through our codec, and the request mapped besides."""
    connection = H2Codec(H2Limits(), is_client=False)
    connection.start()
    connection.receive(opening(), 0.0)
    rules = FieldRules(str)
    work = list(chunks(many))
    started = time.process_time()
    for data, ids in work:
        for event in connection.receive(data, 0.0):
            if type(event) is RequestReceived:
                request_head(block_of(event), rules)
        for number in ids:
            connection.respond(number, 200, FIELDS, end=False)
            connection.send_data(number, BODY, end=True)
        connection.take()
    return time.process_time() - started


class _Sink(asyncio.Transport):
    """Takes everything."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def write(self, data: object) -> None:
        return

    def get_write_buffer_size(self) -> int:
        return 0


async def serve(many: int) -> float:
    """H2Server with a task a stream and a handler that answers at once."""

    async def handler(request: Request) -> Response:
        return Response(200, Headers(FIELDS), FixedBody(BODY))

    sweeper = Sweeper(asyncio.get_running_loop())
    server = H2Server(
        handler,
        None,
        HttpSettings(h2_requests_per_connection=10**9),
        sweeper,
        SystemClock(),
        scheme="http",
        check_authority=str,
        on_closed=lambda server: None,
    )
    server.connection_made(_Sink())
    server.data_received(opening())
    work = list(chunks(many))
    started = time.process_time()
    for data, _ in work:
        server.data_received(data)
        for _ in range(3):
            await asyncio.sleep(0)
    spent = time.process_time() - started
    sweeper.close()
    return spent


def each(label: str, call: Callable[[], object], count: int = 20_000) -> None:
    started = time.process_time()
    for _ in range(count):
        call()
    print(f"{label:<44}{(time.process_time() - started) / count * 1e6:8.1f} us")


def main() -> None:
    """Print the figures."""
    for many in (1, 10, 100):
        for label, spent in (
            ("python-h2, defaults", python_h2(many)),
            ("codec, with request mapping", codec(many)),
            ("server, a task a stream", asyncio.run(serve(many))),
        ):
            print(f"{label:<32}{many:>4} at a time  {spent / COUNT * 1e6:8.1f} us a request")
    warm = Encoder()
    warm.encode(GET)
    block = warm.encode(GET)
    ours, theirs = BlockDecoder(1 << 16), Decoder()
    first = Encoder().encode(GET)
    ours.decode(first)
    theirs.decode(first, raw=True)
    each("decode 8 fields, hpack", lambda: theirs.decode(block, raw=True))
    each("decode 8 fields, ours", lambda: ours.decode(block))
    encoder = Encoder()
    each("encode 4 fields, hpack", lambda: encoder.encode(FIELDS))
    each("encode 4 fields, ours", lambda: encode_fields(FIELDS))
    token = Encoder().huffman_coder.encode(b"e30." * 200)
    each("Huffman, 800 octets, ours", lambda: decode_huffman(token), 500)


if __name__ == "__main__":
    main()
