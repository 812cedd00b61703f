"""Heads and chunks: what is accepted, what is refused, and that it never depends on the cuts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.errors import RequestError, UpstreamError
from sidecar.http import h1
from sidecar.http.chunked import ChunkedDecoder, FramingError, encode_chunk, encode_last_chunk
from sidecar.http.headers import Headers
from tests.support.hostile_http1 import SMUGGLED, get, post

LIMITS = h1.HeadLimits()
SMALL = h1.HeadLimits(line_bytes=40, block_bytes=120, count=3)


def request(data: bytes, limits: h1.HeadLimits = LIMITS) -> h1.RequestHead:
    head = h1.parse_request(data, limits)
    assert head is not None
    return head


def response(data: bytes, *, is_head: bool = False) -> h1.ResponseHead:
    head = h1.parse_response(data, is_head, LIMITS)
    assert head is not None
    return head


class TestRequest:
    def test_all_parts(self) -> None:
        data = b"POST /a?b HTTP/1.1\r\nHost: h\r\nX-A:  1 \r\nx-a:\r\nContent-Length: 3\r\n\r\n"
        head = request(data + b"abc")
        assert (head.method, head.target, head.version) == ("POST", "/a?b", "HTTP/1.1")
        assert head.headers == [(b"x-a", b"1"), (b"x-a", b""), (b"content-length", b"3")]
        assert (head.host, head.length, head.size) == (b"h", 3, len(data))
        assert head.keep_alive

    @pytest.mark.parametrize(
        ("line", "fields", "keep"),
        [
            (b"GET / HTTP/1.1", (), True),
            (b"GET / HTTP/1.1", (b"Connection: Close",), False),
            (b"GET / HTTP/1.1", (b"Connection: a", b"Connection: b , close"), False),
            (b"GET / HTTP/1.0", (), False),
            (b"GET / HTTP/1.0", (b"Connection: keep-alive",), True),
            (b"GET / HTTP/1.0", (b"Connection: keep-alive, close",), False),
        ],
    )
    def test_keep_alive(self, line: bytes, fields: tuple[bytes, ...], keep: bool) -> None:
        assert request(get(*fields, line=line)).keep_alive is keep

    @pytest.mark.parametrize(
        ("fields", "upgrade"),
        [
            ((b"Connection: Upgrade", b"Upgrade: WebSocket"), "websocket"),
            ((b"Connection: keep-alive, upgrade", b"Upgrade: x"), "x"),
            ((b"Upgrade: websocket",), ""),
            ((b"Connection: upgrade",), ""),
            ((b"Connection: upgrade", b"Upgrade: h2c"), ""),
            ((b"Connection: upgrade", b"Upgrade: x", b"Content-Length: 1"), ""),
            ((b"Connection: upgrade", b"Upgrade: x", b"Transfer-Encoding: chunked"), ""),
        ],
    )
    def test_upgrade(self, fields: tuple[bytes, ...], upgrade: str) -> None:
        head = request(get(*fields))
        assert head.upgrade == upgrade
        assert not head.headers.has(b"upgrade")

    def test_no_upgrade_in_1_0(self) -> None:
        line = b"GET / HTTP/1.0"
        assert not request(get(b"Connection: upgrade", b"Upgrade: x", line=line)).upgrade

    def test_expect_and_te(self) -> None:
        head = request(get(b"Expect: 100-Continue", b"TE: trailers, deflate"))
        assert head.expects_continue
        assert head.wants_trailers
        assert head.headers == []

    def test_expect_of_1_0_is_ignored(self) -> None:
        head = request(get(b"Expect: 100-continue", line=b"GET / HTTP/1.0"))
        assert not head.expects_continue

    def test_1_0_needs_no_host(self) -> None:
        assert request(get(host=b"", line=b"GET / HTTP/1.0")).host is None

    def test_coding_is_case_insensitive(self) -> None:
        assert request(post(b"Transfer-Encoding: Chunked\t")).length == h1.CHUNKED

    def test_connection_names_fields(self) -> None:
        head = request(get(b"Connection: x-a, cookie", b"X-A: 1", b"Cookie: c"))
        assert head.headers == [(b"cookie", b"c")]

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (get(line=b"GET /" + b"a" * 40 + b" HTTP/1.1"), 414),
            (b"GET /" + b"a" * 40, 414),
            (get(b"X: " + b"a" * 100), 431),
            (b"GET / HTTP/1.1\r\nX: " + b"a" * 120, 431),
            (get(b"A: 1", b"B: 2", b"C: 3"), 431),
            (b"GET / HTTP/1.1\r\n" + b"A: 1\r\n" * 5, 431),
        ],
    )
    def test_limits(self, data: bytes, status: int) -> None:
        with pytest.raises(RequestError) as caught:
            h1.parse_request(data, SMALL)
        assert caught.value.status == status
        assert caught.value.close

    def test_limits_do_not_count_what_follows(self) -> None:
        assert request(get() + b"x" * 500, SMALL).size == len(get())


PIECES = [
    b"GET", b"POST", b" ", b" ", b"/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\r\n", b"\r\n", b"\r",
    b"\n", b"Host: a\r\n", b"Host", b":", b": ", b"a", b"\t", b"\x00", b"\x80", b"*",
    b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n", b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n\r\n", b"x" * 30,
]  # fmt: skip
octets = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


def outcome(data: bytes) -> h1.RequestHead | int | None:
    """What a connection makes of octets: a head, a refusal's status, or that it waits."""
    if data:
        data = h1.skip_blank(data)
    try:
        return h1.parse_request(data, SMALL) if data else None
    except RequestError as error:
        return error.status


@given(octets)
@example(b"\r\n" + get())
@example(b"\r\n\r\n\r\n" + get())
@example(b"\rX")
@example(get() + SMUGGLED)
def test_request_by_octets(data: bytes) -> None:
    whole = outcome(data)
    for end in range(1, len(data)):
        found = outcome(data[:end])
        if isinstance(found, int):
            # What is refused early would have been refused: the same, or for something behind it.
            assert isinstance(whole, int)
            return
        if found is not None:
            assert found == whole
            return


class TestResponse:
    @pytest.mark.parametrize(
        ("data", "length", "keep"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 5, True),
            (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 0, True),
            (b"HTTP/1.1 200 \r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 5, True),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", h1.CHUNKED, True),
            (b"HTTP/1.1 200 OK\r\n\r\n", h1.UNTIL_CLOSE, False),
            (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", 5, False),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", 5, False),
            (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", 5, True),
            (b"HTTP/1.1 204 No\r\n\r\n", 0, True),
            (b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", 0, True),
            # A body is announced where none can be: whatever follows is not the next answer.
            (b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", 0, False),
            (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", 0, False),
            (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n", 0, True),
        ],
    )
    def test_framing(self, data: bytes, length: int, keep: bool) -> None:
        head = response(data)
        assert (head.length, head.keep_alive) == (length, keep)

    def test_answer_to_head(self) -> None:
        head = response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", is_head=True)
        assert (head.length, head.declared) == (0, 5)

    @pytest.mark.parametrize(
        "data",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 099 Low\r\n\r\n",
            b"HTTP/1.1 20 Short\r\n\r\n",
            b"HTTP/1.1 2000 Long\r\n\r\n",
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\nA: b\n\n",
            b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n",
            b"ICY 200 OK\r\n\r\n",
            b"SSH-2.0-x\r\n",
            b"HTTP/1.1 200 OK\r\nA: " + b"a" * 40_000,
            b"HTTP/1.1 200 OK\r\nA: " + b"a" * 40_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 101 + b"\r\n",
        ],
    )
    def test_refused(self, data: bytes) -> None:
        with pytest.raises(UpstreamError) as caught:
            h1.parse_response(data, False, LIMITS)
        assert caught.value.status == 502
        assert not caught.value.retryable

    def test_waits_for_more(self) -> None:
        data = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
        for end in range(len(data)):
            assert h1.parse_response(data[:end], False, LIMITS) is None


Decoded = tuple[bytes, Headers | None, bytes] | None


def decode(pieces: list[bytes]) -> Decoded | str:
    """Data, trailers and rest; None while incomplete; "refused"."""
    decoder = ChunkedDecoder(SMALL)
    data = b""
    try:
        for index, piece in enumerate(pieces):
            data += decoder.feed(piece)
            if decoder.done:
                return data, decoder.trailers, decoder.rest + b"".join(pieces[index + 1 :])
    except FramingError:
        return "refused"
    return None


class TestChunks:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"0\r\n\r\n", (b"", [], b"")),
            (b"00\r\n\r\nGET", (b"", [], b"GET")),
            (b"2\r\nab\r\nA\r\n0123456789\r\n0\r\n\r\n", (b"ab0123456789", [], b"")),
            (b'1;a=b;c="d" \t ;e\r\nx\r\n0\r\n\r\n', (b"x", [], b"")),
            (b"1 ;a\r\nx\r\n0\r\n\r\n", (b"x", [], b"")),
            (b"0\r\nA: 1\r\nHost: h\r\nCookie: c\r\n\r\nz", (b"", [(b"a", b"1")], b"z")),
        ],
    )
    def test_decoded(self, data: bytes, expected: tuple[bytes, Headers, bytes]) -> None:
        assert decode([data]) == expected
        assert decode([data[at : at + 1] for at in range(len(data))]) == expected

    @pytest.mark.parametrize(
        "data",
        [
            b"\r\n", b" 2\r\n", b"+2\r\n", b"-0\r\n", b"0x2\r\n", b"0_2\r\n", b"2\n", b"g\r\n",
            b"12345678901234567\r\n", b"2\r\nabX", b"2\r\nab\rX", b"2\r\nab\n", b"2;\x00\r\n",
            b"2;\rb\r\n", b"2 x\r\n", b"0\r\nA\r\n\r\n", b"0\r\n A: b\r\n\r\n", b"0\r\nA: b\n\r\n",
            b"2;" + b"a" * 5000, b"0\r\nA: " + b"a" * 200, b"0\r\n" + b"A: b\r\n" * 4 + b"\r\n",
        ],
    )  # fmt: skip
    def test_refused(self, data: bytes) -> None:
        assert decode([data]) == "refused"
        assert decode([data[at : at + 1] for at in range(len(data))]) == "refused"


CHUNK_PIECES = [
    b"0", b"2", b"a", b"\r\n", b"\r\n", b"\r\n", b"\r", b"\n", b"ab", b";x=1", b" ", b"\t",
    b"A: b\r\n", b"2\r\nab\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"\x00", b"GET",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(CHUNK_PIECES), max_size=10).map(b"".join),
    st.lists(st.integers(0, 60), max_size=6),
)
@example(b"2\r\nabXX0\r\n\r\n", [])
def test_chunks_by_octets(data: bytes, cuts: list[int]) -> None:
    whole = decode([data])
    points = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    split = decode([data[a:b] for a, b in pairwise(points)])
    single = decode([data[at : at + 1] for at in range(len(data))])
    assert whole == split == single


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 7))
def test_chunks_come_back(parts: list[bytes], cut: int) -> None:
    trailers = Headers([(b"x-sum", b"1"), (b"host", b"evil")])
    coded = b"".join(map(encode_chunk, parts)) + encode_last_chunk(trailers) + b"rest"
    pieces = [coded[at : at + cut] for at in range(0, len(coded), cut)]
    assert decode(pieces) == (b"".join(parts), [(b"x-sum", b"1")], b"rest")


class TestEncoding:
    def test_status_line(self) -> None:
        assert h1.status_line(404) == b"HTTP/1.1 404 Not Found\r\n"
        assert h1.status_line(299) == b"HTTP/1.1 299 \r\n"

    def test_framing_fields_are_the_senders(self) -> None:
        fields = [(b"a", b"1"), (b"content-length", b"5"), (b"connection", b"x"), (b"b", b"")]
        assert h1.encode_fields(fields) == b"a: 1\r\nb: \r\n"
