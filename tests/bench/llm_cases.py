"""What is measured of the LLM gateway, with its bounds, and the order of the runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from sidecar.llm.convert.base import Context
from sidecar.llm.convert.completions_to_messages import CONVERSION
from tests.bench import llm_load, llm_many
from tests.bench.cases import FOREIGN_MAX, Plan, quietest
from tests.bench.llm_many import Many
from tests.bench.llm_peers import (
    CONVERTED_MODEL,
    LITELLM,
    PLAIN_MODEL,
    LlmPeer,
    LlmStage,
    chat,
)
from tests.bench.load import LoadError, Sample, Seen, percentile, sampled
from tests.bench.usage import wait_calm

TTFT: Final = "ttft"
MANY: Final = "many"
PACE_MILLISECONDS: Final = 5
CONNECTIONS: Final = 32
PACED_STREAMS: Final = 64
SLOW_STREAMS: Final = 4
"""Of LiteLLM: with more it has no core left, and chunks come in heaps."""
_TTFT_REQUESTS: Final = 300
_PATIENCE_SECONDS: Final = 2.0
_WORDS: Final = "Tell me a little more about what has been said before, and do be brief. "


def _prompt(size: int) -> str:
    return (_WORDS * (size // len(_WORDS) + 1))[:size]


@dataclass(frozen=True, slots=True)
class LlmCase:
    """A kind of load. `body`: of a chat; None for streams, whose chunks are what CPU is counted by.

    `bound_us`: the most CPU that the limited gateway may take for one; 0 where none is set.
    """

    name: str
    title: str
    bound_us: float = 0.0
    body: bytes | None = None
    needs_conversion: bool = False
    pace_milliseconds: int = 0
    connections: int = CONNECTIONS
    is_compared: bool = False
    """Whether there is a target of so many times what LiteLLM does."""

    @property
    def unit(self) -> str:
        """What is counted."""
        return "request" if self.body is not None else "chunk"

    def run(self, peer: LlmPeer, seconds: float) -> Seen:
        """Raises: LoadError, OSError."""
        if self.body is not None:
            return llm_load.chats(peer.plain, self.body, self.connections, seconds)
        connections = SLOW_STREAMS if peer.name == LITELLM else self.connections
        return llm_load.streams(peer.streamed, self.pace_milliseconds, connections, seconds)


CASES: Final = (
    LlmCase("chat", "chat of 1 KiB", 120, chat(PLAIN_MODEL, _prompt(900)), is_compared=True),
    LlmCase("long", "chat with a prompt of 100 KiB", 1000, chat(PLAIN_MODEL, _prompt(102_400))),
    LlmCase(
        "convert",
        "chat of 4 KiB in 9 turns, chat completions to messages",
        300,
        chat(CONVERTED_MODEL, _prompt(4096), turns=9),
        needs_conversion=True,
    ),
    LlmCase("burst", f"stream of {llm_load.CHUNKS} chunks, as fast as they come", 8),
    LlmCase(
        "paced",
        f"stream of {llm_load.CHUNKS} chunks, {PACE_MILLISECONDS} ms apart",
        pace_milliseconds=PACE_MILLISECONDS,
        connections=PACED_STREAMS,
    ),
)


@dataclass
class LlmCell:
    """The samples of one peer under one case; `failure` says why there are none."""

    case: LlmCase
    peer: str
    samples: list[Sample] = field(default_factory=list)
    failure: str = ""

    def median(self) -> Sample:
        """Each figure's median over the repeats."""
        rows = self.samples
        return Sample(
            statistics.median(one.rate for one in rows),
            statistics.median(one.p50_us for one in rows),
            statistics.median(one.p99_us for one in rows),
            statistics.median(one.cpu_us for one in rows),
            statistics.median(one.foreign for one in rows),
            sum(one.errors for one in rows),
        )


def run_cases(
    stage: LlmStage, cases: Sequence[LlmCase], plan: Plan, tell: Callable[[str], None]
) -> list[LlmCell]:
    """Every case on every peer that can; in each second repeat the order of the peers is turned."""
    cells: list[LlmCell] = []
    for case in cases:
        peers = [one for one in stage.peers if one.converts or not case.needs_conversion]
        row = {peer.name: LlmCell(case, peer.name) for peer in peers}
        for repeat in range(plan.repeats):
            for peer in peers if repeat % 2 == 0 else reversed(peers):
                _sample(row[peer.name], peer, plan)
        for cell in row.values():
            tell(_line(cell))
        cells.extend(row.values())
    return cells


def _sample(cell: LlmCell, peer: LlmPeer, plan: Plan) -> None:
    def run(seconds: float) -> Sample:
        return sampled(peer.load_pids, lambda: cell.case.run(peer, seconds))

    if cell.failure:
        return
    try:
        if plan.warm_up_seconds and not cell.samples:
            run(plan.warm_up_seconds)
        cell.samples.append(quietest(lambda: run(plan.seconds), plan.tries))
    except (LoadError, OSError) as error:
        cell.failure = str(error) or type(error).__name__


def _line(cell: LlmCell) -> str:
    label = f"{cell.case.name:<9}{cell.peer:<22}"
    if not cell.samples:
        return label + cell.failure
    one = cell.median()
    return (
        f"{label}{one.rate:9.0f}/s  CPU {one.cpu_us:8.1f} us a {cell.case.unit:<8}"
        f"p50 {one.p50_us:8.0f} us  p99 {one.p99_us:8.0f} us  others on the core {one.foreign:4.0%}"
    )


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Microseconds from a request to its first event."""

    p50: float
    p99: float


def first_tokens(stage: LlmStage, repeats: int) -> dict[str, FirstToken]:
    """By peer, `direct` among them: blocks of requests on one connection, the peers by turns.

    Raises: LoadError, OSError.
    """
    peers = [stage.direct, *stage.peers]
    found: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(repeats):
        for peer in peers:
            wait_calm(FOREIGN_MAX, _PATIENCE_SECONDS)
            llm_load.first_tokens(peer.streamed, 20)  # warm again, after the others' turn
            found[peer.name] += llm_load.first_tokens(peer.streamed, _TTFT_REQUESTS)
    return {
        name: FirstToken(percentile(micros, 0.5), percentile(micros, 0.99))
        for name, micros in found.items()
    }


def hold_many(stage: LlmStage, count: int) -> dict[str, Many]:
    """By peer, but for LiteLLM, which is not asked for so many. Raises: LoadError, OSError."""
    return {
        peer.name: llm_many.hold_many(peer, stage.streams, count)
        for peer in stage.peers
        if peer.name != LITELLM
    }


def conversion_us(count: int) -> float:
    """The conversion of the `convert` case's request by itself, microseconds."""
    body = next(case.body for case in CASES if case.needs_conversion)
    given = orjson.loads(body or b"")
    context = Context(CONVERTED_MODEL, CONVERTED_MODEL, False, 0, str)
    started = time.process_time()
    for _ in range(count):
        CONVERSION.request(given, context)
    return (time.process_time() - started) / count * 1e6
