"""What a realtime session has used, read from octets that come cut anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from sidecar.errors import UpstreamError
from sidecar.gateway.llm_facts import LlmState
from sidecar.gateway.llm_session import metered
from sidecar.http.headers import Headers
from sidecar.http.message import Response
from sidecar.http.websocket import TEXT, encode
from sidecar.llm.usage import Usage

Json = dict[str, Any]
SPOKEN = {"type": "response.output_text.delta", "delta": "nine more"}


class Far:
    """The provider's side: what it says, cut in pieces, and what it was told."""

    def __init__(self, data: bytes, size: int) -> None:
        self.pieces = [data[at : at + size] for at in range(0, len(data), size)]
        self.heard: list[bytes] = []

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, data: bytes) -> None:
        self.heard.append(data)

    def write_eof(self) -> None:
        self.heard.append(b"eof")

    def close(self) -> None:
        self.heard.append(b"closed")


class Follower:
    """See llm_session.Follower."""

    def __init__(self) -> None:
        self.state = LlmState()
        self.usage: Callable[[], Usage] = Usage
        self.texts = 0

    def follow(self, usage: Callable[[], Usage]) -> None:
        self.usage = usage

    def first_text(self) -> None:
        self.texts += 1


def done(sent: int, received: int) -> Json:
    usage = {"input_tokens": sent, "output_tokens": received}
    return {"type": "response.done", "response": {"usage": usage}}


def said(*events: object) -> bytes:
    return b"".join(encode(TEXT, orjson.dumps(event)) for event in events)


async def counted(data: bytes, size: int = 1 << 20) -> Follower:
    """Who followed a session to its end; not an octet of it is changed."""
    response, follower = Response(101), Follower()
    response.tunnel = Far(data, size)
    metered(response, follower)
    assert response.tunnel is not None
    passed = b""
    while piece := await response.tunnel.read():
        passed += piece
    assert passed == data
    return follower


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_turns_add_up(size: int) -> None:
    audio = {"type": "response.output_audio.delta", "delta": "A" * 70_000}
    other = {"type": "rate_limits.updated"}
    data = said(SPOKEN, audio, done(3, 4), other, SPOKEN, done(10, 20))
    follower = await counted(data, size)
    assert (follower.usage().input_tokens, follower.usage().output_tokens) == (13, 24)
    assert follower.texts == 3
    assert "estimated" not in follower.state


async def test_a_turn_that_was_cut_is_estimated() -> None:
    follower = await counted(said(SPOKEN, done(3, 4), SPOKEN, SPOKEN))
    # Eighteen characters are five tokens.
    assert (follower.usage().input_tokens, follower.usage().output_tokens) == (3, 4 + 5)
    assert follower.state["estimated"] is True


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xff\xff\xff", id="no frame"),
        pytest.param(encode(TEXT, b'{"type":"response.done"', b"\x01\x02\x03\x04"), id="masked"),
        pytest.param(encode(TEXT, b'"response.done" is no JSON'), id="no JSON"),
        pytest.param(encode(TEXT, b'["response.done", "response."]'), id="no object"),
        pytest.param(said({"type": "response.done", "response": {"usage": 7}}), id="no usage"),
        pytest.param(said({"type": "response.done", "response": "x"}), id="no answer"),
    ],
)
async def test_what_makes_no_sense_passes(data: bytes) -> None:
    first = said(done(3, 4))
    follower = await counted(first + data + said(SPOKEN)[:5], len(first))
    assert (follower.usage().input_tokens, follower.usage().output_tokens) == (3, 4)


async def test_the_clients_side_is_untouched() -> None:
    response = Response(101)
    far = response.tunnel = Far(b"", 1)
    metered(response, Follower())
    await response.tunnel.write(b"octets")
    response.tunnel.write_eof()
    response.tunnel.close()
    assert far.heard == [b"octets", b"eof", b"closed"]


def test_compression_that_nobody_asked_for() -> None:
    response = Response(101, Headers([(b"sec-websocket-extensions", b"permessage-deflate")]))
    far = response.tunnel = Far(b"", 1)
    with pytest.raises(UpstreamError, match="compresses"):
        metered(response, Follower())
    assert far.heard == [b"closed"]


def test_a_refused_upgrade() -> None:
    response = Response(403)
    metered(response, Follower())
    assert response.tunnel is None
