"""What guards see beside requests and results (mcp.asides), without a gateway around it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from shm.sessions import Owner, Session
from sidecar.http.headers import Headers
from sidecar.http.message import Request
from sidecar.jsonrpc import Id, Json, JsonRpcError
from sidecar.mcp import asides as module
from sidecar.mcp.asides import Asides, asides_of
from sidecar.mcp.guards import Checked, Phases, phases
from sidecar.mcp.lanes import Caller
from sidecar.mcp.names import Names
from sidecar.mcp.sessions import Live
from sidecar.mcp.streams import Ready
from sidecar.mcp.token import Claims, Sealer
from sidecar.mcp.upstream.base import Inbound, Scope
from tests.support.mcp_http import outbound

KEY = bytes(range(32))
ASK: Json = {"jsonrpc": "2.0", "id": 7, "method": "elicitation/create", "params": {"message": "?"}}
CANCELLED: Json = {
    "jsonrpc": "2.0",
    "method": "notifications/cancelled",
    "params": {"requestId": 7, "reason": "late"},
}


class Guard:
    """Marks what it sees; refuses what says so."""

    def __init__(self, **methods: Any) -> None:
        found: Phases = phases({key.replace("_", "/", 1): one for key, one in methods.items()})
        self.requests, self.responses = found.requests, found.responses
        self.questions, self.answers, self.notices = found[2:]

    async def request(
        self, method: str, targets: tuple[str, ...], params: Json, headers: Headers, of: Request
    ) -> Checked:
        return Checked(self._seen(params))

    async def response(
        self, method: str, targets: tuple[str, ...], result: Json, of: Request
    ) -> Json:
        return self._seen(result)

    @staticmethod
    def _seen(given: Json) -> Json:
        if "refuse" in given:
            raise JsonRpcError(-32001, "no", status=200)
        return {**given, "seen": True}


def made(guard: Guard, told: list[Json] | None = None) -> Asides:
    async def tell(message: Json, caller: Caller) -> None:
        if told is not None:
            told.append(message)

    def later(make: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        with pytest.raises(StopIteration):
            make().send(None)
        return True

    found = asides_of(guard, Names(("one",), "conditional"), Sealer(KEY), tell, later)
    assert found is not None
    return found


def caller(*, session: bytes | None = b"s" * 16) -> Caller:
    live = None
    if session is not None:
        claims = Claims(b"u" * 16, b"b" * 16, b"p" * 16, "2025-11-25", 0, ())
        row = Session(session, 1, 0, 0, 0, Owner(1, 1, 0), claims.principal, b"")
        live = Live("", claims, row, {})
    of = outbound().of
    return Caller(of, Headers(), b"p" * 16, "legacy", "2025-11-25", Scope("session", b"", 0), live)


async def taken(asides: Asides, who: Caller, *messages: Json) -> list[Json]:
    stream = asides.watched(Ready([Inbound(one) for one in messages]), who)
    found = []
    while (inbound := await stream.next()) is not None:
        found.append(inbound.message)
    return found


def test_nothing_where_nothing_is_looked_at() -> None:
    names, later = Names(("one",), "conditional"), lambda make: True

    async def tell(message: Json, who: Caller) -> None:
        raise AssertionError

    assert asides_of(None, names, Sealer(KEY), tell, later) is None
    guard = Guard(tools_call="full", roots_list="off")
    assert asides_of(guard, names, Sealer(KEY), tell, later) is None


async def test_a_cancellation_names_the_question_as_the_client_knows_it() -> None:
    asides = made(Guard(elicitation_create="response"))
    other = {**CANCELLED, "params": {"requestId": 8}}
    question, cancelled, unknown, again = await taken(
        asides, caller(), ASK, CANCELLED, other, CANCELLED
    )
    assert question["id"].startswith("agwq_")
    assert question["params"] == ASK["params"]
    assert cancelled["params"] == {"requestId": question["id"], "reason": "late"}
    # Of what nobody asked on this stream, and once more.
    assert (unknown, again) == (other, CANCELLED)


async def test_only_so_many_questions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASKED_MAX", 2)
    asides = made(Guard(elicitation_create="response"))
    asked: OrderedDict[Id, str] = OrderedDict()
    for identity in range(5):
        await asides.said({**ASK, "id": identity}, caller(), asked)
    assert list(asked) == [3, 4]


async def test_an_answer_is_to_its_own_question_of_its_own_session() -> None:
    asides = made(Guard(elicitation_create="response"))
    mine, other = caller(), caller(session=b"o" * 16)
    (question,) = await taken(asides, mine, ASK)
    answer: Json = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}
    told = await asides.told(answer, mine)
    assert told is not None
    assert (told["id"], told["result"]) == (7, {"action": "accept", "seen": True})
    for forged, who in (
        (answer, other),
        ({**answer, "id": 7}, mine),
        ({**answer, "id": "7"}, mine),
    ):
        assert await asides.told(forged, who) is None
    refused = await asides.told({**answer, "result": {"refuse": 1}}, mine)
    assert refused is not None
    assert (refused["id"], refused["error"]["code"]) == (7, -32001)
    # A client's own error is not looked at, and no result at all is none.
    error = {"jsonrpc": "2.0", "id": question["id"], "error": {"code": 1, "message": "m"}}
    assert await asides.told(error, mine) == {**error, "id": 7}
    odd = await asides.told({**answer, "result": "text"}, mine)
    assert odd is not None
    assert odd["error"]["code"] == -32603


async def test_a_question_that_is_refused_is_answered_here() -> None:
    told: list[Json] = []
    asides = made(Guard(elicitation_create="request"), told)
    bad = {**ASK, "params": {"refuse": 1}}
    found = await taken(asides, caller(), bad, ASK)
    assert [one["params"] for one in found] == [{"message": "?", "seen": True}]
    assert [(one["id"], one["error"]["code"]) for one in told] == [(7, -32001)]
    # Without a session there is nobody to tell.
    assert await taken(asides, caller(session=None), bad) == []
    assert len(told) == 1


async def test_questions_in_a_result() -> None:
    asides = made(Guard(elicitation_create="full"))
    fine = {"method": "elicitation/create", "params": {"message": "?"}}
    roots = {"method": "roots/list"}
    odd: dict[str, Any] = {"a": fine, "b": roots, "c": "text"}
    result = {"resultType": "input_required", "inputRequests": odd}
    (found,) = await taken(asides, caller(), {"jsonrpc": "2.0", "id": 1, "result": result})
    assert found["result"]["inputRequests"] == {
        "a": {**fine, "params": {"message": "?", "seen": True}},
        "b": roots,
        "c": "text",
    }
    for params in ({"refuse": 1}, [1]):
        bad = {**result, "inputRequests": {"a": {**fine, "params": params}}}
        (found,) = await taken(asides, caller(), {"jsonrpc": "2.0", "id": 1, "result": bad})
        assert (found["id"], found["error"]["code"] in (-32001, -32603)) == (1, True)


@pytest.mark.parametrize(
    ("answer", "is_seen"),
    [
        ({"action": "accept"}, True),
        ({"roots": []}, False),
        ({"role": "assistant", "content": {}, "model": "m"}, False),
        # It could be either: those who look at one of them see it.
        ({"roots": [], "action": "accept"}, True),
    ],
)
async def test_answers_in_a_request(answer: Json, is_seen: bool) -> None:
    asides = made(Guard(elicitation_create="response"))
    message = {"method": "tools/call", "params": {"name": "t", "inputResponses": {"k": answer}}}
    found = await asides.asked(message, caller(session=None))
    assert ("seen" in found["params"]["inputResponses"]["k"]) == is_seen
    assert "seen" not in answer
