"""What is read of answers that nobody converts, as they go by."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from shm.metrics import MetricsTable
from sidecar.gateway.llm_detect import _WatchedBody
from sidecar.gateway.llm_facts import Record
from sidecar.http.headers import Headers
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.genai import GenAiMetrics
from sidecar.telemetry.metrics import Registry
from tests.sidecar.telemetry.entries import ROUTE
from tests.support.messages import request
from tests.support.models import MESSAGE_STREAM, event

LONG = {"type": "text_delta", "text": "x" * 800}
STREAM = [
    *MESSAGE_STREAM[:2],
    event({"type": "content_block_delta", "index": 0, "delta": LONG}),
    *MESSAGE_STREAM[3:],
]
"""Whose text is guessed to be more tokens than it says."""


class Source:
    """Has its pieces at hand, and says how long they are together."""

    trailers: Headers | None = None

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.length: int | None = sum(map(len, pieces))

    def read_nowait(self) -> bytes | None:
        return self._pieces.pop(0)

    async def read(self) -> bytes:
        return self._pieces.pop(0)

    def close(self) -> None:
        assert not self._pieces


@pytest.fixture
def record() -> Iterator[Record]:
    metrics = MetricsTable.create(f"detect-{os.getpid()}-{uuid.uuid4().hex[:8]}", 1)
    counted = GenAiMetrics(Registry(metrics.writer(0)))
    yield Record(request(), ROUTE, SystemClock(), counted, None)
    metrics.close()


@pytest.mark.parametrize("count", [1, 2, len(STREAM)])
def test_a_stream_of_known_length_is_whole_with_its_last_octet(record: Record, count: int) -> None:
    pieces = [*STREAM[: count - 1], b"".join(STREAM[count - 1 :])]
    body = _WatchedBody(Source(pieces), b"text/event-stream", record, 1024)
    for _ in range(count):
        body.read_nowait()
    body.close()
    record(request(), None)
    assert (record.state["outputTokens"], record.state.get("estimated")) == (23, None)
