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


@final
@dataclass(frozen=True, slots=True)
class LoadedSnapshot:
    """A configuration that can run. `files`: all it was read from, to be watched."""

    snapshot: Snapshot
    warnings: Sequence[Problem]
    files: frozenset[Path]


@final
class Loader:
    """Loads one source again and again, doing anew what changed."""

    def __init__(self, source: Source, env: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._env = os.environ if env is None else env
        self._cache = ItemCache()
        self._last = LastDocument()
        self._files: set[str] = set()
        self.fetched: dict[str, str] = {}
        """What was at the URLs of the configuration when they were last looked at."""
        self._normaliser = Normaliser(read_file=self._read, env=self._env, fetched=self.fetched)
        self._checker = Checker(self._env)

    def load(self) -> LoadedSnapshot:
        """Read, check, normalise. Raises InvalidConfigError with every problem of all stages."""
        self._files = set()
        loaded = examine(self.source, self._env, self._cache, self._last)
        errors: list[ConfigError] = []
        snapshot = self._normaliser.normalise(loaded.data, errors, loaded.pruning)
        loaded.refuse(errors)
        loaded.refuse(self._checker.check(snapshot, loaded.pruning))
        warnings = [*loaded.warnings, *loaded.place(snapshot.warnings)]
        problems = loaded.problems
        if problems:
            raise InvalidConfigError(self.source.name, problems, warnings)
        names = {*loaded.files, *self._files}
        files = {Path(os.path.abspath(name)) for name in names}
        if self.source.path is not None:
            files.add(Path(os.path.abspath(self.source.path)))
        return LoadedSnapshot(snapshot, warnings, frozenset(files))

    def _read(self, path: str) -> bytes:
        self._files.add(path)
        return Path(path).read_bytes()
