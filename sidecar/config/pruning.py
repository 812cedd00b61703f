"""A document without its faulty parts, so that later stages can look at the rest of it.

What a stage refuses is cut out before the next one runs. The next stage then speaks of places in
what is left, and may complain of what is missing there only because of the cut. So a `Pruning`
knows two things besides: where a place was in the whole document, and whether a complaint at a
place may be such a consequence.

A place is *sore* when it, or anything inside of it, was at fault: a statement about the whole of a
sore mapping ("HTTPS requires tls") may be untrue of the document as it will be. A few statements
about one key depend on the key beside it: see `_DEPENDS_ON`.

Source: design section 2 (all problems of a file are reported at once).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

from sidecar.config.problems import Key

Parts = tuple[Key, ...]
"""A place, as the keys and indexes that lead there."""

_DEPENDS_ON: Mapping[Key, tuple[str, ...]] = {
    "tls": ("protocol",),
    "port": ("mode",),
    "hostnames": ("protocol",),
    "phase": ("target",),
}
"""A key, and the keys beside it that decide what it may be."""
_CONFLICTING = "hostname"
"""The key in which the entries of a list must differ."""


@final
class Pruning:
    """One document and all that was cut out of it. `data`: what is left; read-only, parts shared.

    Places are those in the whole document unless said otherwise.
    """

    def __init__(self, document: Any) -> None:
        self.document = document
        self.data = document
        self._gone: set[Parts] = set()
        self._lost: set[Parts] = set()
        self._sore: set[Parts] = set()
        self._cuts: dict[Parts, list[int]] = {}
        self._left: dict[Parts, list[int]] = {}
        self._holed: set[Parts] = set()

    def cut(self, faulty: Iterable[Parts]) -> bool:
        """Take the values at these places out; whether there is less of the document now.

        What is not there (a missing key) takes the mapping that lacks it along.
        """
        places = {self._present(parts) for parts in faulty}
        if places <= self._gone:
            return False
        self._gone |= places
        self._cuts = {}
        for parts in self._gone:
            if parts and isinstance(parts[-1], int):
                self._cuts.setdefault(parts[:-1], []).append(parts[-1])
        for at, indexes in self._cuts.items():
            indexes.sort()
            # Before what was the n-th to go, as many less n are left.
            self._left[at] = [index - number for number, index in enumerate(indexes)]
        self._holed = {parts[:length] for parts in self._gone for length in range(len(parts))}
        self.data = {} if () in self._gone else _without(self.document, _tree(self._gone))
        return True

    def hurt(self, parts: Parts) -> None:
        """A place is at fault, or a key is absent there that was meant to be given."""
        self._lost.add(parts)
        while parts and parts not in self._sore:
            self._sore.add(parts)
            parts = parts[:-1]

    def original(self, parts: Parts) -> Parts:
        """Where a place of `data` is in the whole document."""
        found: list[Key] = []
        for part in parts:
            if isinstance(part, int):
                part += bisect_right(self._left.get(tuple(found), ()), part)
            found.append(part)
        return tuple(found)

    def is_consequence(self, parts: Parts) -> bool:
        """Whether a complaint at a place may come from an earlier fault, and not be one itself."""
        if not parts:
            return False
        if parts in self._sore:
            return True
        above, key = parts[:-1], parts[-1]
        if any((*above, other) in self._sore for other in _DEPENDS_ON.get(key, ())):
            return True
        if key != _CONFLICTING or len(parts) < 3:
            return False
        siblings = self._sore_below(parts[:-2])
        return any((*one, _CONFLICTING) in self._sore for one in siblings)

    def has_cut_in(self, parts: Parts) -> bool:
        """Whether something was cut out right under a place."""
        return any(one[:-1] == parts for one in self._gone)

    def has_cut_below(self, parts: Parts) -> bool:
        """Whether something was cut out anywhere inside of a place."""
        return parts in self._holed

    def has_lost(self, *sections: str) -> bool:
        """Whether anything in these top-level sections was at fault."""
        return any((section,) in self._sore for section in sections)

    def is_unknown(self, section: str) -> bool:
        """Whether nobody can say which names a top-level list or map defines."""
        if (section,) in self._lost:
            return True
        value = self._section(section)
        if not isinstance(value, list):
            return False
        return any(_name(value[index]) is None for index in self._cuts.get((section,), ()))

    def entries(self, section: str) -> Iterator[Mapping[str, Any]]:
        """The entries of a top-level list that are maps, faulty ones too."""
        value = self._section(section)
        for entry in value if isinstance(value, list) else ():
            if isinstance(entry, dict):
                yield entry

    def is_sore(self, parts: Parts) -> bool:
        """Whether a place, or anything inside of it, was at fault."""
        return parts in self._sore

    def _section(self, section: str) -> Any:
        return self.document.get(section) if isinstance(self.document, dict) else None

    def _present(self, parts: Parts) -> Parts:
        """The place, or the innermost one around it that has not been cut out yet."""
        node = self.document
        for length, part in enumerate(parts):
            if parts[: length + 1] in self._gone or not _has(node, part):
                return parts[:length]
            node = node[part]
        return parts

    def _sore_below(self, parts: Parts) -> list[Parts]:
        length = len(parts) + 1
        return [one for one in self._sore if len(one) == length and one[:-1] == parts]


def _name(entry: Any) -> str | None:
    """The name of an entry whatever its shape; a service has a host name instead."""
    if not isinstance(entry, dict):
        return None
    name = entry.get("name", entry.get("hostname"))
    return name if isinstance(name, str) else None


def _has(node: Any, part: Key) -> bool:
    if isinstance(part, int):
        return isinstance(node, list) and part < len(node)
    return isinstance(node, dict) and part in node


_Tree = dict[Key, Any]


def _tree(places: Iterable[Parts]) -> _Tree:
    """The places as nested maps; an empty one is a place."""
    root: _Tree = {}
    # The outermost first: what is inside of it goes with it.
    for parts in sorted(places, key=len):
        node = root
        for index, part in enumerate(parts):
            if part in node and not node[part]:
                break
            node = node.setdefault(part, {}) if index < len(parts) - 1 else node
        else:
            if parts:
                node[parts[-1]] = {}
    return root


def _without(node: Any, tree: _Tree) -> Any:
    """A copy without the places of the tree, sharing what no place is in."""
    is_map = isinstance(node, dict)
    kept = [
        (key, _without(value, tree[key]) if key in tree else value)
        for key, value in (node.items() if is_map else enumerate(node))
        if tree.get(key, True)
    ]
    return dict(kept) if is_map else [value for _, value in kept]
