"""One run of normalisation: what it knows, what it has found, what it has made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from sidecar.config.problems import render_path
from sidecar.config.pruning import Pruning
from sidecar.config.scalars import shown_path
from sidecar.config.snapshot import Json, Resource
from sidecar.errors import ConfigError

Node = Mapping[str, Any]
"""A mapping of the validated document: its shape was checked by the schema."""

FILE_LIMIT_BYTES = 1024 * 1024
"""No certificate, key or bundle of roots is larger; a path to a disk image is a mistake."""

ReadFile = Callable[[str], bytes]
"""Path (relative to the working directory) to content. Raises OSError."""


def read_path(path: str) -> bytes:
    """Read a file. Raises OSError, also when it is larger than FILE_LIMIT_BYTES."""
    with Path(path).open("rb") as file:
        content = file.read(FILE_LIMIT_BYTES + 1)
    if len(content) > FILE_LIMIT_BYTES:
        raise OSError(f"larger than {FILE_LIMIT_BYTES} bytes")
    return content


@final
@dataclass(frozen=True, slots=True)
class Known:
    """The names that a reference may have."""

    backends: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    """`namespace/hostname`."""
    groups: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()
    """Kinds any name of which may exist, because faults hide some."""
    pruning: Pruning | None = None
    """What faults left out of the document, if anything: its names are known all the same."""
    has_workload_api: bool = True
    """Whether somebody gives SVIDs, or may for all that is known."""

    @classmethod
    def of(
        cls, data: Node, pruning: Pruning | None = None, *, has_workload_api: bool = True
    ) -> Known:
        """Collect the names a document defines."""
        given = {
            section: data.get(section) or () if pruning is None else pruning.entries(section)
            for _, section in _SECTIONS
        }
        return cls(
            _names(given["backends"]),
            frozenset(f"{one.get('namespace')}/{one.get('hostname')}" for one in given["services"]),
            _names(given["routeGroups"]),
            frozenset(
                kind for kind, section in _SECTIONS if pruning and pruning.is_unknown(section)
            ),
            pruning,
            has_workload_api or (pruning is not None and pruning.is_unknown("config")),
        )

    def has(self, kind: str, name: str) -> bool:
        """Whether `kind` ("backend", "service" or "group") has the name; "spiffe": SVIDs."""
        if kind == "spiffe":
            return self.has_workload_api
        if kind == "backend":
            found = name in self.backends
        else:
            found = name in (self.services if kind == "service" else self.groups)
        return found or kind in self.unsure

    def has_lost_gateway(self, reference: str) -> bool:
        """Whether `gateway` or `gateway/listener` may be right, and only what it names is not."""
        if self.pruning is None:
            return False
        place = ("gateways", reference.partition("/")[0])
        return (
            self.pruning.is_unknown("gateways")
            or self.pruning.is_sore(place)
            or self.pruning.has_cut_below(place)
        )

    def has_lost(self, *sections: str) -> bool:
        """Whether faults left something out of these top-level sections."""
        return self.pruning is not None and self.pruning.has_lost(*sections)


_SECTIONS = (("backend", "backends"), ("service", "services"), ("group", "routeGroups"))


def _names(entries: Iterable[Node]) -> frozenset[str]:
    return frozenset(str(entry.get("name")) for entry in entries)


@final
class Run:
    """What the parts of normalisation share. One thread, one document, used once."""

    __slots__ = (
        "_contents",
        "_read_file",
        "_seen",
        "events",
        "known",
        "places",
        "problems",
        "references",
        "resources",
        "shadowed",
        "warnings",
    )

    def __init__(
        self, problems: list[ConfigError], known: Known, read_file: ReadFile = read_path
    ) -> None:
        self.problems = problems
        self.known = known
        self.warnings: list[ConfigError] = []
        self.resources: dict[str, Resource] = {}
        self.places: dict[str, str] = {}
        self.shadowed: list[tuple[Resource, str]] = []
        """What later resources with the same key replaced, and its place."""
        self.references: list[tuple[str, str]] = []
        """(kind, name) of each name looked up: a result that is kept depends on them."""
        self.events = 0
        """Problems, warnings and file reads so far, repeated ones too."""
        self._seen: set[tuple[str, str]] = set()
        self._read_file = read_file
        self._contents: dict[str, tuple[str | None, str]] = {}

    def problem(self, path: str, message: str) -> None:
        """Note what makes the configuration unusable."""
        self._note(self.problems, path, message)

    def warn(self, path: str, message: str) -> None:
        """Note what the operator should hear."""
        self._note(self.warnings, path, message)

    def _note(self, notes: list[ConfigError], path: str, message: str) -> None:
        self.events += 1
        # A route on several listeners is made several times, and at fault only once.
        if (path, message) not in self._seen:
            self._seen.add((path, message))
            notes.append(ConfigError(path, message))

    def refers(self, kind: str, name: str) -> bool:
        """Look a name up and remember that the result depended on it."""
        self.references.append((kind, name))
        return self.known.has(kind, name)

    def make(self, kind: str, name: str, data: Json, path: str) -> Resource | None:
        """Make a resource and keep it. None, with a problem, when it cannot be written."""
        try:
            resource = Resource.of(kind, name, data)
        except ConfigError as error:
            self.problem(path, error.message)
            return None
        self.keep(resource, path)
        return resource

    def keep(self, resource: Resource, path: str) -> None:
        """Keep a resource. As in the reference, the last of several with one key wins."""
        key = f"{resource.kind}/{resource.name}"
        if key in self.resources:
            self.warn(path, f"replaces an earlier {resource.kind} with the key {resource.name}")
            self.shadowed.append((self.resources[key], self.places[key]))
        self.resources[key] = resource
        self.places[key] = path

    def file_text(self, file_path: str, path: str) -> str | None:
        """Text of a file, read once a run. None, with a problem at `path`, when it cannot be."""
        self.events += 1
        if file_path not in self._contents:
            self._contents[file_path] = self._read(file_path)
        text, reason = self._contents[file_path]
        if text is None:
            self.problem(path, f"cannot read `{shown_path(file_path)}`: {reason}")
        return text

    def _read(self, file_path: str) -> tuple[str | None, str]:
        """Text of a file, or None and why."""
        try:
            return self._read_file(file_path).decode(), ""
        except OSError as error:
            return None, error.strerror or str(error)
        except UnicodeDecodeError:
            return None, "the file is not UTF-8 text"


def child(path: str, key: str) -> str:
    """The path of a mapping's entry whose key the user chose, which may hold dots."""
    step = render_path((key,))
    return f"{path}{step}" if step.startswith("[") else f"{path}.{step}"


def items(node: Node, key: str, path: str = "") -> Iterable[tuple[str, Any]]:
    """The entries of the list `key` of `node` (which may be absent or null) with their paths."""
    base = f"{path}.{key}" if path else key
    for index, entry in enumerate(node.get(key) or ()):
        yield f"{base}[{index}]", entry
