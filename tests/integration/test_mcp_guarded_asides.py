"""Guards of what servers ask of clients, what clients answer, and notifications of either side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.ext_mcp import Answer, ExtMcpServer, Question, let_pass
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_eras import modern
from tests.support.mcp_server import Events, McpClient, McpServer, mcp_config, messages
from tests.support.upstream import Upstream

ASK: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": "c1",
    "method": "tools/call",
    "params": {"name": "ask", "arguments": {}},
}
STREAM: dict[str, Any] = {**ASK, "params": {"name": "stream", "arguments": {"mark": "secret"}}}
CHANGED = "notifications/roots/list_changed"


class Setting:
    """A gateway in front of one server of either era, and of two as one."""

    def __init__(self, stack: ExitStack) -> None:
        self.one, self.two = McpServer("one"), McpServer("two")
        self.old = McpServer("old", modern=False)
        addresses = [
            stack.enter_context(Upstream(s)).address for s in (self.one, self.two, self.old)
        ]
        self.guard = stack.enter_context(ExtMcpServer())
        self.single, self.both, self.bridged = free_ports(3)
        methods = {
            "elicitation/create": "full",
            "notifications/message": "request",
            CHANGED: "request",
        }
        guards = {
            "processors": [{"kind": "remote", "host": self.guard.address, "methods": methods}]
        }
        one, two, old = zip(("one", "two", "old"), addresses, strict=True)
        backends = ((self.single, one), (self.both, one, two), (self.bridged, old))
        binds = []
        for port, *targets in backends:
            made = mcp_config(port, *targets, policies={"mcpGuardrails": guards})
            binds += made["binds"]
        self.gateway = stack.enter_context(GatewayProcess({"binds": binds}, workers=2))

    def client(self, port: int) -> McpClient:
        made = McpClient(port)
        made.initialize()
        self.guard.take()
        return made


@pytest.fixture(scope="module")
def started() -> Iterator[Setting]:
    with ExitStack() as stack:
        yield Setting(stack)


@pytest.fixture(params=["one", "several"])
def place(started: Setting, request: pytest.FixtureRequest) -> tuple[int, str]:
    """Port, and what names of the server begin with."""
    return (started.single, "") if request.param == "one" else (started.both, "one_")


@pytest.fixture
def setting(started: Setting) -> Iterator[Setting]:
    started.guard.script = let_pass
    started.guard.take()
    yield started
    started.guard.script = let_pass


def call(message: dict[str, Any], prefix: str) -> dict[str, Any]:
    params = message["params"]
    return {**message, "params": {**params, "name": prefix + params["name"]}}


def answer(identity: str, content: str = "yes") -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "result": {"action": "accept", "content": content}}


def test_question_and_answer_are_shown_and_changed(
    setting: Setting, place: tuple[int, str]
) -> None:
    def script(question: Question) -> Answer:
        if question.phase == "request":
            return Answer(mutated={**question.payload, "message": "who, please?"})
        return Answer(mutated={**question.payload, "content": "masked"})

    port, prefix = place
    client = setting.client(port)
    setting.guard.script = script
    with Events(client, call(ASK, prefix)) as events:
        question = events.next()
        assert question["method"] == "elicitation/create"
        assert question["params"] == {"message": "who, please?"}
        assert "q7" not in question["id"]
        assert client.post(answer(question["id"])).status == 202
        assert events.next()["result"]["content"][0]["text"] == "one: masked"
    asked, answered = setting.guard.take()
    assert (asked.phase, asked.method, asked.targets) == ("request", "elicitation/create", ["one"])
    assert (answered.phase, answered.targets) == ("response", ["one"])
    assert answered.payload == {"action": "accept", "content": "yes"}


def test_a_question_that_is_refused(setting: Setting, place: tuple[int, str]) -> None:
    """The client does not hear of it; the server gets the refusal, and does not wait."""
    port, prefix = place
    client = setting.client(port)
    setting.guard.script = lambda question: Answer(code=1, reason="no questions")
    with Events(client, call(ASK, prefix)) as events:
        said = events.next()
        assert said["id"] == "c1"
        assert said["result"]["content"][0]["text"] == "one: refused"


def test_an_answer_that_is_refused(setting: Setting, place: tuple[int, str]) -> None:
    port, prefix = place
    client = setting.client(port)
    setting.guard.script = lambda question: Answer(code=1 if question.phase == "response" else None)
    with Events(client, call(ASK, prefix)) as events:
        question = events.next()
        assert client.post(answer(question["id"], "secret")).status == 202
        assert events.next()["result"]["content"][0]["text"] == "one: refused"


def test_an_answer_cannot_go_round_its_guard(setting: Setting, place: tuple[int, str]) -> None:
    """By the server's own id, by another's sealed one, or by one that was tampered with."""
    port, prefix = place
    client, other = setting.client(port), setting.client(port)
    with Events(client, call(ASK, prefix)) as events:
        question = events.next()
        sealed = question["id"]
        own = "agw_one_s_q7" if prefix else "q7"
        for forged in (own, "q7", sealed[:-2] + ("AA" if sealed[-2:] != "AA" else "BB")):
            assert client.post(answer(forged, "forged")).status == 202
        assert other.post(answer(sealed, "stolen")).status == 202
        assert client.post(answer(sealed, "own")).status == 202
        assert events.next()["result"]["content"][0]["text"] == "one: own"


def test_notifications_of_servers(setting: Setting, place: tuple[int, str]) -> None:
    def script(question: Question) -> Answer:
        return Answer(mutated={**question.payload, "data": "masked"})

    port, prefix = place
    client = setting.client(port)
    setting.guard.script = script
    with Events(client, call(STREAM, prefix)) as events:
        assert events.next()["params"] == {"level": "info", "data": "masked"}
        assert events.next()["id"] == "c1"
    setting.guard.script = lambda question: Answer(code=1)
    with Events(client, call(STREAM, prefix)) as events:
        # It is left out, and nothing else is.
        assert events.next()["result"]["content"][0]["text"] == "one: streamed secret"
    assert {one.method for one in setting.guard.take()} == {"notifications/message"}


def test_notifications_of_a_listening_stream(setting: Setting) -> None:
    client = setting.client(setting.single)
    setting.guard.script = lambda question: Answer(
        code=1 if question.payload["data"] == 1 else None
    )
    with Events(client) as events:
        setting.one.hear()
        for data in (1, 2):
            said = {"method": "notifications/message", "params": {"data": data}}
            setting.one.listeners[-1].put({"jsonrpc": "2.0", **said})
        assert events.next()["params"] == {"data": 2}


def test_notifications_of_clients(setting: Setting, place: tuple[int, str]) -> None:
    client = setting.client(place[0])
    told = {"jsonrpc": "2.0", "method": CHANGED}
    setting.guard.script = lambda question: Answer(code=1)
    before = len(setting.one.calls)
    assert client.post(told).status == 202
    (asked,) = setting.guard.take()
    assert (asked.phase, asked.method) == ("request", CHANGED)
    setting.guard.script = let_pass
    assert client.post(told).status == 202
    assert client.text(f"{place[1]}echo") == "one: echo {}"
    heard = [one["method"] for one in setting.one.calls[before:]]
    assert heard.count(CHANGED) == 1


@pytest.mark.parametrize("port", ["single", "bridged"])
def test_the_same_for_modern_clients(setting: Setting, port: str) -> None:
    """There they are parts of a result and of a request."""

    def script(question: Question) -> Answer:
        assert question.method == "elicitation/create"
        if question.phase == "request":
            return Answer(mutated={**question.payload, "message": "who, please?"})
        return Answer(mutated={**question.payload, "content": "masked"})

    setting.guard.script = script
    at = getattr(setting, port)
    able: dict[str, Any] = {"elicitation": {}}
    given: dict[str, Any] = {"name": "ask", "arguments": {}}
    found = messages(modern(at, "tools/call", capabilities=able, **given))[-1]["result"]
    ((key, wanted),) = found["inputRequests"].items()
    assert wanted["params"]["message"] == "who, please?"
    said = {key: {"action": "accept", "content": "yes"}}
    state: dict[str, Any] = {"inputResponses": said, "requestState": found["requestState"]}
    done = messages(modern(at, "tools/call", capabilities=able, **given, **state))[-1]["result"]
    assert "masked" in done["content"][0]["text"]
    setting.guard.script = lambda question: Answer(code=1, reason="no questions")
    got = messages(modern(at, "tools/call", capabilities=able, **given))[-1]
    assert got["error"] == {"code": -32001, "message": "no questions"}
