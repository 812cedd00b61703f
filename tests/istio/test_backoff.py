"""Waits between attempts."""

from __future__ import annotations

import pytest

from istio.backoff import Backoff


def test_it_doubles_up_to_a_limit_and_begins_anew() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.wait_seconds() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.wait_seconds(grows=False) == 0.5
    assert backoff.wait_seconds() == 0.5
    assert backoff.wait_seconds() == 1.0


@pytest.mark.parametrize(("pick", "share"), [(min, 0.8), (max, 1.2)])
def test_jitter(pick: object, share: float) -> None:
    backoff = Backoff(1.0, 10.0, jitter=0.2, uniform=pick)  # type: ignore[arg-type]
    assert backoff.wait_seconds() == pytest.approx(share)
    assert backoff.wait_seconds() == pytest.approx(2 * share)
