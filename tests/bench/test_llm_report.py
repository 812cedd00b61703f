"""Reports of the LLM benchmark: what is computed from samples, and where the section goes."""

from __future__ import annotations

import re

import pytest

from tests.bench import llm_report
from tests.bench.cases import Plan
from tests.bench.llm_cases import CASES, FirstToken, LlmCell
from tests.bench.llm_many import Many
from tests.bench.llm_peers import BARE, DIRECT, LIMITED, LITELLM, NGINX_NAME
from tests.bench.llm_report import LlmReport, to_markdown
from tests.bench.load import Sample

CHAT = CASES[0]


def cell(peer: str, cpu_us: float) -> LlmCell:
    return LlmCell(CHAT, peer, [Sample(100.0, 10.0, 20.0, cpu_us, 0.0, 0)])


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> LlmReport:
    monkeypatch.setattr(llm_report, "machine", lambda: "a computer")
    made = LlmReport(Plan(5.0, 1.0, 3, 3))
    made.cells = [
        cell(NGINX_NAME, 20.0),
        cell(BARE, 50.0),
        cell(LIMITED, 100.0),
        cell(LITELLM, 4_900.0),
        LlmCell(CASES[1], LITELLM, failure="wrk ended with 1"),
    ]
    made.ttft = {DIRECT: FirstToken(50.0, 90.0), LIMITED: FirstToken(850.0, 1290.0)}
    made.many = {LIMITED: Many(5000, 50_000, 40_000, 100_000, 90_000, 150_000, 4999)}
    return made


def test_targets(report: LlmReport) -> None:
    assert [(one.value, one.bound, one.is_met) for one in report.targets] == [
        (100.0, 120, True),
        (49.0, 50, False),
        (0.8, 1, True),
        (102.4, 400, True),
        (1, 0, False),
    ]


def test_markdown(report: LlmReport) -> None:
    text = to_markdown(report)
    row = f"| {CHAT.title} | {{}} | 100 | {{}} a request | {{}} | 10 | 20 | {{}} | {{}} | 0% |"
    assert row.format(LIMITED, "100.0", "10,000", "49.0, **missed**", "0.200") in text
    assert row.format(BARE, "50.0", "20,000", "98.0, met", "0.400") in text
    assert row.format(LITELLM, "4,900.0", "204", "-", "0.004") in text
    assert f"| {CASES[1].title} | {LITELLM} | wrk ended with 1 |" in text
    assert f"| {LIMITED} | 850 | 1,290 | 800 | 1,200 |" in text
    widths = [len(re.findall(r"\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert set(widths) == {11, 6, 8, 5}


def test_a_peer_that_is_absent_is_named_with_its_reason(report: LlmReport) -> None:
    report.absent[LITELLM] = "not installed: no route"
    assert f"| {LITELLM} | not installed: no route |" in to_markdown(report)
