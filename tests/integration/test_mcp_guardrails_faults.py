"""`mcpGuardrails` that fail or say what cannot be done, what is counted, and guards over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from tests.support.ext_mcp import Answer, ExtMcpServer, Question, let_pass
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.grpc_server import SECONDS
from tests.support.guarded_mcp import (
    FAILED_OPEN,
    METRIC,
    Setting,
    error_of,
    only,
)
from tests.support.mcp_server import McpClient, McpServer, mcp_config, messages
from tests.support.upstream import Upstream


@pytest.fixture(scope="module")
def started() -> Iterator[Setting]:
    with ExitStack() as stack:
        made = Setting(stack)
        yield made
        made.one.released.set()


@pytest.fixture
def setting(started: Setting) -> Iterator[Setting]:
    started.guard.script = started.second.script = let_pass
    started.hook.answer, started.hook.status = {"action": "pass"}, 200
    yield started
    started.guard.script = started.second.script = let_pass


# --- when it fails ------------------------------------------------------------------------------

FAILURES = {
    "status": Answer(status=grpc.StatusCode.UNAVAILABLE),
    "garbage": Answer(raw=b"\xff\xff\xff"),
    "nothing": Answer(raw=b""),
    "huge": Answer(mutated={"x": "y" * 1_200_000}),
}
MISGUIDED = {
    "no JSON": Answer(mutated=b"{"),
    "no object": Answer(mutated=b"[1]"),
    "deep": Answer(mutated=b'{"a":' * 500 + b"1" + b"}" * 500),
    "no name": Answer(mutated={"arguments": {}}),
    "odd arguments": Answer(mutated={"name": "echo", "arguments": [1]}),
    "framing": Answer(set_headers={"content-length": "0"}),
    "smuggling": Answer(set_headers={"x-a": "b\r\nc: d"}),
    "session": Answer(set_headers={"mcp-session-id": "other"}),
    "metadata": Answer(metadata={"x": "y" * 70_000}),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures(setting: Setting, name: str) -> None:
    closed, opened = setting.client("/closed"), setting.client("/open")
    setting.guard.script = only("request", FAILURES[name])
    before = setting.gateway.metric(METRIC, **FAILED_OPEN)
    assert error_of(closed) == {"code": -32603, "message": "Guardrail failed: no verdict"}
    assert opened.text("echo") == "one: echo {}"
    setting.gateway.wait_metric(METRIC, before + 1, **FAILED_OPEN)
    assert "s3cr3t" not in setting.gateway.log()


def test_a_guard_that_hangs(setting: Setting) -> None:
    closed, opened = setting.client("/late"), setting.client("/late-open")
    setting.guard.script = only("request", Answer(hang=True))
    assert error_of(closed)["message"] == "Guardrail failed: no verdict"
    assert opened.text("echo") == "one: echo {}"
    assert setting.guard.cancelled.wait(SECONDS)


def test_a_guard_that_is_slow(setting: Setting) -> None:
    client = setting.client("/closed")
    asked, released = threading.Event(), threading.Event()

    def script(question: Question) -> Answer:
        asked.set()
        released.wait(SECONDS)
        return Answer()

    setting.guard.script = script
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(client.text, "echo")
        assert asked.wait(SECONDS)
        assert setting.client("/free").text("echo") == "one: echo {}"
        assert not said.done()
        released.set()
        assert said.result(SECONDS) == "one: echo {}"


@pytest.mark.parametrize("name", MISGUIDED)
def test_what_cannot_be_done_is_refused_in_any_mode(setting: Setting, name: str) -> None:
    opened = setting.client("/open")
    setting.guard.script = only("request", MISGUIDED[name])
    error = error_of(opened)
    assert error["code"] == -32603
    assert error["message"].startswith("Guardrail failed: ")


def test_ids_and_methods_are_not_changed(setting: Setting) -> None:
    client = setting.client("/open")
    changed = {"name": "echo", "arguments": {}, "id": 99, "method": "ping", "_meta": {"x": 1}}
    setting.guard.script = only("request", Answer(mutated=changed))
    got = client.request("tools/call", name="echo", arguments={})
    assert messages(got)[0]["id"] == client.number
    sent = setting.one.calls[-1]
    assert sent["method"] == "tools/call"
    assert "_meta" not in sent["params"]


def test_checks_are_counted(setting: Setting) -> None:
    client = setting.client("/both")
    counts = {
        ("Request", "Allow"): 3,
        ("Response", "Allow"): 1,
        ("Response", "Mask"): 1,
        ("Response", "Reject"): 1,
    }
    metric = setting.gateway.metric
    before = {key: metric(METRIC, phase=key[0], action=key[1]) for key in counts}
    client.text("one_echo")
    setting.guard.script = only("response", Answer(mutated={"content": []}))
    client.result("tools/call", name="one_echo", arguments={})
    setting.guard.script = only("response", Answer(code=1))
    error_of(client, "one_echo")
    for (phase, action), count in counts.items():
        wanted = before[phase, action] + count
        setting.gateway.wait_metric(METRIC, wanted, phase=phase, action=action)


def test_a_guard_that_dies() -> None:
    with ExitStack() as stack:
        up = stack.enter_context(Upstream(McpServer("one")))
        guard = stack.enter_context(ExtMcpServer())
        (port,) = free_ports(1)
        processor = {"kind": "remote", "host": guard.address, "methods": {"tools/call": "full"}}
        policies = {"mcpGuardrails": {"processors": [processor]}}
        config = mcp_config(port, ("one", up.address), policies=policies)
        stack.enter_context(GatewayProcess(config))
        client = McpClient(port)
        client.initialize()
        assert client.text("echo") == "one: echo {}"
        guard.stop()
        assert error_of(client)["message"] == "Guardrail failed: no verdict"


# --- webhooks -----------------------------------------------------------------------------------


def test_a_webhook_is_asked(setting: Setting) -> None:
    client = setting.client("/hook", x_plain="p", cookie="secret")
    setting.hook.asked.clear()
    assert client.text("echo", a=1) == 'one: echo {"a": 1}'
    asked, answered = setting.hook.asked
    headers = asked.pop("headers")
    assert headers["x-plain"] == "p"
    assert "cookie" not in headers
    common = {"method": "tools/call", "target": "one", "targets": ["one"], "metadata": {}}
    params = {"name": "echo", "arguments": {"a": 1}}
    assert asked == {"phase": "request", **common, "params": params}
    result = answered.pop("result")
    assert result["content"][0]["text"] == 'one: echo {"a": 1}'
    assert answered == {"phase": "response", **common}


def test_a_webhook_changes_and_refuses(setting: Setting) -> None:
    client = setting.client("/hook")
    setting.hook.answer = {"action": "reject", "reason": "no", "code": "RESOURCE_EXHAUSTED"}
    assert error_of(client) == {"code": -32003, "message": "no"}
    setting.hook.answer = {"action": "mutate", "params": {"name": "echo", "arguments": {"a": 5}}}
    # Of a result it says the same, and that makes no sense.
    assert error_of(client)["message"] == "Guardrail failed: its answer cannot be followed"
    assert setting.one.calls[-1]["params"]["arguments"] == {"a": 5}


@pytest.mark.parametrize(
    "answer",
    [
        b"{",
        b"[]",
        b" " * 1_200_000,
        b'{"action": ["pass"]}',
        {"action": "allow"},
        {"action": "pass", "id": 1},
        {"action": "mutate", "method": "ping", "params": {}},
        {"action": "mutate"},
        {"action": "reject", "code": "NO"},
        {"action": "pass", "metadata": 1},
        {"action": "pass", "headers": {"host": "elsewhere"}},
    ],
    ids=lambda answer: str(answer)[:40],
)
def test_answers_of_webhooks_that_are_none(setting: Setting, answer: Any) -> None:
    client = setting.client("/hook")
    setting.hook.answer = answer
    assert error_of(client)["code"] == -32603
    setting.hook.answer, setting.hook.status = {"action": "pass"}, 204
    client = McpClient(setting.port, "/hook", session=client.session)
    assert error_of(client)["code"] == -32603
