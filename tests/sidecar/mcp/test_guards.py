"""Which methods keys mean, and what of messages guards let pass."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.errors import ConfigError
from sidecar.jsonrpc import Json, JsonRpcError
from sidecar.mcp.guards import (
    METHODS,
    NOTICES,
    QUESTIONS,
    Guarded,
    changed_arguments,
    phases,
    without_answers,
)
from sidecar.mcp.streams import Ready
from sidecar.mcp.upstream.base import Inbound

PHASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "none": ({}, "tools/call", "off"),
    "exact": ({"tools/call": "request"}, "tools/call", "request"),
    "exact before prefix": ({"tools/*": "full", "tools/call": "off"}, "tools/call", "off"),
    "prefix before suffix": ({"*/list": "off", "tools/*": "full"}, "tools/list", "full"),
    "suffix before all": ({"*": "request", "*/list": "response"}, "tools/list", "response"),
    "longer prefix": (
        {"resources/*": "off", "resources/templates/*": "full"},
        "resources/templates/list",
        "full",
    ),
    "longer suffix": (
        {"*/list": "off", "*/templates/list": "full"},
        "resources/templates/list",
        "full",
    ),
    "all": ({"*": "full"}, "initialize", "full"),
    "other": ({"tools/*": "full"}, "prompts/get", "off"),
    "results that come later": ({"tools/call": "full"}, "tasks/result", "response"),
    "but by their own key": ({"tools/call": "full", "tasks/*": "off"}, "tasks/result", "off"),
}


@pytest.mark.parametrize("name", PHASES)
def test_phases(name: str) -> None:
    given, method, wanted = PHASES[name]
    requests, responses, *_ = phases(given)
    found = (method in requests, method in responses)
    assert (
        found
        == {
            "off": (False, False),
            "request": (True, False),
            "response": (False, True),
            "full": (True, True),
        }[wanted]
    )
    # Whatever the order in which they are written.
    assert phases(dict(reversed(given.items()))) == phases(given)


@pytest.mark.parametrize(
    "key",
    [
        *("", "tools/cal", "**", "to*ls", "*tools*", "tools/**", "nothing/*", "*/nothing"),
        *("Tools/*", "notifications/initialized", "notifications/cancelled", "*/list_changed"),
    ],
)
def test_keys_that_mean_nothing(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        phases({key: "full"})
    assert caught.value.path == key


def test_all_means_all() -> None:
    """But for notifications, of which there may be many: they have keys of their own."""
    found = phases({"*": "full"})
    assert found == (METHODS, METHODS, QUESTIONS, QUESTIONS, frozenset())
    assert phases({"notifications/*": "request"}).notices == NOTICES


def test_answers_that_come_later() -> None:
    assert phases({"sampling/*": "response"}).answers == {
        "sampling/createMessage",
        "tasks/get",
        "tasks/result",
    }
    assert phases({"roots/list": "full"}).answers == {"roots/list"}
    found = phases({"notifications/*": "off", "notifications/message": "request"})
    assert found.notices == {"notifications/message"}
    assert not found.requests | found.responses | found.questions


@pytest.mark.parametrize("phase", ["response", "full"])
def test_notifications_have_no_response(phase: Any) -> None:
    with pytest.raises(ConfigError, match="a notification has no response") as caught:
        phases({"notifications/*": phase})
    assert caught.value.path == "notifications/*"


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ({"a": 1}, {"a": 1}, set()),
        ({"a": 1}, {"a": 2}, {"a"}),
        ({"a": 1}, {"b": None}, {"a", "b"}),
        (None, {"a": 1}, {"a"}),
        ({"a": None}, {}, {"a"}),
        ([1], "x", set()),
    ],
)
def test_changed_arguments(before: object, after: object, changed: set[str]) -> None:
    assert changed_arguments(before, after) == changed


async def doubled(result: Json) -> Json:
    return {**result, "seen": True}


async def refused(result: Json) -> Json:
    raise JsonRpcError(-32001, "no", status=200, data={"x": 1})


def taken(messages: Any) -> list[Inbound]:
    async def run() -> list[Inbound]:
        found = []
        while (inbound := await messages.next()) is not None:
            found.append(inbound)
        return found

    return asyncio.run(run())


def inbounds(*given: Json) -> Ready:
    return Ready([Inbound(one, b"e%d" % index) for index, one in enumerate(given)])


NOTE: Json = {"jsonrpc": "2.0", "method": "notifications/progress"}
ERROR: Json = {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "m"}}


def test_results_are_judged() -> None:
    result = {"jsonrpc": "2.0", "id": 1, "result": {"ttlMs": 9, "cacheScope": "public"}}
    found = taken(Guarded(inbounds(NOTE, result), 1, doubled))
    assert [one.message for one in found] == [
        NOTE,
        {**result, "result": {"ttlMs": 0, "cacheScope": "private", "seen": True}},
    ]
    assert all(one.event_id == b"" for one in found)


@pytest.mark.parametrize(
    "answer",
    [
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        {"jsonrpc": "2.0", "id": 2, "result": {}},
        {"jsonrpc": "2.0", "method": "x", "id": 1, "result": {}},
    ],
)
def test_refusals_answer_the_request(answer: Json) -> None:
    (found,) = taken(Guarded(inbounds(answer), 1, refused))
    error = {"code": -32001, "message": "no", "data": {"x": 1}}
    assert found.message == {"jsonrpc": "2.0", "id": 1, "error": error}


def test_errors_pass_and_odd_results_do_not() -> None:
    odd = {"jsonrpc": "2.0", "id": 1, "result": "text"}
    error, made = taken(Guarded(inbounds(ERROR, odd), 1, doubled))
    assert error.message == ERROR
    assert made.message["error"]["code"] == -32603


def test_a_listening_stream_has_no_answers() -> None:
    answer = {"jsonrpc": "2.0", "id": 1, "result": {}}
    found = taken(without_answers(inbounds(NOTE, answer, NOTE)))
    assert [one.message for one in found] == [NOTE, NOTE]
