"""What is measured of the MCP gateway, with its bounds, and the order of the runs."""

from __future__ import annotations

import math
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from tests.bench.cases import Plan, quietest
from tests.bench.load import LoadError, Sample, Seen, sampled
from tests.bench.mcp_peers import MODERN, McpPeer, McpStage, Session, call, message
from tests.bench.usage import pss_kib

SESSIONS: Final = 5000
_SCRIPT: Final = Path(__file__).parent / "wrk" / "mcp.lua"
_MODERN: Final = (("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"))


@dataclass(frozen=True, slots=True)
class McpCase:
    """A kind of load. `shape`: of the endpoint; `tool`: that is called, "" for the list.

    `bound_us`: the most CPU that the gateway may take for one; 0 where none is set. `count`: of the
    tools in a list.
    """

    name: str
    title: str
    shape: str
    tool: str = ""
    bound_us: float = 0.0
    is_modern: bool = False
    is_compared: bool = False
    """Whether there is a target of so many times what ContextForge does."""
    count: int = 0


CASES: Final = (
    McpCase(
        "call",
        "tools/call, one server",
        "one",
        "tool_1",
        250,
        is_compared=True,
    ),
    McpCase(
        "call-2026", "tools/call, one server, 2026-07-28", "one", "tool_1", 250, is_modern=True
    ),
    McpCase("call-ten", "tools/call, one of ten servers", "ten", "server-3_tool_1"),
    McpCase("call-ruled", "tools/call, one of ten, a rule of 4 terms", "ruled", "server-3_tool_1"),
    McpCase("list", "tools/list, 10 x 100 tools kept", "ten", bound_us=2000, count=1000),
    McpCase(
        "list-ruled",
        "tools/list, 10 x 100 tools kept, a rule of 4 terms",
        "ruled",
        bound_us=5000,
        # tool_1 and tool_10 to tool_19 of nine servers, and all of server-3.
        count=9 * 11 + 100,
    ),
)


@dataclass(slots=True)
class McpCell:
    """One case on one peer."""

    case: McpCase
    peer: str
    samples: list[Sample] = field(default_factory=list)
    failure: str = ""

    def median(self) -> Sample:
        """Of each figure by itself."""
        columns = zip(*(_figures(one) for one in self.samples), strict=True)
        rate, p50, p99, cpu, foreign = (statistics.median(column) for column in columns)
        return Sample(rate, p50, p99, cpu, foreign, sum(one.errors for one in self.samples))


def _figures(one: Sample) -> tuple[float, ...]:
    return (one.rate, one.p50_us, one.p99_us, one.cpu_us, one.foreign)


def run_cases(
    stage: McpStage, cases: Sequence[McpCase], plan: Plan, tell: Callable[[str], None]
) -> list[McpCell]:
    """Every case on every peer that has its endpoint; the order of peers is turned each repeat."""
    cells: list[McpCell] = []
    for case in cases:
        peers = [peer for peer in stage.peers if peer.path(case.shape) and _can(peer, case)]
        row = {peer.name: McpCell(case, peer.name) for peer in peers}
        for repeat in range(plan.repeats):
            for peer in peers if repeat % 2 == 0 else reversed(peers):
                _sample(row[peer.name], peer, plan)
        for cell in row.values():
            tell(f"{case.name:<12}{cell.peer:<14}{_line(cell)}")
        cells.extend(row.values())
    return cells


def _can(peer: McpPeer, case: McpCase) -> bool:
    return not peer.why_absent and not (case.is_modern and peer.prefix)


def _line(cell: McpCell) -> str:
    if not cell.samples:
        return cell.failure
    one = cell.median()
    return f"{one.rate:10.0f}/s  p50 {one.p50_us:9.0f} us  CPU {one.cpu_us:9.1f} us"


def _sample(cell: McpCell, peer: McpPeer, plan: Plan) -> None:
    if cell.failure:
        return
    case = cell.case
    try:
        session = Session(peer, case.shape)
        body, headers = asked(case, peer, session)
        check(case, session, body, headers)
        session.close()

        def run(seconds: float) -> Seen:
            return generate(peer, case, body, headers, seconds)

        if plan.warm_up_seconds and not cell.samples:
            run(plan.warm_up_seconds)
        pids = peer.load_pids
        cell.samples.append(quietest(lambda: sampled(pids, lambda: run(plan.seconds)), plan.tries))
    except (LoadError, LookupError, OSError) as error:
        cell.failure = str(error)


def asked(case: McpCase, peer: McpPeer, session: Session) -> tuple[bytes, dict[str, str]]:
    """Body and headers of each request."""
    if not case.tool:
        return message("tools/list", {}), session.headers
    # ContextForge writes names its own way.
    name = f"{peer.prefix}{case.tool.replace('_', '-')}" if peer.prefix else case.tool
    if not case.is_modern:
        return call(name), session.headers
    headers = {**dict(peer.headers), **dict(_MODERN), "mcp-name": name}
    return call(name, is_modern=True), headers


def check(case: McpCase, session: Session, body: bytes, headers: dict[str, str]) -> None:
    """A peer that does not give the right answer is not measured. Raises: LoadError."""
    session.headers, before = headers, session.headers
    status, answer, _ = session.post(body)
    session.headers = before
    result = answer.get("result")
    if status != 200 or not isinstance(result, dict) or result.get("isError"):
        raise LoadError(f"answered with {status}: {str(answer)[:200]}")
    found = len(result.get("tools", ())) if not case.tool else len(result.get("content", ()))
    if found != (case.count if not case.tool else 1):
        raise LoadError(f"the answer holds {found} items")


def generate(
    peer: McpPeer, case: McpCase, body: bytes, headers: dict[str, str], seconds: float
) -> Seen:
    """A closed loop of wrk, one thread. Raises: LoadError."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        seconds = max(seconds, peer.least_seconds)
        command = ["wrk", "-t1", f"-c{peer.connections}", f"-d{math.ceil(seconds)}s", "--timeout"]
        command += ["60s", "-s", str(_SCRIPT), f"http://127.0.0.1:{peer.port}"]
        command[-1] += peer.path(case.shape)
        words = [word for field in headers.items() for word in field]
        done = subprocess.run(
            [*command, "--", file.name, *words],
            capture_output=True,
            text=True,
            timeout=seconds + 120,
            check=False,
        )
    if done.returncode:
        raise LoadError(f"wrk ended with {done.returncode}: {done.stderr.strip()}")
    report = orjson.loads(done.stdout.strip().splitlines()[-1])
    count = report["requests"]
    if not count:
        raise LoadError("no request was answered")
    p50, p99 = report["p50"], report["p99"]
    return Seen(count, report["micros"] / 1e6, report["errors"], p50, p99, count)


def idle_sessions(peer: McpPeer, count: int = SESSIONS) -> float:
    """MB of all processes that so many sessions take, which nobody uses. Raises: LookupError."""
    first = Session(peer, "one")
    first.close()
    before = pss_kib(peer.all_pids)
    for _ in range(count):
        Session(peer, "one").close()
    return (pss_kib(peer.all_pids) - before) * 1024 / 1e6
