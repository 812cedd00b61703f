"""The schema over plain data, long lists item by item through a cache that outlives a reload.

Source: spec config section 0.1, step 4; design section 2 (one changed route costs little).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import orjson
from pydantic import BaseModel, ValidationError, create_model

from sidecar.config.explain import Finding, findings, ignorable, path_of
from sidecar.config.model.backends import NamedBackend
from sidecar.config.model.base import Model
from sidecar.config.model.discovery import Service, Workload
from sidecar.config.model.policies import TargetedPolicy
from sidecar.config.model.root import Config
from sidecar.config.model.routes import AttachedRoute, AttachedTcpRoute, Route, TcpRoute
from sidecar.config.problems import Key
from sidecar.config.snapshot import compact
from sidecar.config.text import Note, noted_nowhere, read_text

Keys = tuple[Key, ...]
Data = dict[str, Any]
Put = Callable[[Data], None]
"""Puts a checked list back into the document that it was taken from."""

_LISTS: Mapping[str, type[BaseModel]] = {
    "routes": AttachedRoute,
    "tcpRoutes": AttachedTcpRoute,
    "backends": NamedBackend,
    "policies": TargetedPolicy,
    "services": Service,
    "workloads": Workload,
}
"""Top-level lists that are checked item by item."""
_LISTENER_LISTS: Mapping[str, type[BaseModel]] = {"routes": Route, "tcpRoutes": TcpRoute}


@final
class ItemCache:
    """Items found valid, by their bytes. Keep one across reloads; it forgets what is not used."""

    def __init__(self) -> None:
        self._last: dict[tuple[type[BaseModel], bytes], _Item] = {}
        self._next: dict[tuple[type[BaseModel], bytes], _Item] = {}

    def get(self, model: type[BaseModel], key: bytes) -> _Item | None:
        """An item that this load or the last one found valid."""
        found = self._next.get((model, key)) or self._last.get((model, key))
        if found is not None:
            self._next[model, key] = found
        return found

    def put(self, model: type[BaseModel], key: bytes, item: _Item) -> None:
        """Keep a valid item."""
        self._next[model, key] = item

    def turn(self) -> None:
        """End a load that succeeded: what it did not use is forgotten."""
        self._last, self._next = self._next, {}


@final
@dataclass(frozen=True, slots=True)
class _Item:
    data: Data
    files: tuple[str, ...]


@final
class _Files:
    """The validation context: reads what the configuration refers to, and remembers it."""

    def __init__(self, note: Note) -> None:
        self.seen: list[str] = []
        self.has_read = False
        self._note = note

    def read(self, path: str) -> str:
        self.note(path)
        self.has_read = True
        return read_text(Path(path))

    def note(self, path: str) -> None:
        self.seen.append(path)
        self._note(path)


@final
class Checker:
    """One pass of the schema over the data. `note`: see `examine`."""

    def __init__(self, cache: ItemCache, note: Note = noted_nowhere) -> None:
        self._cache = cache
        self._note = note
        self.findings: list[Finding] = []
        self.warnings: list[Finding] = []
        self.files: list[str] = []

    def check(self, data: Any) -> Data:
        """Check everything; what the result holds is of use only without `findings`."""
        if data is None:
            return {}
        if not isinstance(data, dict):
            self.findings.append(Finding((), "the configuration must be a map"))
            return {}
        frame = dict(data)
        waiting = list(self._take_lists(frame))
        checked = self._item(Config, frame, ())
        if not self.findings:
            for put in waiting:
                put(checked)
        return checked

    def _take_lists(self, frame: Data) -> Iterator[Put]:
        """Check the long lists, leaving the frame without them; they are put back afterwards."""
        for key, model in _LISTS.items():
            if isinstance(frame.get(key), list):
                items = self._items(model, frame[key], (key,))
                frame[key] = []
                yield _putter((), key, items)
        yield from self._take_nested(frame, ("routeGroups",), {"routes": Route})
        binds = frame.get("binds")
        if isinstance(binds, list):
            frame["binds"] = binds = [dict(one) if isinstance(one, dict) else one for one in binds]
            for index, bind in enumerate(binds):
                if isinstance(bind, dict):
                    path = ("binds", index, "listeners")
                    yield from self._take_nested(bind, path, _LISTENER_LISTS)

    def _take_nested(
        self, holder: Data, path: Keys, lists: Mapping[str, type[BaseModel]]
    ) -> Iterator[Put]:
        name = str(path[-1])
        entries = holder.get(name)
        if not isinstance(entries, list):
            return
        holder[name] = entries = [dict(one) if isinstance(one, dict) else one for one in entries]
        for index, entry in enumerate(entries):
            for key, model in lists.items():
                if isinstance(entry, dict) and isinstance(entry.get(key), list):
                    items = self._items(model, entry[key], (*path, index, key))
                    entry[key] = []
                    yield _putter((*path, index), key, items)

    def _items(self, model: type[BaseModel], items: list[Any], path: Keys) -> list[Data]:
        return [self._cached(model, item, path, index) for index, item in enumerate(items)]

    def _cached(self, model: type[BaseModel], item: Any, path: Keys, index: int) -> Data:
        key = compact(orjson.dumps(item))
        found = self._cache.get(model, key)
        if found is None:
            return self._item(model, item, (*path, index), key)
        for file in found.files:
            self.files.append(file)
            self._note(file)
        return found.data

    def _item(
        self, model: type[BaseModel], item: Any, path: Keys, key: bytes | None = None
    ) -> Data:
        files = _Files(self._note)
        built = model if model is not Config else _sections(frozenset(item))
        try:
            valid = built.__pydantic_validator__.validate_python(item, context=files)
        except ValidationError as error:
            return self._refuse(model, item, path, error.errors(include_url=False))
        self.files += files.seen
        data: Data = built.__pydantic_serializer__.to_python(
            valid, by_alias=True, exclude_unset=True, exclude_none=True, warnings=False
        )
        # An item with a file's text in it is stale when the file changes, so it is not kept.
        if key is not None and not files.has_read:
            self._cache.put(model, key, _Item(data, tuple(files.seen)))
        return data

    def _refuse(self, model: type[BaseModel], item: Any, path: Keys, errors: list[Any]) -> Data:
        """Note what is wrong; or when it is only keys to be ignored, go on without them."""
        ignored = [error for error in errors if ignorable(model, error)]
        if len(ignored) < len(errors):
            hard = [error for error in errors if error not in ignored]
            self.findings += findings(model, hard, path)
            return {}
        for error in ignored:
            parts = path_of(error)
            item = _without(item, parts)
            message = f"unknown field `{parts[-1]}` is ignored"
            self.warnings.append(Finding(path + parts, message, at_key=True))
        return self._item(model, item, path)


@lru_cache(maxsize=8)
def _sections(names: frozenset[str]) -> type[BaseModel]:
    """`Config` with no more than the sections of these names: to build all of them, first, takes as
    long as all the rest of loading a short file. Not a subclass: the printed schema has those."""
    fields = Config.model_fields.items()
    there = {name: (field.annotation, field) for name, field in fields if field.alias in names}
    made: type[BaseModel] = create_model(Config.__name__, __config__=Model.model_config, **there)  # type: ignore[call-overload]
    return made


def _putter(path: Keys, key: str, items: list[Data]) -> Put:
    def put(checked: Data) -> None:
        node: Any = checked
        for part in path:
            node = node[part]
        node[key] = items

    return put


def _without(node: Any, parts: Keys) -> Any:
    """A copy without one key, sharing what does not lead to it."""
    part, *rest = parts
    copy: Any = dict(node) if isinstance(node, dict) else list(node)
    if rest:
        copy[part] = _without(copy[part], tuple(rest))
    else:
        del copy[part]
    return copy
