"""Endpoints to balance over, with a state of this process alone or one in shared memory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from shm.endpoints import Column, EndpointTable, Slot
from shm.standing import Standing
from sidecar.routing.balance import Endpoint


class Make(Protocol):
    """Makes endpoints."""

    def __call__(self, key: str, capacity: int = 1) -> Endpoint:
        """A new endpoint, or another view of the one that has this key."""


@contextmanager
def table(endpoints: int = 64, columns: int = 2) -> Iterator[EndpointTable]:
    """A table of this test's own."""
    made = EndpointTable.create(f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}", endpoints, columns)
    try:
        yield made
    finally:
        made.close()


def slot(column: Column, name: str) -> Slot:
    """The slot of that name, for which there must be room."""
    found = column.open(column.key(name.encode()), name.encode())
    assert found is not None
    return found


@contextmanager
def maker(kind: str) -> Iterator[Make]:
    """`local` or `shared`."""
    if kind == "local":
        yield Endpoint
        return
    with table() as made:
        column = made.column(0)
        yield lambda key, capacity=1: Endpoint(key, capacity, state=slot(column, key))


def stand(
    endpoint: Endpoint,
    *,
    health: float | None = None,
    latency: float | None = None,
    in_flight: int | None = None,
    ejected_until_ns: int | None = None,
    restore_health: float | None = None,
) -> None:
    """Put an endpoint where a test wants it; what is None stays."""
    state = endpoint.state

    def placed(old: Standing) -> Standing:
        return Standing(
            old.health if health is None else health,
            old.failures,
            old.times_ejected,
            old.ejected_until_ns if ejected_until_ns is None else ejected_until_ns,
            old.restore_health if restore_health is None else restore_health,
        )

    state.update(placed)
    if latency is not None:
        state.latency_seconds = latency
    for _ in range(in_flight or 0):
        state.begin()
