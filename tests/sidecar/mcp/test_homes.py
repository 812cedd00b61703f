"""Modern requests of one principal meet in one worker's process, whichever worker they came to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.mcp.peers import OwnedTarget, Peers
from sidecar.mcp.upstream.base import (
    Answered,
    Held,
    Inbound,
    Messages,
    Outbound,
    Scope,
    Target,
)
from sidecar.mcp.upstream.inbox import Whole
from tests.support.mcp_http import drained, outbound

WORKERS = 3


class Named:
    """A target that says which worker it is in."""

    name = "t"

    def __init__(self, worker: int) -> None:
        self._worker = worker

    async def request(self, outbound: Outbound) -> Answered:
        result = {"jsonrpc": "2.0", "id": 1, "result": {"worker": self._worker}}
        return Answered(Whole([Inbound(result)], is_json=True), Held())

    async def send(self, outbound: Outbound) -> None:
        return

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        return None

    async def end(self, outbound: Outbound) -> None:
        return


class Workers:
    """So many, each with the target."""

    def __init__(self, directory: Path) -> None:
        self.peers: list[Peers] = []
        self.targets: list[OwnedTarget] = []
        for worker in range(WORKERS):
            here: dict[str, Target] = {"k": Named(worker)}
            peers = Peers(str(directory), worker, here.get, WORKERS)
            self.peers.append(peers)
            self.targets.append(OwnedTarget(here["k"], "k", peers, has_homes=True))

    async def served_by(self, worker: int, scope: Scope, era: str = "modern") -> int:
        """Who serves a request that came to this worker."""
        asked = outbound(scope=scope, era="modern" if era == "modern" else "legacy")
        (answer,) = await drained((await self.targets[worker].request(asked)).messages)
        return int(answer["result"]["worker"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
async def workers(folder: Path) -> AsyncIterator[Workers]:
    made = Workers(folder)
    for peers in made.peers:
        await peers.start()
    yield made
    for peers in made.peers:
        await peers.close()


def scope(principal: bytes, owner: int) -> Scope:
    return Scope("principal", principal, owner)


async def test_a_principal_has_one_home(workers: Workers) -> None:
    homes = set()
    for number in range(12):
        principal = number.to_bytes(16, "big")
        found = {await workers.served_by(at, scope(principal, at)) for at in range(WORKERS)}
        assert len(found) == 1
        homes |= found
    assert homes == set(range(WORKERS))


async def test_sessions_stay_with_their_owner(workers: Workers) -> None:
    for owner in range(WORKERS):
        held = Scope("session", b"s", owner)
        assert await workers.served_by(0, held, "legacy") == owner


async def test_a_home_that_is_gone_is_done_without(workers: Workers) -> None:
    principal = b"p" * 16
    home = await workers.served_by(0, scope(principal, 0))
    others = [worker for worker in range(WORKERS) if worker != home]
    await workers.peers[home].close()
    for worker in others:
        assert await workers.served_by(worker, scope(principal, worker)) == worker
    await workers.peers[home].start()
    assert await workers.served_by(others[0], scope(principal, others[0])) == home
