"""What a rule costs, in microseconds, on each engine.

    python -m tests.bench.cel_bench [repetitions]

The rule is four terms as authorization rules have them. Plans are built once; a line with "build"
includes making the variables from a request, as the pipeline does for each request.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from sidecar.cel.engine import Engine
from sidecar.cel.variables import Plan
from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request

RULE = (
    'jwt.sub == "alice" && request.path.startsWith("/v1/") && "x-team" in request.headers'
    ' && llm.requestModel in ["gpt-5", "claude"]'
)
OTHERS = {
    "missing header": 'request.headers["x-none"] == "1"',
    "default of a missing header": 'default(request.headers["x-none"], "-") == "-"',
    "exists over four groups": 'jwt.groups.exists(g, g == "ops")',
    "address in a network": 'cidr("10.0.0.0/8").containsIP(source.address)',
    "constant pattern": 'request.path.matches("^/v[0-9]+/")',
}


def make_request() -> Request:
    names = ("accept", "user-agent", "content-type", "x-request-id", "x-team", "traceparent")
    request = Request(
        "POST",
        "https",
        "api.example",
        "/v1/chat/completions",
        "HTTP/1.1",
        Headers((name.encode(), b"value") for name in names),
        FixedBody(),
        Connection("10.0.0.9", 4711, "10.0.0.1", 8080),
        started_ns=0,
    )
    groups = ["dev", "web", "on-call", "ops"]
    claims = {f"claim{i}": [i, {"nested": str(i)}] for i in range(20)}
    request.state["jwt"] = {"sub": "alice", "groups": groups, **claims}
    request.state["llm"] = {"requestModel": "gpt-5"}
    request.state["path"] = "/v1/chat/completions"
    return request


def micros(action: Callable[[], object], repetitions: int) -> float:
    """The best of five rounds: what is slower was disturbed."""
    rounds = []
    for _ in range(5):
        started = time.perf_counter_ns()
        for _ in range(repetitions):
            action()
        rounds.append((time.perf_counter_ns() - started) / repetitions / 1000)
    return min(rounds)


def measure(backend: str, label: str, source: str, repetitions: int) -> None:
    try:
        program = Engine(backend=backend).compile(source)
    except ConfigError as problem:
        print(f"{backend:16} {label:28} {problem.message}")
        return
    plan, request = Plan(program), make_request()
    activation = plan.activation(request)
    evaluated = micros(lambda: program.truth(activation), repetitions)
    built = micros(lambda: program.truth(plan.activation(request)), repetitions)
    print(f"{backend:16} {label:28} {evaluated:8.2f} µs   with build {built:8.2f} µs")


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    for backend, share in (("closures", 1), ("cel-expr-python", 2), ("cel-python", 100)):
        measure(backend, "rule of four terms", RULE, max(1, repetitions // share))
    for label, source in OTHERS.items():
        measure("closures", label, source, repetitions)


if __name__ == "__main__":
    main()
