"""A realtime session under guards: the provider is a script, octets come cut anywhere."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from sidecar.errors import RequestError, UpstreamError
from sidecar.gateway.llm_guards import Guards
from sidecar.gateway.llm_realtime import guarded, session_guards
from sidecar.http.headers import Headers
from sidecar.http.message import Response, Tunnel
from sidecar.http.websocket import CLOSE, TEXT, Decoder, Message, encode
from tests.support.messages import request, services

Json = dict[str, Any]
MASK = b"\x07\x08\x09\x0a"
SSN = "123-45-6789"
RULES = {"regex": {"rules": [{"builtin": "ssn"}]}}
REJECT = {"regex": {"action": "reject", "rules": [{"pattern": "secret"}]}}
REJECT["rejection"] = {"body": "not here"}
PLACE = {"response_id": "r1", "item_id": "i1", "output_index": 0, "content_index": 0}
TEXTS = "response.output_text"
CALLS = "response.function_call_arguments"


class Provider:
    """The far end of a session: what it said comes out cut in pieces."""

    def __init__(self) -> None:
        self.heard = Decoder(10_000_000, is_masked=True)
        self.messages: list[Message] = []
        self.says: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = False

    def say(self, *events: Json, size: int = 1 << 20) -> None:
        data = b"".join(encode(TEXT, orjson.dumps(event)) for event in events)
        for at in range(0, len(data), size):
            self.says.put_nowait(data[at : at + size])

    async def read(self) -> bytes:
        return await self.says.get()

    async def write(self, data: bytes) -> None:
        self.messages += self.heard.feed(data)

    def write_eof(self) -> None:
        self.says.put_nowait(b"")

    def close(self) -> None:
        self.closed = True

    def took(self) -> list[Json]:
        taken, self.messages = self.messages, []
        return [orjson.loads(message.data) for message in taken]


class Session:
    """A guarded session with both of its ends."""

    def __init__(self, **config: Any) -> None:
        self.counted: list[tuple[str, str]] = []
        given = {"request": [RULES, REJECT], "response": [RULES, REJECT], **config}
        guards = Guards(given, services(), lambda *count: self.counted.append(count))
        self.provider = Provider()
        self.response = Response(101)
        self.response.tunnel = self.provider
        guarded(self.response, guards, request())
        assert self.response.tunnel is not None
        self.tunnel: Tunnel = self.response.tunnel
        self._decoder = Decoder(10_000_000, is_masked=False)
        self._coming: list[Message] = []

    async def send(self, event: Json, size: int = 1 << 20) -> list[Json]:
        """What the provider gets of a client's event."""
        data = encode(TEXT, orjson.dumps(event), MASK)
        for at in range(0, len(data), size):
            await self.tunnel.write(data[at : at + size])
        return self.provider.took()

    async def message(self) -> Message:
        """The next one that the client gets."""
        async with asyncio.timeout(20):
            while not self._coming:
                data = await self.tunnel.read()
                assert data, "the session is over"
                self._coming = self._decoder.feed(data)
        return self._coming.pop(0)

    async def event(self) -> Json:
        value: Json = orjson.loads((await self.message()).data)
        return value

    async def events(self, count: int) -> list[Json]:
        return [await self.event() for _ in range(count)]


def item(text: str) -> Json:
    content = [{"type": "input_text", "text": text}]
    made = {"type": "message", "role": "user", "content": content}
    return {"type": "conversation.item.create", "item": made}


def delta(text: str, name: str = TEXTS) -> Json:
    return {"type": f"{name}.delta", "delta": text, **PLACE}


def done(**output: Any) -> Json:
    answer = {"id": "r1", "output": [output] if output else []}
    return {"type": "response.done", "response": answer}


CREATED: Json = {"type": "response.created", "response": {"id": "r1", "output": []}}


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_the_clients_texts_are_masked(size: int) -> None:
    session = Session()
    assert await session.send(item(f"I am {SSN}"), size) == [item("I am <SSN>")]
    update = {"type": "session.update", "session": {"instructions": SSN}}
    (sent,) = await session.send(update, size)
    assert sent["session"]["instructions"] == "<SSN>"
    create = {"type": "response.create", "response": {"instructions": SSN}}
    (sent,) = await session.send(create, size)
    assert sent["response"]["instructions"] == "<SSN>"
    audio = {"type": "input_audio_buffer.append", "audio": "A" * 100_000}
    assert await session.send(audio, 4096) == [audio]
    session.tunnel.close()


async def test_a_refused_event_is_answered_and_goes_nowhere() -> None:
    session = Session()
    reading = asyncio.ensure_future(session.event())
    assert await session.send(item("the secret")) == [{"type": "response.cancel"}]
    told = await reading
    assert told["type"] == "error"
    error = told["error"]
    wanted = ("guardrail_blocked", "guardrail_intervention", "not here")
    assert (error["type"], error["code"], error["message"]) == wanted
    assert await session.send(item("fine")) == [item("fine")]
    session.tunnel.close()
    assert session.provider.closed


async def test_of_a_repeated_key_the_provider_gets_what_was_judged() -> None:
    session = Session()
    data = b'{"type":"conversation.item.create","item":{"content":[{"text":"secret"}]},"item":{}}'
    await session.tunnel.write(encode(TEXT, data, MASK))
    assert session.provider.took() == [{"type": "conversation.item.create", "item": {}}]


async def test_what_is_no_event_goes_nowhere() -> None:
    session = Session()
    for opcode, data in ((TEXT, b"secret"), (2, b"\x00"), (TEXT, b"[]")):
        await session.tunnel.write(encode(opcode, data, MASK))
        assert (await session.event())["error"]["message"] == "an event is not a JSON object"
    # Binary JSON is judged like any other.
    await session.tunnel.write(encode(2, orjson.dumps(item("secret")), MASK))
    assert session.provider.took() == [{"type": "response.cancel"}]


@pytest.mark.parametrize("size", [1, 3, 11, 1 << 20])
async def test_an_answer_is_masked_over_the_borders_of_events(size: int) -> None:
    session = Session(streaming="Enabled")
    text = f"it is {SSN}."
    whole = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": text}]}
    events = [
        CREATED,
        *(delta(letter) for letter in text),
        {"type": f"{TEXTS}.done", "text": text, **PLACE},
        {"type": "response.output_item.done", "item": whole},
        done(**whole),
    ]
    session.provider.say(*orjson.loads(orjson.dumps(events)), size=size)
    got = await session.events(len(events))
    assert [one["type"] for one in got] == [one["type"] for one in events]
    assert "".join(one.get("delta", "") for one in got) == "it is <SSN>."
    assert got[-3]["text"] == "it is <SSN>."
    assert got[-1]["response"]["output"][0]["content"][0]["text"] == "it is <SSN>."
    assert b"6789" not in orjson.dumps(got)


async def test_transcripts_and_calls() -> None:
    session = Session(streaming="Enabled")
    transcript = "response.output_audio_transcript"
    arguments = orjson.dumps({"ssn": SSN}).decode()
    events = [
        delta(SSN[:5], transcript),
        delta(SSN[5:], transcript),
        {"type": f"{transcript}.done", "transcript": SSN, **PLACE},
        delta(arguments[:12], CALLS),
        delta(arguments[12:], CALLS),
        {"type": f"{CALLS}.done", "arguments": arguments, **PLACE},
    ]
    session.provider.say(*events)
    got = await session.events(len(events))
    assert got[0]["delta"] + got[1]["delta"] == got[2]["transcript"] == "<SSN>"
    assert orjson.loads(got[3]["delta"] + got[4]["delta"]) == {"ssn": "<SSN>"}
    assert orjson.loads(got[5]["arguments"]) == {"ssn": "<SSN>"}


async def test_what_the_user_said_is_not_judged_twice() -> None:
    session = Session(streaming="Enabled")
    event = {"type": "conversation.item.added", "item": item(SSN)["item"]}
    session.provider.say(event)
    assert await session.event() == event


async def test_a_refused_answer_ends_and_the_next_one_comes() -> None:
    session = Session(streaming="Enabled")
    audio = {"type": "response.output_audio.delta", "delta": "AAAA", **PLACE}
    limits = {"type": "rate_limits.updated"}
    session.provider.say(
        CREATED,
        delta("the sec"),
        delta("ret"),
        {"type": f"{TEXTS}.done", "text": "the secret", **PLACE},
        audio,
        limits,
        {"type": "conversation.item.done", "item": {"content": [{"text": "the secret"}]}},
        done(type="message", content=[{"text": "the secret"}]),
        {"type": "response.created", "response": {"id": "r2"}},
    )
    got = await session.events(5)
    kinds = [one["type"] for one in got]
    assert kinds == [
        "response.created",
        "error",
        *(one["type"] for one in (limits, done(), CREATED)),
    ]
    assert got[1]["error"]["code"] == "guardrail_intervention"
    assert got[3]["response"] == {"id": "r1", "output": []}
    assert session.provider.took() == [{"type": "response.cancel"}]
    assert session.response.error == "refused by a prompt guard"


async def test_an_answer_that_is_refused_at_its_end_is_done() -> None:
    session = Session(streaming="Enabled")
    session.provider.say(CREATED, delta("a secret"), done())
    kinds = [one["type"] for one in await session.events(3)]
    assert kinds == ["response.created", "error", "response.done"]


async def test_answers_pass_where_streams_are_not_guarded() -> None:
    session = Session()
    session.provider.say(delta("secret " + SSN))
    assert await session.event() == delta("secret " + SSN)


async def test_the_end() -> None:
    session = Session(streaming="Enabled")
    session.provider.say(delta(f"so {SSN}"))
    session.provider.says.put_nowait(encode(9, b"?") + encode(CLOSE, b"\x03\xe8"))
    assert await session.message() == Message(9, b"?")
    assert (await session.event())["delta"] == "so <SSN>"
    assert await session.message() == Message(CLOSE, b"\x03\xe8")
    assert await session.tunnel.read() == b""
    await session.tunnel.write(encode(TEXT, b"{}", MASK))
    assert session.provider.took() == []


async def test_a_session_that_is_cut() -> None:
    session = Session(streaming="Enabled")
    session.provider.say(delta("a secret"))
    session.provider.write_eof()
    assert (await session.event())["error"]["code"] == "guardrail_intervention"
    assert await session.tunnel.read() == b""


@pytest.mark.parametrize("data", [b"\xc1\x01x", b"\x81\x85abcdeabcd", b"\x81\x01x"])
async def test_a_provider_that_breaks_the_protocol(data: bytes) -> None:
    session = Session(streaming="Enabled")
    session.provider.says.put_nowait(data)
    assert (await session.event())["type"] == "error"
    assert (await session.message()).opcode == CLOSE
    assert await session.tunnel.read() == b""


async def test_a_client_that_breaks_the_protocol() -> None:
    session = Session()
    await session.tunnel.write(encode(TEXT, b"{}"))
    assert [one.opcode for one in session.provider.messages] == [CLOSE]
    assert await session.message() == Message(
        CLOSE,
        session.provider.messages[0].data[:2]
        + (b"a frame's mask is missing, or there is one too many"),
    )


async def test_a_client_that_only_provokes() -> None:
    session = Session()
    for _ in range(100):
        await session.tunnel.write(encode(TEXT, b"nothing", MASK))
    found = [await session.message() for _ in range(65)]
    assert found[-1].opcode == CLOSE
    assert await session.tunnel.read() == b""


def test_who_has_no_guards_and_who_cannot_have_them() -> None:
    made = request()
    made.upgrade = "websocket"
    made.headers.set(b"sec-websocket-extensions", b"permessage-deflate")
    answers = Guards({"response": [RULES]}, services(), lambda *_: None)
    assert session_guards(made, None) is None
    assert session_guards(made, answers) is None
    assert made.headers.get(b"sec-websocket-extensions")
    guards = Guards({"request": [RULES]}, services(), lambda *_: None)
    assert session_guards(made, guards) is guards
    assert made.headers.get(b"sec-websocket-extensions") is None
    with pytest.raises(RequestError, match="WebSocket"):
        session_guards(request(), guards)
    response = Response(101, Headers(((b"sec-websocket-extensions", b"permessage-deflate"),)))
    response.tunnel = Provider()
    with pytest.raises(UpstreamError, match="compresses"):
        guarded(response, guards, made)


async def test_a_refusal_comes_before_what_the_provider_makes_of_it() -> None:
    session = Session()
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(session.event())
        await asyncio.sleep(0)
        part = {"type": "input_text", "text": "a secret"}
        item = {"type": "message", "role": "user", "content": [part]}
        await session.send({"type": "conversation.item.create", "item": item})
        session.provider.say({"type": "response.done", "response": {"id": "r0"}})
        first = await reading
    assert (first["type"], first["error"]["message"]) == ("error", "not here")
    assert (await session.event())["type"] == "response.done"
