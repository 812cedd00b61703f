"""What a worker remembers of a server for clients of the other era (mcp.bridge.state)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sidecar.mcp.bridge import state as module
from sidecar.mcp.bridge.state import BridgeState, Session
from sidecar.mcp.token import Sealer
from sidecar.mcp.upstream.base import Held, Scope
from tests.support.clock import HeldClock


def made() -> BridgeState:
    def later(make: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        with pytest.raises(StopIteration):
            make().send(None)
        return True

    return BridgeState(0, Sealer(bytes(32)), HeldClock(), later)


def begun(state: BridgeState, name: bytes, used_ns: int, ended: list[bytes]) -> Session:
    async def end() -> None:
        ended.append(name)

    scope = Scope("principal", name, 0)
    session = Session(scope, Held(), {}, is_alone=False, used_ns=used_ns, end=end)
    state.sessions.setdefault((name, b""), []).append(session)
    return session


def test_the_session_that_was_idle_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSIONS_MAX", 3)
    state, ended = made(), list[bytes]()
    assert state.has_room()
    for name, used_ns in ((b"a", 2), (b"b", 1), (b"c", 3)):
        begun(state, name, used_ns, ended)
    assert state.has_room()
    assert ended == [b"b"]
    assert state.has_room()
    # Those that are being begun count.
    state.opening = 1
    busy = [session for some in state.sessions.values() for session in some]
    for session in busy:
        session.users = 1
    assert not state.has_room()
    assert ended == [b"b"]
    busy[0].users = 0
    assert state.has_room()
    assert ended == [b"b", b"a"]


def test_a_session_that_ends_wakes_its_stream() -> None:
    state = made()
    client = state.client(b"k")
    assert state.client(b"k") is client
    state.forget_client(b"k")
    assert client.is_over
    assert client.changed.is_set()
    assert state.client(b"k") is not client
