"""Which references of a document lead back to themselves.

Source: R. Tarjan, Depth-first search and linear graph algorithms, 1972 (here without recursion).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sidecar.errors import ConfigError
from sidecar.mcp.openapi.document import ROOT, Document, fault

_STEPS_MAX: Final = 4_000_000
"""Nodes looked at, for references can overlap: as many for each as there are in the document."""

Cycles = frozenset[str]
"""Places that are reached again from what they hold."""


def cycles(document: Document) -> Cycles:
    """Raises: ConfigError for a document in which this would take too long."""
    edges = _Edges(document)
    found: set[str] = set()
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    open_ones: list[str] = []
    is_open: set[str] = set()
    for start in edges.of(ROOT, document.data):
        if start in order:
            continue
        work: list[tuple[str, Iterator[str]]] = []
        _enter(start, edges, order, low, open_ones, is_open, work)
        while work:
            node, following = work[-1]
            target = next(following, None)
            if target is None:
                work.pop()
                if work:
                    above = work[-1][0]
                    low[above] = min(low[above], low[node])
                if low[node] == order[node]:
                    _close(node, edges, open_ones, is_open, found)
            elif target not in order:
                _enter(target, edges, order, low, open_ones, is_open, work)
            elif target in is_open:
                low[node] = min(low[node], order[target])
    return frozenset(found)


def _enter(
    node: str,
    edges: _Edges,
    order: dict[str, int],
    low: dict[str, int],
    open_ones: list[str],
    is_open: set[str],
    work: list[tuple[str, Iterator[str]]],
) -> None:
    order[node] = low[node] = len(order)
    open_ones.append(node)
    is_open.add(node)
    work.append((node, iter(edges.of(node))))


def _close(
    node: str, edges: _Edges, open_ones: list[str], is_open: set[str], found: set[str]
) -> None:
    """All of a component are known; it is a cycle when it has several, or points at itself."""
    component = []
    while True:
        one = open_ones.pop()
        is_open.discard(one)
        component.append(one)
        if one == node:
            break
    if len(component) > 1 or node in edges.of(node):
        found.update(component)


class _Edges:
    """From each place that is referred to, the places that it refers to."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._steps = 0
        self._nodes: dict[str, Any] = {}
        self._known: dict[str, tuple[str, ...]] = {}

    def of(self, place: str, node: Any = None) -> tuple[str, ...]:
        """`node`: what is there; for a place met before it is known."""
        found = self._known.get(place)
        if found is None:
            found = tuple(self._found(self._nodes.get(place, node), place))
            self._known[place] = found
        return found

    def _found(self, node: Any, place: str) -> dict[str, None]:
        targets: dict[str, None] = {}
        left = [node]
        while left:
            one = left.pop()
            self._steps += 1
            if self._steps > _STEPS_MAX:
                raise fault(place, "too many references that overlap")
            if isinstance(one, Mapping):
                reference = one.get("$ref")
                if isinstance(reference, str):
                    self._add(reference, targets)
                left += one.values()
            elif isinstance(one, list):
                left += one
        return targets

    def _add(self, reference: str, targets: dict[str, None]) -> None:
        try:
            node, target = self._document.pointed(reference, ROOT)
        except ConfigError:
            # It may stand in an example. Where it counts, who follows it says so.
            return
        self._nodes.setdefault(target, node)
        targets[target] = None
