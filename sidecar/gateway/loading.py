"""From a source to a checked snapshot, and from one reload to the next.

Source: design section 2; spec/config.md sections 0.1 and 10.1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sidecar.config.local import ItemCache, LastDocument, Source, examine
from sidecar.config.normalise import Normaliser
from sidecar.config.problems import InvalidConfigError, Problem
from sidecar.config.snapshot import Snapshot
from sidecar.errors import ConfigError
from sidecar.gateway.check import Checker
from sidecar.gateway.stamps import Stamp, Stamps, size_in


@final
@dataclass(frozen=True, slots=True)
class LoadedSnapshot:
    """A configuration that can run. `files`: all it was read from, to be watched, as they were."""

    snapshot: Snapshot
    warnings: Sequence[Problem]
    files: Mapping[Path, Stamp]


@final
class Loader:
    """Loads one source again and again, doing anew what changed."""

    def __init__(self, source: Source, env: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._env = os.environ if env is None else env
        self._cache = ItemCache()
        self._last = LastDocument()
        self._stamps = Stamps()
        self.files: Mapping[Path, Stamp] = {}
        """What the last load read, as it was then, also when the load was refused."""
        self.fetched: dict[str, str] = {}
        """What was at the URLs of the configuration when they were last looked at."""
        self._normaliser = Normaliser(read_file=self._read, env=self._env, fetched=self.fetched)
        self._checker = Checker(self._env)

    def load(self, *, refuses_empty: bool = False) -> LoadedSnapshot:
        """Read, check, normalise. Raises InvalidConfigError with every problem of all stages.

        `refuses_empty`: for a gateway that runs. Empty is what a file is for a moment while it is
        written in place; taken at its word it would close every port.
        """
        self._stamps = Stamps()
        try:
            snapshot, warnings = self._load(refuses_empty=refuses_empty)
        finally:
            self.files = self._stamps.settled()
        return LoadedSnapshot(snapshot, warnings, self.files)

    def _load(self, *, refuses_empty: bool) -> tuple[Snapshot, list[Problem]]:
        path = self.source.path
        if path is not None:
            stamp = self._stamps.note(path)
            if refuses_empty and stamp is not None and not size_in(stamp):
                problem = Problem("", "the file is empty; nothing was changed")
                raise InvalidConfigError(self.source.name, [problem])
        loaded = examine(self.source, self._env, self._cache, self._last, self._stamps.note)
        errors: list[ConfigError] = []
        snapshot = self._normaliser.normalise(loaded.data, errors, loaded.pruning)
        loaded.refuse(errors)
        loaded.refuse(self._checker.check(snapshot, loaded.pruning))
        warnings = [*loaded.warnings, *loaded.place(snapshot.warnings)]
        problems = loaded.problems
        if problems:
            raise InvalidConfigError(self.source.name, problems, warnings)
        return snapshot, warnings

    def _read(self, path: str) -> bytes:
        self._stamps.note(path)
        return Path(path).read_bytes()
