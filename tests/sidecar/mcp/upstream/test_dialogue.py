"""Tests of sidecar.mcp.upstream.dialogue and inbox: messages in, messages out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.errors import UpstreamError
from sidecar.jsonrpc import Json, JsonRpcError
from sidecar.mcp.upstream import dialogue as module
from sidecar.mcp.upstream.dialogue import Dialogue
from sidecar.mcp.upstream.inbox import FULL_BYTES, Inbox
from tests.support.mcp_http import drained

CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
LOG = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x"}}


class Line:
    """A dialogue whose both ends the test is."""

    def __init__(self, *, is_anyones: bool = False) -> None:
        self.written: list[Json] = []
        self.held: list[bool] = []
        self.dialogue = Dialogue(
            "t", 5.0, self.written.append, self.held.append, is_anyones=is_anyones
        )

    def call(self, identity: Any = 1, era: Any = "legacy", **params: Any) -> tuple[int, Inbox]:
        message = {"jsonrpc": "2.0", "id": identity, "method": "tools/call", "params": params}
        wire, inbox = self.dialogue.call(message, era)
        return wire["id"], inbox

    def hear(self, *messages: object) -> None:
        for message in messages:
            self.dialogue.receive(message, 10)

    def answer(self, wire: int) -> None:
        self.hear({"jsonrpc": "2.0", "id": wire, "result": {}})


def methods(messages: list[Json]) -> list[Any]:
    return [message.get("method") for message in messages]


async def test_the_callers_message_is_not_changed() -> None:
    line = Line()
    message = {
        "jsonrpc": "2.0", "id": "a", "method": "m",
        "params": {"_meta": {"progressToken": "p", "k": 1}},
    }  # fmt: skip
    wire, _ = line.dialogue.call(message, "legacy")
    assert wire["params"]["_meta"] == {"progressToken": wire["id"], "k": 1}
    assert (message["id"], message["params"]["_meta"]["progressToken"]) == ("a", "p")  # type: ignore[index]


async def test_a_log_line_goes_to_the_newest_request_that_is_read() -> None:
    line = Line()
    first, older = line.call(1)
    second, newer = line.call(2)
    line.hear(LOG)
    newer.close()
    line.hear(LOG, LOG)
    line.answer(second)
    line.answer(first)
    assert methods(await drained(older)) == ["notifications/message"] * 2 + [None]
    assert await drained(newer) == []


async def test_nothing_of_one_client_reaches_another() -> None:
    """Clients that did not say who they are share a server."""
    line = Line(is_anyones=True)
    first, one = line.call(1)
    line.hear(LOG)
    second, two = line.call(1, token=1)
    line.hear(LOG)
    # The first one has left, and its call goes on.
    one.close()
    line.hear(LOG, CHANGED, {**LOG, "method": "elicitation/create", "id": "q"})
    line.answer(first)
    line.answer(second)
    assert methods(await drained(two)) == [None]
    assert [message["id"] for message in line.written] == ["q"]
    third, alone = line.call(2)
    line.hear(LOG)
    line.answer(third)
    assert methods(await drained(alone)) == ["notifications/message", None]


@pytest.mark.parametrize("token", [None, 99, "1", True])
async def test_progress_for_nobody_is_dropped(token: Any) -> None:
    line = Line()
    wire, inbox = line.call(1)
    line.hear({"jsonrpc": "2.0", "method": "notifications/progress",
               "params": {"progressToken": token}})  # fmt: skip
    line.answer(wire)
    assert methods(await drained(inbox)) == [None]


async def test_an_error_without_an_id_answers_the_only_request() -> None:
    line = Line()
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "?"}}
    line.hear(error)
    _, one = line.call(1)
    _, two = line.call(2)
    line.hear(error)
    line.dialogue.forget(two)
    line.hear(error)
    assert [message["id"] for message in await drained(one)] == [1]


async def test_the_newest_listener_hears() -> None:
    line = Line()
    old, new = line.dialogue.listen(), line.dialogue.listen()
    line.hear(CHANGED)
    new.close()
    line.hear(CHANGED, LOG)
    line.dialogue.end(UpstreamError(502, "UpstreamFailure", "over"))
    assert methods(await drained(old)) == [CHANGED["method"], LOG["method"]]
    with pytest.raises(UpstreamError, match="over"):
        line.dialogue.listen()
    with pytest.raises(UpstreamError, match="over"):
        line.call()


async def test_what_is_pushed_out_of_the_backlog_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BACKLOG_MESSAGES", 3)
    line = Line()
    line.hear({"jsonrpc": "2.0", "id": "r", "method": "roots/list"}, CHANGED, CHANGED, CHANGED)
    assert [(said["id"], said["error"]["code"]) for said in line.written] == [("r", -32603)]
    inbox = line.dialogue.listen()
    line.dialogue.end(UpstreamError(502, "UpstreamFailure", "over"))
    assert methods(await drained(inbox)) == [CHANGED["method"]] * 3


async def test_a_subscription_that_the_server_ends() -> None:
    line = Line()
    message = {"jsonrpc": "2.0", "id": "s", "method": "subscriptions/listen", "params": {}}
    wire, inbox = line.dialogue.call(message, "modern")
    line.hear(LOG)
    line.hear({"jsonrpc": "2.0", "method": "notifications/cancelled",
               "params": {"requestId": wire["id"]}})  # fmt: skip
    assert [m["params"]["requestId"] for m in await drained(inbox)] == ["s"]


async def test_the_result_of_a_subscription_has_the_clients_tag() -> None:
    line = Line()
    message = {"jsonrpc": "2.0", "id": "s", "method": "subscriptions/listen", "params": {}}
    wire, inbox = line.dialogue.call(message, "modern")
    meta = {module.SUBSCRIPTION: wire["id"], "k": 1}
    line.hear({"jsonrpc": "2.0", "id": wire["id"], "result": {"_meta": meta}})
    (result,) = await drained(inbox)
    assert result["result"]["_meta"] == {module.SUBSCRIPTION: "s", "k": 1}


async def test_a_legacy_server_takes_back_its_own_request() -> None:
    line = Line()
    wire, inbox = line.call(1)
    line.hear({"jsonrpc": "2.0", "method": "notifications/cancelled",
               "params": {"requestId": wire}})  # fmt: skip
    line.answer(wire)
    assert methods(await drained(inbox)) == ["notifications/cancelled", None]


async def test_requests_without_an_answer_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CALLS", 2)
    line = Line()
    line.call(1)
    _, given_up = line.call(2)
    with pytest.raises(UpstreamError, match="2 requests without an answer"):
        line.call(3)
    given_up.close()
    line.call(3)


async def test_a_full_box_holds_the_server_until_it_is_read() -> None:
    line = Line()
    wire, inbox = line.call(1)
    line.dialogue.receive(LOG, FULL_BYTES)
    line.dialogue.receive(LOG, 10)
    assert line.held == [True]
    assert await inbox.next() is not None
    assert line.held == [True, False]
    line.answer(wire)


async def test_a_reader_that_does_not_read_is_given_up() -> None:
    line = Line()
    _, slow = line.call(1, "modern")
    line.dialogue.receive(LOG, FULL_BYTES + 1)
    _, other = line.call(2, "modern")
    line.dialogue.drop_slow()
    assert line.held == [True, False]
    assert methods(line.written) == ["notifications/cancelled"]
    with pytest.raises(UpstreamError, match="too slow"):
        await slow.next()
    assert not other.is_ended


@pytest.mark.parametrize(
    "junk", [1, None, [], {}, {"jsonrpc": "2.0", "id": {}}, {"jsonrpc": "2.0", "method": 1}]
)
async def test_junk(junk: object) -> None:
    with pytest.raises(JsonRpcError):
        Line().hear(junk)


async def test_a_box_that_is_closed_wakes_its_reader() -> None:
    inbox = Inbox("t", None)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(inbox.next())
        await asyncio.sleep(0)
        inbox.close()
    assert reading.result() is None
    inbox.put(LOG, 1)
    assert await inbox.next() is None


async def test_an_error_comes_behind_what_was_put() -> None:
    inbox = Inbox("t", 1.0)
    inbox.put(LOG, 1, b"e")
    inbox.finish(UpstreamError(502, "UpstreamFailure", "over"))
    inbox.finish()
    first = await inbox.next()
    assert first is not None
    assert first.event_id == b"e"
    with pytest.raises(UpstreamError, match="over"):
        await inbox.next()
