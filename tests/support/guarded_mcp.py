"""A gateway whose routes are guarded by `mcpGuardrails`, each in its own way."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import Any

from tests.support.ext_mcp import Answer, ExtMcpServer, Question
from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.mcp_server import McpClient, McpServer, mcp_config, messages
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
