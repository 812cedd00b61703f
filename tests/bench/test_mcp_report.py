"""Reports of the MCP benchmark: what is computed from samples, and where the section goes."""

from __future__ import annotations

import pytest

from tests.bench import mcp_report
from tests.bench.cases import Plan
from tests.bench.load import Sample
from tests.bench.mcp_cases import CASES, McpCell
from tests.bench.mcp_peers import CONTEXTFORGE, DIRECT, GATEWAY
from tests.bench.mcp_report import McpReport, to_markdown

CALL = CASES[0]


def cell(peer: str, cpu_us: float) -> McpCell:
    return McpCell(CALL, peer, [Sample(100.0, 10.0, 20.0, cpu_us, 0.0, 0)])


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> McpReport:
    monkeypatch.setattr(mcp_report, "machine", lambda: "a computer")
    made = McpReport(Plan(5.0, 1.0, 3, 3))
    made.cells = [cell(DIRECT, 0.0), cell(GATEWAY, 200.0), cell(CONTEXTFORGE, 3000.0)]
    made.idle_mb, made.hop_us = 14.0, 400.0
    return made


def test_targets(report: McpReport) -> None:
    found = {target.title: (target.value, target.is_met) for target in report.targets}
    assert found == {
        "tools/call, one server: CPU": (200.0, True),
        "tools/call, one server: calls a CPU second over ContextForge's": (15.0, False),
        "5,000 idle sessions": (14.0, True),
        "hop to another worker: CPU of both": (400.0, False),
    }


def test_page(report: McpReport) -> None:
    report.absent = {"other": "not installed"}
    page = to_markdown(report)
    assert "| tools/call, one server | gateway | 100 | 200.0 | 5,000 | 10 | 20 | 15 | 0% |" in page
    assert "| tools/call, one server | direct | 100 | - | - | 10 | 20 | - | - |" in page
    assert "|  | other | not installed |" in page
