"""What is told of requests to who listens, in which form, and what becomes of too much of it."""

from __future__ import annotations

import os
import socket
from typing import Any

import orjson
import pytest

from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.debug_trace import MAX_FRAME_BYTES, STATE, DebugTrace, Watched, peer_uid
from tests.sidecar.telemetry.entries import compiler, request


class Sink:
    """Takes as many frames as it has room for."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.events: list[dict[str, Any]] = []

    def send(self, data: bytes) -> bool:
        if not self.room:
            return False
        self.room -= 1
        first, second, third, rest = data.split(b"\n")
        assert (third, rest) == (b"", b"")
        event = orjson.loads(second.removeprefix(b"data: "))
        assert first == b"event: " + event["type"].encode()
        self.events.append(event)
        return True


def trace(sink: Sink, wanted: str | None = None, *sensitive: bytes) -> DebugTrace:
    expression = None if wanted is None else compiler().expression(wanted, "p", at_end=False)
    return DebugTrace(expression, sensitive, sink.send, SystemClock(), 3)


def begun(one: DebugTrace, made: Request | None = None) -> Watched:
    found = one.watched(made or request())
    assert found is not None
    return found


def test_a_request() -> None:
    sink = Sink()
    headers = Headers([(b"x-a", b"\xe4"), (b"cookie", b"c"), (b"x-mine", b"m"), (b"x-own", b"o")])
    made = request(headers=headers)
    made.state["sensitive_headers"] = {b"x-own"}
    made.state["mcp"] = {"methodName": "tools/call", "tool": {"name": "add", "arguments": {}}}
    watched = begun(trace(sink, None, b"x-mine"), made)
    watched.called("10.0.0.1:80")
    watched.call_ended("10.0.0.1:80", 1_500_000)
    watched.answered(made, Response(404, Headers([(b"set-cookie", b"s")])))
    watched.finished(made, 404, 7, "", "Upstream", 2_000_000)
    started, asked, called, ended, answered, finished = sink.events
    assert {one["request"] for one in sink.events} == {"3-1"}
    assert {one["worker"] for one in sink.events} == {3}
    assert (started["method"], started["path"], started["source"]) == (
        "GET",
        "/a/b",
        "10.0.0.1:40774",
    )
    assert asked["headers"] == [
        ["x-a", "ä"],
        ["cookie", "<redacted>"],
        ["x-mine", "<redacted>"],
        ["x-own", "<redacted>"],
    ]
    assert (called["target"], ended["durationMs"]) == ("10.0.0.1:80", 1.5)
    assert (answered["status"], answered["headers"]) == (404, [["set-cookie", "<redacted>"]])
    assert (finished["severity"], finished["responseBytes"]) == ("warn", 7)
    assert finished["fields"] == {
        "mcp.method.name": "tools/call",
        "mcp.resource.type": "tool",
        "gen_ai.tool.name": "add",
    }


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        (b"mcp-session-id", b"s", "<redacted>"),
        (b"x-team-key", b"s", "<redacted>"),
        (b"x-id-token", b"s", "<redacted>"),
        (b"x-ratelimit-remaining-tokens", b"12", "12"),
        (b"location", b"https://a.test/cb?code=s", "https://a.test/cb"),
        (b"referer", b"https://a.test/#access_token=s", "https://a.test/"),
        (b"x-note", b"a?b", "a?b"),
    ],
)
def test_credentials_in_headers(name: bytes, value: bytes, shown: str) -> None:
    sink = Sink()
    begun(trace(sink), request(headers=Headers([(name, value)])))
    assert sink.events[1]["headers"] == [[name.decode(), shown]]


@pytest.mark.parametrize(
    ("status", "error", "severity"),
    [
        (200, "", "success"),
        (101, "", "success"),
        (200, "cut", "error"),
        (403, "authorization failed", "warn"),
        (503, "", "error"),
        (0, "client disconnected", "error"),
    ],
)
def test_severity(status: int, error: str, severity: str) -> None:
    sink = Sink()
    begun(trace(sink)).finished(request(), status, 0, error, "", 0)
    assert sink.events[-1]["severity"] == severity


def test_what_is_wanted() -> None:
    sink = Sink()
    one = trace(sink, 'request.method == "PUT"')
    assert one.watched(request()) is None
    made = request("PUT")
    assert begun(one, made) is begun(one, made)  # begun anew on the long way, it is told once
    assert [event["type"] for event in sink.events] == ["requestStarted", "requestSnapshot"]
    assert trace(sink, "jwt.sub == 'a'").watched(request()) is None
    assert request().state.get(STATE) is None


def test_what_there_is_no_room_for_is_counted() -> None:
    sink = Sink(room=0)
    watched = begun(trace(sink))
    sink.room = 1
    watched.called("a")
    watched.called("b")  # no room behind the word of those before
    sink.room = 9
    watched.called("c")
    assert [(one["type"], one.get("count")) for one in sink.events] == [
        ("dropped", 2),
        ("dropped", 2),
        ("backendCallStart", None),
    ]


def test_what_is_too_large() -> None:
    sink = Sink()
    headers = Headers([(b"x", b"y" * MAX_FRAME_BYTES)])
    begun(trace(sink), request(headers=headers))
    assert (sink.events[1]["type"], sink.events[1]["cut"]) == ("requestSnapshot", True)
    begun(trace(sink)).finished(request(), 200, 0, "\ud800", "", 0)
    assert (sink.events[-1]["type"], sink.events[-1]["cut"]) == ("requestFinished", True)


def test_whose_process_it_is() -> None:

    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_uid(one) == os.getuid()
