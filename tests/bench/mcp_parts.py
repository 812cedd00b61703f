"""What merging lists and rewriting messages costs: `python -m tests.bench.mcp_parts`.

Prints microseconds, best of five.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from sidecar.jsonrpc import Json
from sidecar.mcp import rewrite
from sidecar.mcp.lists import Page, merged, prepare
from sidecar.mcp.names import Names
from sidecar.mcp.pins import digest
from sidecar.mcp.rules import Rules
from tests.support.messages import ENGINE, request

TARGETS = tuple(f"server-{number}" for number in range(10))
NAMES = Names(TARGETS, "conditional")
INFO = {"name": "agentgateway", "version": "1"}
RULE = (
    'mcp.tool.name == "echo" || mcp.tool.name.startsWith("tool_number_1") || '
    'mcp.tool.target == "server-3" && jwt.sub == "me"'
)


def timed(name: str, call: Callable[[], object], rounds: int, budget: str = "") -> None:
    best = min(_once(call, rounds) for _ in range(5))
    print(f"{name:<58}{best / 1000:>10.3f} us  {budget}")


def _once(call: Callable[[], object], rounds: int) -> float:
    begin = perf_counter_ns()
    for _ in range(rounds):
        call()
    return (perf_counter_ns() - begin) / rounds


def tool(number: int) -> Json:
    properties = {f"argument_{n}": {"type": "string", "description": "text"} for n in range(5)}
    return {
        "name": f"tool_number_{number}",
        "description": "Does something with some arguments. " * 4,
        "inputSchema": {"type": "object", "properties": properties, "required": ["argument_0"]},
    }


def bench_lists() -> None:
    results = [(target, {"tools": [tool(n) for n in range(100)]}) for target in TARGETS]
    how: Any = {"is_modern": False, "server_info": INFO}

    def pages() -> list[Page]:
        return [prepare("tools/list", target, result, NAMES) for target, result in results]

    ready = pages()
    made = request()
    made.state["jwt"] = {"sub": "me"}
    rules = Rules([RULE], ENGINE)
    timed("10 x 100 tools: name", pages, 50)
    timed("10 x 100 tools: merge", lambda: merged("tools/list", ready, NAMES, None, **how), 200)
    timed(
        "10 x 100 tools: name and merge",
        lambda: merged("tools/list", pages(), NAMES, None, **how),
        50,
        "<= 2000",
    )
    timed(
        "10 x 100 tools: merge, a rule of 4 terms",
        lambda: merged("tools/list", ready, NAMES, rules.evaluation(made), **how),
        50,
    )
    timed(
        "10 x 100 tools: name and merge, a rule of 4 terms",
        lambda: merged("tools/list", pages(), NAMES, rules.evaluation(made), **how),
        50,
        "<= 5000",
    )
    listed = results[0][1]["tools"]
    timed("100 tools: digests for pins", lambda: [digest(one) for one in listed], 50)


def bench_messages() -> None:
    params = {"name": "server-3_tool_number_7", "arguments": {"argument_0": "x"}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    result = {"content": [{"type": "text", "text": "x"}], "structuredContent": {"a": 1}}
    answer = {"jsonrpc": "2.0", "id": 1, "result": result}
    link = {"type": "resource_link", "uri": "file:///x", "name": "x"}
    linked = {"jsonrpc": "2.0", "id": 1, "result": {"content": [link]}}
    rules = Rules([RULE], ENGINE)
    made = request()
    made.state["jwt"] = {"sub": "me"}

    def called() -> object:
        told = rewrite.named(call)
        assert told is not None
        found = NAMES.to_target(told.kind, told.name)
        assert found is not None
        return rewrite.for_target(NAMES, call, found[1])

    def checked() -> object:
        evaluation = rules.evaluation(made)
        assert evaluation is not None
        return evaluation.check("tool", "server-3", "tool_number_7")

    timed("tools/call: find and rewrite", called, 20_000)
    timed("tools/call: a rule of 4 terms", checked, 20_000)
    timed(
        "tools/call: answer, nothing to rewrite",
        lambda: rewrite.to_client(NAMES, "server-3", answer, "tools/call"),
        20_000,
    )
    timed(
        "tools/call: answer with a link",
        lambda: rewrite.to_client(NAMES, "server-3", linked, "tools/call"),
        20_000,
    )


if __name__ == "__main__":
    bench_lists()
    bench_messages()
