"""buffer: bodies held whole, refused or streamed on past the bound."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError, RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, read_all
from tests.support.messages import policy, request, response


class Chunks:
    """A body of undeclared length that arrives in pieces."""

    def __init__(self, *pieces: bytes, length: int | None = None) -> None:
        self.pieces = list(pieces)
        self.length = length
        self.trailers: Headers | None = None
        self.is_closed = False

    def read_nowait(self) -> bytes | None:
        return None

    async def read(self) -> bytes:
        if self.pieces:
            return self.pieces.pop(0)
        self.trailers = Headers([(b"grpc-status", b"0")])
        return b""

    def close(self) -> None:
        self.is_closed = True


async def test_request_is_held_with_its_trailers():
    made = request("POST")
    made.body = Chunks(b"ab", b"cd")
    await policy("buffer", {"request": {"maxBytes": 4}}).on_request(made)
    assert isinstance(made.body, FixedBody)
    assert made.body.length == 4
    assert made.body.trailers == [(b"grpc-status", b"0")]
    assert await made.body.read() == b"abcd"


@pytest.mark.parametrize(
    "body", [Chunks(b"ab", b"cd"), Chunks(b"", length=4)], ids=["read", "told"]
)
async def test_larger_request_is_413(body):
    made = request("POST")
    made.body = body
    with pytest.raises(RequestError) as caught:
        await policy("buffer", {"request": {"maxBytes": 3}}).on_request(made)
    assert (caught.value.status, caught.value.message) == (413, "")
    assert body.is_closed


async def test_larger_request_streams_on_when_open():
    made = request("POST")
    made.body = Chunks(b"ab", b"cd", b"ef")
    await policy("buffer", {"request": {"maxBytes": 3, "failureMode": "failOpen"}}).on_request(made)
    assert await read_all(made.body, 100) == b"abcdef"


async def test_default_bound_is_the_frontends():
    made = request("POST")
    made.body = Chunks(b"abc")
    with pytest.raises(RequestError):
        await policy("buffer", {"request": {}}, max_buffer_bytes=2).on_request(made)


async def test_upgrade_is_left_alone():
    made = request()
    made.upgrade = "websocket"
    made.body = body = Chunks(b"abcd")
    await policy("buffer", {"request": {"maxBytes": 1}}).on_request(made)
    assert made.body is body


async def test_response_is_held():
    made = response()
    made.body = Chunks(b"ab", b"cd")
    await policy("buffer", {"response": {}}).on_response(request(), made)
    assert (made.status, made.body.length) == (200, 4)


async def test_larger_response_is_an_empty_502():
    made = response(headers={"x": "1"})
    made.body = body = Chunks(b"ab", b"cd")
    await policy("buffer", {"response": {"maxBytes": 3}}).on_response(request(), made)
    assert (made.status, made.headers, await made.body.read()) == (502, [], b"")
    assert made.reason == "UpstreamFailure"
    assert body.is_closed


async def test_larger_response_streams_on_when_open():
    made = response()
    made.body = Chunks(b"ab", b"cd")
    config = {"response": {"maxBytes": 3, "failureMode": "failOpen"}}
    await policy("buffer", config).on_response(request(), made)
    assert (made.status, await read_all(made.body, 9)) == (200, b"abcd")


def test_unconfigured_directions_have_no_hook():
    assert policy("buffer", {"request": {}}).on_response is None
    assert policy("buffer", {"response": {}}).on_request is None


def test_refused():
    with pytest.raises(ConfigError) as caught:
        policy("buffer", {"request": {"failureMode": "open"}})
    assert caught.value.path == "buffer.request.failureMode"
