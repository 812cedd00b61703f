"""What policies fetch in the background, kept over compilations: nothing is fetched anew.

Source: spec/config.md section 10.1.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar, final

Start = Callable[[Callable[[], Coroutine[Any, Any, None]]], bool]
"""Runs something in the background; False when too much runs already."""


class Kept(Protocol):
    """Something that fetches."""

    def close(self) -> None:
        """Fetch nothing more."""


K = TypeVar("K", bound=Kept)


@final
class KeptKeys:
    """Sets of a worker by URL, over all compilations: a new configuration fetches nothing anew.

    `start`: what runs fetches.
    """

    __slots__ = ("_asked", "_known", "start")

    def __init__(self, start: Start) -> None:
        self.start = start
        self._known: dict[str, Kept] = {}
        self._asked: set[str] = set()

    def keep(self, name: str, kind: type[K], make: Callable[[], K]) -> K:
        """What is kept under a name (a URL, or no URL at all); made when it is new."""
        self._asked.add(name)
        found = self._known.get(name)
        if not isinstance(found, kind):
            found = self._known[name] = make()
        return found

    def begin_round(self) -> None:
        """A full compilation begins: what it does not ask for is dropped by `end_round`."""
        self._asked = set()

    def end_round(self) -> None:
        """Let go of what nobody asked for since `begin_round`."""
        for name in self._known.keys() - self._asked:
            self._known.pop(name).close()

    def close(self) -> None:
        """Let go of all."""
        self.begin_round()
        self.end_round()
