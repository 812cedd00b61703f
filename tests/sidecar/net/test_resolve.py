"""Names to addresses: round robin, renewal in the background, failures that do not linger."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from sidecar.errors import UpstreamError
from sidecar.net.resolve import Resolver, is_literal
from tests.support.stream import turns

Answers = list[tuple[int, str]]


class Names:
    """The part of a loop that a resolver uses, with names and time of its own."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.known: dict[str, Answers] = {}
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None

    def time(self) -> float:
        return self.seconds

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    async def getaddrinfo(self, host: str, port: None, *, type: int) -> list[Any]:
        self.asked.append(host)
        if self.gate is not None:
            await self.gate.wait()
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(family, type, 6, "", (ip, 0)) for family, ip in self.known[host]]


def resolver(names: Names, family: str = "Auto", max_names: int = 1024) -> Resolver:
    return Resolver(names, family, max_names)  # type: ignore[arg-type]  # the methods it uses


V4 = (socket.AF_INET, "192.0.2.1")
OTHER = (socket.AF_INET, "192.0.2.2")
V6 = (socket.AF_INET6, "2001:db8::1")


async def test_round_robin() -> None:
    names = Names()
    names.known["a"] = [V4, OTHER]
    found = resolver(names)
    picked = [await found.pick("a") for _ in range(4)]
    assert picked[0] != picked[1]
    assert picked[:2] == picked[2:]
    assert names.asked == ["a"]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("Auto", {V4[1]}),
        ("V4Only", {V4[1]}),
        ("V4Preferred", {V4[1]}),
        ("V6Only", {V6[1]}),
        ("All", {V4[1], V6[1]}),
    ],
)
async def test_family(family: str, expected: set[str]) -> None:
    names = Names()
    names.known["a"] = [V6, V4]
    found = resolver(names, family)
    assert {await found.pick("a") for _ in range(4)} == expected


async def test_falls_back_to_the_family_there_is() -> None:
    names = Names()
    names.known["a"] = [V6]
    assert await resolver(names, "V4Preferred").pick("a") == V6[1]


async def test_renewed_in_the_background() -> None:
    names = Names()
    names.known["a"] = [V4]
    found = resolver(names)
    await found.pick("a")
    names.known["a"] = [OTHER]
    names.seconds += 6
    assert found.pick_nowait("a") == V4[1]  # nobody waits for the second answer
    await turns()
    assert found.pick_nowait("a") == OTHER[1]


async def test_last_good_answer_outlives_failures() -> None:
    names = Names()
    names.known["a"] = [V4]
    found = resolver(names)
    await found.pick("a")
    names.known.clear()
    for _ in range(3):
        names.seconds += 6
        assert found.pick_nowait("a") == V4[1]
        await turns()
    assert len(names.asked) == 4


async def test_unknown_name() -> None:
    names = Names()
    found = resolver(names)
    for _ in range(3):
        with pytest.raises(UpstreamError) as caught:
            await found.pick("a")
        assert str(caught.value) == "backends required DNS resolution which failed"
        assert (caught.value.status, caught.value.sent) == (503, False)
    assert names.asked == ["a"]  # not again before the back-off is over
    names.known["a"] = [V4]
    names.seconds += 0.2
    assert await found.pick("a") == V4[1]


async def test_many_wait_for_one_look_up() -> None:
    names = Names()
    names.known["a"] = [V4]
    names.gate = asyncio.Event()
    found = resolver(names)
    waiting = [asyncio.ensure_future(found.pick("a")) for _ in range(5)]
    await turns()
    waiting[0].cancel()  # one who leaves does not take the answer away from the others
    names.gate.set()
    assert await asyncio.gather(*waiting[1:]) == [V4[1]] * 4
    assert names.asked == ["a"]


async def test_names_are_bounded() -> None:
    names = Names()
    found = resolver(names, max_names=2)
    for name in ("a", "b", "c"):
        names.known[name] = [V4]
        names.seconds += 1
        await found.pick(name)
    assert found.pick_nowait("a") is None
    assert found.pick_nowait("c") == V4[1]


@pytest.mark.parametrize(
    ("host", "expected"), [("192.0.2.1", True), ("::1", True), ("a.example", False), ("1.2", False)]
)
def test_literal(host: str, expected: bool) -> None:
    assert is_literal(host) is expected
