"""What holds for every test."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import settings

from tests.support.gateway import GatewayProcess

# Timing never decides a test, and one that fails today fails tomorrow; `make soak` looks further.
settings.register_profile("always", deadline=None, derandomize=True)
settings.load_profile("always")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what the gateways that run said last."""
    report = yield
    if report.failed:
        for gateway in GatewayProcess.running:
            report.sections.append((f"last said by {gateway!r}", gateway.tail()))
    return report
