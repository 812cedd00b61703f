"""Lists of several servers: what is kept of them, what is asked anew, and what names they hold.

Source: spec/mcp_a2a.md sections 1.4 (caching), 2.2 (`never`), 2.3, 5.2 rows 8, 12 and 13.

A page is kept as long as its server allows: a modern one says so, and only what it calls public is
kept, for all clients. A legacy server cannot say it, so it is the operator who allows it; pages are
kept by principal then. `list_changed` drops what is kept in all workers, whichever hears of it: it
changes a mark that they share, and a page is good while the mark is the one that stood there when
the page was asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from shm.generations import Generations
from sidecar.jsonrpc import Json
from sidecar.mcp.lists import Page, prepare
from sidecar.mcp.names import Names
from sidecar.mcp.pinned import PinnedTools
from sidecar.mcp.tools import Control
from sidecar.mcp.upstream.base import Era
from sidecar.telemetry.clock import Clock

_PAGES_MAX: Final = 1024
_MAX_TTL_MS: Final = 24 * 3600 * 1000
_PUBLIC: Final = b""
_CHANGED: Final[Mapping[str, tuple[str, ...]]] = {
    "notifications/tools/list_changed": ("tools/list",),
    "notifications/prompts/list_changed": ("prompts/list",),
    "notifications/resources/list_changed": ("resources/list", "resources/templates/list"),
}

Key = tuple[str, str, str, Era, bytes]
"""Server, method, cursor, era, and whose: `_PUBLIC` is everybody's."""


@final
@dataclass(frozen=True, slots=True)
class _Kept:
    page: Page
    until_ns: int
    mark: int


@final
class Listing:
    """The pages of one backend, in one worker."""

    __slots__ = (
        "_backend",
        "_cells",
        "_clock",
        "_controls",
        "_generations",
        "_kept",
        "_legacy_ttl_ms",
        "_names",
        "_pinned_at",
        "pins",
    )

    def __init__(
        self,
        names: Names,
        controls: Mapping[str, Control],
        pins: Mapping[str, PinnedTools],
        legacy_ttl_ms: int,
        clock: Clock,
        generations: Generations,
        backend: bytes,
    ) -> None:
        """`legacy_ttl_ms`: how long pages of legacy servers are kept; 0: not at all.
        `generations`: those of all workers, in which `backend` tells this one from others."""
        self._names = names
        self._controls = controls
        self.pins = pins
        """Of servers whose tools are pinned."""
        self._legacy_ttl_ms = legacy_ttl_ms
        self._clock = clock
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._generations = generations
        self._backend = backend
        self._cells: dict[tuple[str, str], int] = {}
        self._pinned_at = {target: self.mark(target, "tools/list") for target in pins}

    def _cell(self, target: str, method: str) -> int:
        cell = self._cells.get((target, method))
        if cell is None:
            cell = Generations.cell(self._backend, target.encode(), method.encode())
            self._cells[target, method] = cell
        return cell

    def mark(self, target: str, method: str) -> int:
        """What stands for a server's list as of now. See `take`."""
        return self._generations.get(self._cell(target, method))

    def find(self, target: str, method: str, cursor: str, era: Era, who: bytes) -> Page | None:
        """A page that is good still."""
        now = self._clock.monotonic_ns()
        for whose in (_PUBLIC, who):
            key = (target, method, cursor, era, whose)
            kept = self._kept.get(key)
            if kept is not None:
                if now < kept.until_ns and kept.mark == self.mark(target, method):
                    return kept.page
                del self._kept[key]
        return None

    def take(
        self, target: str, method: str, cursor: str, era: Era, who: bytes, result: Json, mark: int
    ) -> Page:
        """A page as its server gave it; kept where that is allowed. `mark`: as it was before the
        server was asked, for what it says then may be stale by now. Raises: UpstreamError."""
        is_tools = method == "tools/list"
        page = prepare(
            method,
            target,
            result,
            self._names,
            control=self._controls.get(target) if is_tools else None,
            pins=self.pins.get(target) if is_tools else None,
        )
        whose, ttl_ms = self._allowed(era, who, result)
        if ttl_ms > 0 and method != "tasks/list":
            until = self._clock.monotonic_ns() + min(ttl_ms, _MAX_TTL_MS) * 1_000_000
            self._kept[target, method, cursor, era, whose] = _Kept(page, until, mark)
            if len(self._kept) > _PAGES_MAX:
                self._kept.popitem(last=False)
        return page

    def _allowed(self, era: Era, who: bytes, result: Json) -> tuple[bytes, int]:
        if era == "legacy":
            return who, self._legacy_ttl_ms
        ttl_ms = result.get("ttlMs")
        if result.get("cacheScope") != "public" or not isinstance(ttl_ms, int):
            return who, 0
        return _PUBLIC, ttl_ms

    def hear(self, target: str, message: Json) -> None:
        """A message of a server: drop what it says has changed."""
        methods = _CHANGED.get(message.get("method", ""))
        if methods is None:
            return
        for method in methods:
            self._generations.change(self._cell(target, method))
        for key in [key for key in self._kept if key[0] == target and key[1] in methods]:
            del self._kept[key]

    def pins_of(self, target: str) -> PinnedTools | None:
        """What is approved of a server's tools; None where they are not pinned."""
        pins = self.pins.get(target)
        if pins is not None:
            mark = self.mark(target, "tools/list")
            if mark != self._pinned_at[target]:
                self._pinned_at[target] = mark
                pins.changed()
        return pins
