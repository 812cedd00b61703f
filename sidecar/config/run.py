"""One run of normalisation: what it knows, what it has found, what it has made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from sidecar.config.problems import render_path
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

    @classmethod
    def of(cls, data: Node) -> Known:
        """Collect the names a document defines."""
        return cls(
            frozenset(entry["name"] for entry in data.get("backends") or ()),
            frozenset(
                f"{entry.get('namespace')}/{entry.get('hostname')}"
                for entry in data.get("services") or ()
            ),
            frozenset(entry["name"] for entry in data.get("routeGroups") or ()),
        )

    def has(self, kind: str, name: str) -> bool:
        """Whether `kind` ("backend", "service" or "group") has the name."""
        if kind == "backend":
            return name in self.backends
        return name in (self.services if kind == "service" else self.groups)


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
        self.resources[key] = resource
        self.places[key] = path

    def file_text(self, file_path: str, path: str) -> str | None:
        """Text of a file, read once a run. None, with a problem at `path`, when it cannot be."""
        self.events += 1
        if file_path not in self._contents:
            self._contents[file_path] = self._read(file_path)
        text, reason = self._contents[file_path]
        if text is None:
            self.problem(path, f"cannot read `{file_path}`: {reason}")
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
