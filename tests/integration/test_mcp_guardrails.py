"""`mcpGuardrails`: guards over gRPC and over HTTP, in front of servers of every kind."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
import yaml

from tests.support.ext_mcp import Answer, ExtMcpServer, Question, let_pass
from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.grpc_server import SECONDS
from tests.support.mcp_server import Events, McpClient, McpServer, mcp_config, messages
from tests.support.upstream import Answer as HttpAnswer
from tests.support.upstream import Seen, Upstream

CHILD = {"cmd": sys.executable, "args": ["-I", "-S", str(ROOT / "tests/support/mcp_stdio.py")]}
METRIC = "agentgateway_guardrail_checks_total"
FAILED_OPEN = {"phase": "Request", "action": "FailOpen"}


class Setting:
    """A gateway whose routes are guarded, each in its own way: `client(path)`."""

    def __init__(self, stack: ExitStack) -> None:
        self.one = McpServer("one", tools=("echo", "stream", "region", "fail"), event_ids=True)
        self.two = McpServer("two", is_public=True)
        self.guard = stack.enter_context(ExtMcpServer())
        self.second = stack.enter_context(ExtMcpServer())
        self.hook = Hook()
        self.hook_address = stack.enter_context(Upstream(self.hook)).address
        one = target("one", stack.enter_context(Upstream(self.one)).address)
        two = target("two", stack.enter_context(Upstream(self.two)).address)
        (self.port,) = free_ports(1)
        full = {"tools/*": "full", "*/list": "response", "initialize": "full"}
        secret = {"allowed": ["x-shown", "authorization", ":path"], "disallowed": ["x-hidden"]}
        told = {"who": "request.headers['x-who']", "tool": "mcp.tool.name", "n": "1 + 1"}
        first = self.remote(self.guard, full, metadata=told)
        late = self.remote(self.guard, {"tools/call": "request"})
        late["policies"] = {"http": {"requestTimeout": "100ms"}}
        rule = 'mcpGuardrails.level == 3 && mcp.tool.name != "fail"'
        fixed = {**one, "tools": {"override": {"echo": {"arguments": {"b": 2}}}}}
        both = [one, two]
        at = {
            "/both": route(both, [first]),
            "/chain": route([one], [first, self.remote(self.second, {"*": "full"})]),
            "/open": route([one], [{**first, "failureMode": "failOpen"}]),
            "/closed": route([one], [first]),
            "/late": route([one], [late]),
            "/late-open": route([one], [{**late, "failureMode": "failOpen"}]),
            "/shown": route([one], [{**first, "requestHeaders": secret}]),
            "/rules": route([one], [first], mcpAuthorization={"rules": [rule]}),
            "/fixed": route([fixed], [first]),
            "/stdio": route([{"name": "std", "stdio": CHILD}], [first]),
            "/hook": route([one], [self.webhook({"*": "full"})]),
            "/none": route([one], [{**first, "methods": {"*": "full", "tools/*": "off"}}]),
        }
        at["/free"] = at["/targeted"] = route([one], [])
        inner = route([one], [])
        inner["backends"][0]["policies"] = {"mcpGuardrails": {"processors": [first]}}
        at["/backend"] = inner
        routes = [
            {"matches": [{"path": {"exact": path}}], "name": path[1:], **one_route}
            for path, one_route in at.items()
        ]
        config = mcp_config(self.port)
        config["binds"][0]["listeners"][0]["routes"] = routes
        named = {"name": "targeted", "namespace": "default"}
        config["policies"] = [
            {
                "name": {"name": "guarded", "namespace": "default"},
                "target": {"route": named},
                "policy": {"mcpGuardrails": {"processors": [first]}},
            }
        ]
        self.gateway = stack.enter_context(GatewayProcess(config, workers=2))

    def remote(self, guard: ExtMcpServer, methods: Any, **more: Any) -> dict[str, Any]:
        return {"kind": "remote", "host": guard.address, "methods": methods, **more}

    def webhook(self, methods: Any) -> dict[str, Any]:
        made = {"kind": "webhook", "host": self.hook_address, "path": "/judge"}
        return {**made, "methods": methods}

    def client(self, path: str, **headers: str) -> McpClient:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        made = McpClient(self.port, path, headers=given)
        made.initialize()
        self.guard.take()
        self.second.take()
        return made


class Hook:
    """A webhook: answers by `script`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Any = {"action": "pass"}
        self.status = 200

    def __call__(self, seen: Seen) -> HttpAnswer:
        asked = json.loads(seen.body)
        assert (seen.method, seen.target) == ("POST", "/judge")
        self.asked.append(asked)
        answer = self.answer if asked["method"] == "tools/call" else {"action": "pass"}
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return HttpAnswer(self.status, [("content-type", "application/json")], raw)


def target(name: str, address: str) -> dict[str, Any]:
    return {"name": name, "mcp": {"host": f"http://{address}/mcp"}}


def route(targets: list[Any], processors: list[Any], **policies: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"backends": [{"mcp": {"targets": targets}}]}
    if processors:
        policies["mcpGuardrails"] = {"processors": processors}
    return {**made, "policies": policies} if policies else made


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


def error_of(client: McpClient, tool: str = "echo", **arguments: Any) -> dict[str, Any]:
    got = client.request("tools/call", name=tool, arguments=arguments)
    assert got.status == 200, got
    found: dict[str, Any] = messages(got)[-1]["error"]
    return found


def only(phase: str, answer: Answer) -> Any:
    """Say it of calls in one phase."""

    def script(question: Question) -> Answer:
        is_meant = question.phase == phase and question.method == "tools/call"
        return answer if is_meant else Answer()

    return script


# --- what is asked ------------------------------------------------------------------------------


def test_a_call_is_shown_in_the_words_of_its_server(setting: Setting) -> None:
    client = setting.client("/both", x_who="me", cookie="secret", x_plain="p")
    assert client.text("two_echo", a=1) == 'two: echo {"a": 1}'
    asked, answered = setting.guard.take()
    assert (asked.phase, asked.method, asked.targets) == ("request", "tools/call", ["two"])
    assert asked.payload == {"name": "echo", "arguments": {"a": 1}}
    assert asked.metadata == {"who": "me", "tool": "echo", "n": 2.0}
    assert asked.headers["x-plain"] == "p"
    assert "cookie" not in asked.headers
    assert (answered.phase, answered.targets) == ("response", ["two"])
    assert answered.payload["content"][0]["text"] == 'two: echo {"a": 1}'


def test_only_headers_that_are_named(setting: Setting) -> None:
    client = setting.client(
        "/shown", x_shown="1", x_hidden="2", x_other="3", authorization="Bearer t"
    )
    client.text("echo")
    shown = setting.guard.take()[0].headers
    assert shown == {"x-shown": "1", "authorization": "Bearer t", ":path": "/shown"}


def test_merged_lists_are_shown_once(setting: Setting) -> None:
    client = setting.client("/both")

    def hide(question: Question) -> Answer:
        if question.phase == "request":
            return Answer()
        kept = [tool for tool in question.payload["tools"] if tool["name"].endswith("echo")]
        return Answer(mutated={**question.payload, "tools": kept})

    setting.guard.script = hide
    listed = client.result("tools/list")
    assert [tool["name"] for tool in listed["tools"]] == ["one_echo", "two_echo"]
    (asked,) = [one for one in setting.guard.take() if one.phase == "response"]
    assert asked.targets == ["one", "two"]


def test_what_one_client_may_see_is_not_kept_by_others(setting: Setting) -> None:
    listed = messages(McpClient(setting.port, "/both").modern("tools/list"))[-1]["result"]
    assert (listed["ttlMs"], listed["cacheScope"]) == (0, "private")


def test_methods_without_a_key_pass_by(setting: Setting) -> None:
    client = setting.client("/both")
    client.result("resources/read", uri="one+memo://one/a")
    client.result("ping")
    assert setting.guard.take() == []
    bypassed = setting.client("/none")
    bypassed.text("echo")
    assert setting.guard.take() == []
    bypassed.result("ping")
    assert [one.phase for one in setting.guard.take()] == ["request", "response"]


def test_at_a_backend_and_before_a_child_process(setting: Setting) -> None:
    for path in ("/backend", "/targeted"):
        setting.client(path).text("echo")
        assert len(setting.guard.take()) == 2, path
    setting.guard.script = only("request", Answer(code=1, reason="not here"))
    assert error_of(setting.client("/backend"))["message"] == "not here"
    for number in range(4):
        # Whichever worker has the session's child.
        client = setting.client("/stdio")
        setting.guard.script = let_pass
        assert client.text("echo", text=f"{number}") == f"{number}"
        setting.guard.script = only("response", Answer(mutated={"content": []}))
        called = client.result("tools/call", name="echo", arguments={"text": "x"})
        assert called == {"content": []}


# --- what it may do -----------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "number"), [(0, -32603), (1, -32001), (2, -32003), (3, -32600)])
@pytest.mark.parametrize("phase", ["request", "response"])
def test_refusals(setting: Setting, phase: str, code: int, number: int) -> None:
    client = setting.client("/both")
    setting.guard.script = only(phase, Answer(code=code, reason="no"))
    before = len(setting.one.calls)
    assert error_of(client, "one_echo") == {"code": number, "message": "no"}
    reached = [call["method"] for call in setting.one.calls[before:]]
    assert reached == ([] if phase == "request" else ["tools/call"])


def test_a_refusal_in_its_own_words(setting: Setting) -> None:
    said = {"code": -32050, "message": "ask your admin", "data": {"ref": 7}}
    setting.guard.script = only("request", Answer(code=1, reason="no", error=said))
    assert error_of(setting.client("/both"), "one_echo") == said


def test_changes_of_both(setting: Setting) -> None:
    def script(question: Question) -> Answer:
        if question.phase == "request":
            changed = {**question.payload, "arguments": {"a": "masked"}}
            headers = {"x-ticket": "7"}
            return Answer(mutated=changed, set_headers=headers, remove_headers=["x-drop"])
        text = question.payload["content"][0]["text"]
        return Answer(mutated={"content": [{"type": "text", "text": text.upper()}]})

    client = setting.client("/both", x_drop="1")
    setting.guard.script = script
    assert client.text("one_echo", a="secret") == 'ONE: ECHO {"A": "MASKED"}'
    assert setting.one.calls[-1]["params"]["arguments"] == {"a": "masked"}


def test_another_name_is_judged_by_rules(setting: Setting) -> None:
    client = setting.client("/rules")
    setting.guard.script = only("request", Answer(metadata={"level": 3}))
    assert client.text("echo") == "one: echo {}"
    renamed = {"name": "fail", "arguments": {}}
    setting.guard.script = only("request", Answer(mutated=renamed, metadata={"level": 3}))
    got = client.request("tools/call", name="echo", arguments={})
    assert (got.status, messages(got)[0]["error"]["message"]) == (400, "Unknown tool: echo")
    setting.guard.script = only("request", Answer(metadata={"level": 2}))
    assert client.request("tools/call", name="echo", arguments={}).status == 400


def test_what_the_operator_fixed_stays(setting: Setting) -> None:
    client = setting.client("/fixed")
    changed = {"name": "echo", "arguments": {"a": 1, "b": 9}}
    setting.guard.script = only("request", Answer(mutated=changed))
    assert client.text("echo", a=0) == 'one: echo {"a": 1, "b": 2}'
    assert setting.guard.take()[0].payload["arguments"] == {"a": 0, "b": 2}


def test_repeated_arguments_follow_the_change(setting: Setting) -> None:
    client = McpClient(setting.port, "/chain", headers={"mcp-param-region": "us"})
    changed = {"name": "region", "arguments": {"region": "eu"}}
    setting.guard.script = only("request", Answer(mutated=changed))
    got = client.modern("tools/call", "region", name="region", arguments={"region": "us"})
    # The server refuses a header that says otherwise.
    assert "eu" in messages(got)[-1]["result"]["content"][0]["text"]


def test_each_sees_what_the_one_before_made(setting: Setting) -> None:
    client = setting.client("/chain")
    changed = {"name": "echo", "arguments": {"a": 2}}
    setting.guard.script = only("request", Answer(mutated=changed))
    assert client.text("echo", a=1) == 'one: echo {"a": 2}'
    assert setting.second.take()[0].payload["arguments"] == {"a": 2}
    setting.guard.script = only("request", Answer(code=1))
    error_of(client)
    assert setting.second.take() == []


def test_streams_pass_but_for_their_end(setting: Setting) -> None:
    client = setting.client("/chain")
    call = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "stream"}}
    setting.guard.script = only("response", Answer(code=1, reason="not that"))
    with Events(client, call) as events:
        assert events.next()["method"] == "notifications/message"
        first = events.identity
        last = events.next()
        assert (last["id"], last["error"]) == (9, {"code": -32001, "message": "not that"})
    # The ids are the gateway's own: who takes it up again does not come by what was refused.
    assert first.startswith("agw-l")
    with Events(client, last=first) as again:
        assert again.next() == last


def test_each_of_a_batch(setting: Setting) -> None:
    client = McpClient(setting.port, "/both", version="2025-03-26")
    client.initialize()

    def script(question: Question) -> Answer:
        is_meant = question.payload.get("arguments") == {"a": 2}
        return Answer(code=1, reason="no") if is_meant else Answer()

    setting.guard.script = script
    calls = [
        {
            "jsonrpc": "2.0",
            "id": number,
            "method": "tools/call",
            "params": {"name": "one_echo", "arguments": {"a": number}},
        }
        for number in (1, 2)
    ]
    one, two = json.loads(client.post(calls).body)
    assert one["result"]["content"][0]["text"] == 'one: echo {"a": 1}'
    assert two["error"] == {"code": -32001, "message": "no"}


def test_a_listening_stream_brings_no_answers(setting: Setting) -> None:
    client = setting.client("/chain")
    with Events(client, last="s1") as events:
        assert events.next()["method"] == "notifications/resumed"
        setting.one.listeners[-1].put({"jsonrpc": "2.0", "id": 9, "result": {"content": []}})
        setting.one.tell("notifications/tools/list_changed")
        assert events.next()["method"] == "notifications/tools/list_changed"


def test_the_beginning_of_a_session(setting: Setting) -> None:
    setting.guard.script = lambda question: Answer(
        code=1 if question.phase == "request" else None, reason="go away"
    )
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    greeting = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    client = McpClient(setting.port, "/both")
    got = client.post(greeting)
    assert messages(got)[0]["error"]["message"] == "go away"

    def script(question: Question) -> Answer:
        if question.phase == "request":
            return Answer()
        changed = {**question.payload, "protocolVersion": "1999", "instructions": "none"}
        return Answer(mutated=changed)

    setting.guard.script = script
    result = client.initialize()
    assert (result["protocolVersion"], result["instructions"]) == ("2025-11-25", "none")
    setting.guard.script = lambda question: Answer(code=1 if question.phase == "response" else None)
    got = McpClient(setting.port, "/both").post(greeting)
    assert messages(got)[0]["error"]["code"] == -32001
    assert got.get("mcp-session-id") is None


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


# --- the example --------------------------------------------------------------------------------


def test_example(setting: Setting) -> None:
    config = yaml.safe_load((ROOT / "deploy/examples/mcp-guardrails.yaml").read_text())
    (port,) = free_ports(1)
    config["gateways"]["default"]["port"] = port
    (of_route,) = config["routes"]
    remote, hook = of_route["policies"]["mcpGuardrails"]["processors"]
    remote["host"], hook["host"] = setting.guard.address, setting.hook_address
    shop = McpServer("shop", tools=("search", "refund"))

    def script(question: Question) -> Answer:
        if question.payload["name"] == "refund" and question.metadata["team"] != "billing":
            return Answer(code=1, reason="billing only")
        return Answer(metadata={"risk": len(question.payload["arguments"]) / 2})

    setting.guard.script = script
    with Upstream(shop) as up:
        of_route["backends"][0]["mcp"]["targets"][0]["mcp"]["host"] = f"http://{up.address}/mcp"
        with GatewayProcess(config):
            client = McpClient(port, headers={"x-team": "support"})
            client.initialize()
            assert client.text("search", q="x") == 'shop: search {"q": "x"}'
            assert error_of(client, "refund")["message"] == "billing only"
            # Too risky for the rules.
            assert (
                client.request("tools/call", name="search", arguments={"a": 1, "b": 2}).status
                == 400
            )
            setting.hook.answer = {"action": "mutate", "result": {"content": []}}
            called = client.result("tools/call", name="search", arguments={})
            assert called == {"content": []}
