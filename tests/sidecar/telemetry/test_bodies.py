"""What is kept of bodies that go by, and what expressions, lines, spans and labels make of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request
from sidecar.telemetry.access import FieldSet
from sidecar.telemetry.bodies import (
    STATE,
    Bodies,
    Fate,
    RecordedBody,
    Recorder,
    Recording,
    Room,
    withhold_request,
)
from sidecar.telemetry.expressions import MAX_BODY_CHARS, MAX_LABEL_CHARS, BodyNotes
from sidecar.telemetry.fields import AccessEntry
from sidecar.telemetry.trace import Sampler, resources_of
from tests.sidecar.telemetry.entries import compiler, entry, request


class Pieces:
    """A body that comes in pieces, each of which has to be waited for every other time."""

    def __init__(self, pieces: Sequence[bytes], *, length: int | None = None) -> None:
        self._pieces = list(pieces)
        self.length = length
        self.trailers: Headers | None = None
        self.closed = 0
        self._is_late = False

    def read_nowait(self) -> bytes | None:
        self._is_late = not self._is_late
        if self._is_late:
            return None
        return self._pieces.pop(0) if self._pieces else b""

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        self.closed += 1


async def read_all(body: RecordedBody) -> bytes:
    found = b""
    while True:
        data = body.read_nowait()
        if data is None:
            data = await body.read()
        if not data:
            return found
        found += data


def recorder(limit: int, room: Room | None = None) -> Recorder:
    return Recorder(limit, room or Room(), wants_request=True, wants_response=True)


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=9), max_size=9), st.integers(0, 40), st.booleans())
def test_pieces(pieces: list[bytes], limit: int, has_length: bool) -> None:
    whole = b"".join(pieces)
    source = Pieces(pieces, length=len(whole) if has_length else None)
    body, recording = recorder(limit).recorded(source)
    assert isinstance(body, RecordedBody)
    assert body.length == source.length
    assert asyncio.run(read_all(body)) == whole
    fields = recording.fields()
    assert fields["bodyPrefix"] == whole[:limit]
    is_whole = len(whole) <= limit
    assert recording.fate == ("whole" if is_whole else "truncated")
    assert (fields["body"] == whole) is is_whole


async def test_what_was_promised_is_the_end() -> None:
    # Who was promised three octets does not ask for more.
    body, recording = recorder(10).recorded(Pieces([b"abc"], length=3))
    assert await body.read() == b"abc"
    assert recording.fate == "whole"


async def test_the_reader_left() -> None:
    source = Pieces([b"abc", b"def"])
    body, recording = recorder(10).recorded(source)
    assert await body.read() == b"abc"
    body.close()
    body.trailers = Headers([(b"a", b"b")])
    assert (source.closed, source.trailers, body.trailers) == (1, body.trailers, source.trailers)
    assert recording.fate == "unread"
    assert recording.fields()["bodyPrefix"] == b"abc"


@pytest.mark.parametrize(
    ("data", "fate"), [(b"", "whole"), (b"abc", "whole"), (b"abcd", "truncated")]
)
def test_what_is_at_hand_stays_as_it_is(data: bytes, fate: Fate) -> None:
    source = FixedBody(data)
    body, recording = recorder(3).recorded(source)
    assert body is source
    assert source.unread == data
    assert (recording.fate, recording.fields()["bodyPrefix"]) == (fate, data[:3])


def test_nothing_to_come() -> None:
    _, recording = recorder(3).recorded(Pieces([], length=0))
    assert recording.fate == "whole"


async def test_room_is_shared_and_given_back() -> None:
    room = Room(10)
    one = recorder(8, room).recorded(FixedBody(b"x" * 6))
    body, recording = recorder(8, room).recorded(Pieces([b"y" * 6, b"z"]))
    assert await body.read() == b"y" * 6
    assert (recording.fate, recording.fields()["bodyPrefix"], room.free_bytes) == (
        "truncated",
        b"yyyy",
        0,
    )
    assert recorder(8, room).recorded(FixedBody(b"x"))[1].fate == "truncated"
    del one
    assert room.free_bytes == 6
    del body, recording
    assert room.free_bytes == 10


def told(asked: bytes | Recording, answered: bytes | Recording = b"") -> AccessEntry:
    """An entry whose exchange had these bodies."""
    made: Request = request(target="/x")
    bodies = made.state[STATE] = Bodies()
    assert isinstance(bodies, Bodies)
    bodies.request, bodies.response = (
        one if isinstance(one, Recording) else recorder(1 << 20).recorded(FixedBody(one))[1]
        for one in (asked, answered)
    )
    return entry(made)


def cut(data: bytes, limit: int) -> Recording:
    return recorder(limit).recorded(FixedBody(data))[1]


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("request.body", b'{"a": 1}'),
        ("json(request.body).a", 1),
        ("response.body.size()", 2),
        ("string(response.bodyPrefix)", "ok"),
        ("json(request.body).a == 1 && response.code == 200", True),
        ("request.path", "/x"),
    ],
)
def test_values(source: str, value: object) -> None:
    assert compiler().expression(source, "p").value(told(b'{"a": 1}', b"ok")) == value


def test_a_body_that_was_not_whole() -> None:
    one = told(cut(b"abcdef", 3))
    made = compiler()
    assert made.expression("request.body", "p").value(one) is None
    # What cannot be looked at is not taken for what is not there.
    assert made.expression('default(request.body, "none")', "p").value(one) is None
    assert not made.expression("!has(request.body)", "p").is_true(one)
    assert made.expression("string(request.bodyPrefix)", "p").value(one) == "abc"
    assert made.expression("response.body", "p").value(one) == b""


def test_what_a_guard_stopped() -> None:
    one = told(b"my number is 4", b"fine")
    assert one.request is not None
    withhold_request(one.request)
    made = compiler()
    assert made.expression("request.body", "p").value(one) is None
    assert made.expression("request.bodyPrefix", "p").value(one) is None
    assert made.expression("string(response.body)", "p").value(one) == "fine"
    withhold_request(request())  # nothing is on record of it


def test_the_line_says_what_it_lacks() -> None:
    add = {"asked": "request.body", "answered": "string(response.bodyPrefix)", "to": "request.path"}
    fields = FieldSet({"add": add}, compiler(), "p")
    whole = dict(fields.added_of(told(b"abc", b"de")))
    assert whole == {"asked": "abc", "answered": "de", "to": "/x"}
    short = dict(fields.added_of(told(cut(b"abc", 2), Recording(9, Room()))))
    assert short == {
        "answered": "",
        "to": "/x",
        "agw.request.body": "truncated",
        "agw.response.body": "unread",
    }
    quiet = FieldSet({"add": add, "remove": ["agw.request.body"]}, compiler(), "p")
    assert "agw.request.body" not in dict(quiet.added_of(told(cut(b"abc", 2))))
    # Only of those that are named.
    other = FieldSet({"add": {"answered": "response.body"}}, compiler(), "p")
    assert dict(other.added_of(told(cut(b"abc", 2), b"de"))) == {"answered": "de"}


def test_notes_of_connections_and_of_tunnels() -> None:
    notes = BodyNotes([compiler().expression("request.body", "p")])
    assert list(notes.of(AccessEntry(request().connection))) == []
    tunnel = request()
    tunnel.state[STATE] = Bodies()
    assert list(notes.of(entry(tunnel))) == []


@pytest.mark.parametrize(
    "source",
    [
        "request.body",
        "string(request.body)",
        "flattenRecursive({'a': string(request.body), 'b': {'c': request.body}})",
        "{'a': string(request.body)}",
    ],
)
def test_lines_have_an_end(source: str) -> None:
    expression = compiler().expression(source, "p")
    found = list(expression.fields("x", told(b"y" * (MAX_BODY_CHARS + 1))))
    assert len(found) == 1
    text = found[0][1]
    assert isinstance(text, str)
    assert text.endswith("y…[cut]")
    assert len(text) == MAX_BODY_CHARS + len("…[cut]")


def test_octets_that_are_no_text() -> None:
    expression = compiler().expression("request.body", "p")
    assert list(expression.fields("x", told(b"a\xff"))) == [("x", "a\\xff")]
    assert expression.label(told(b"a\xff")) == "a\\xff"


def test_labels_have_an_end() -> None:
    expression = compiler().expression("string(request.body)", "p")
    assert expression.label(told(b"y" * 9999)) == "y" * MAX_LABEL_CHARS
    assert expression.label(told(cut(b"abc", 1))) is None


def test_what_is_decided_before_there_is_a_body() -> None:
    with pytest.raises(ConfigError, match=r"^p: names a body"):
        Sampler("request.body.size() > 3", False, compiler(), "p")
    with pytest.raises(ConfigError, match=r"resources\.x: names a body"):
        resources_of({"resources": {"x": "response.body"}}, compiler())


def test_who_needs_what() -> None:
    made = compiler()
    made.expression("request.path", "p")
    assert (made.needs_request_body, made.needs_response_body) == (False, False)
    made.expression("response.bodyPrefix", "p")
    assert (made.needs_request_body, made.needs_response_body) == (False, True)
    made.expressions({"all": "variables()"}, "p")
    assert (made.needs_request_body, made.needs_response_body) == (True, True)
