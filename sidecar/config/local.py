"""Load a configuration from a file, standard input or the command line, with all its problems.

Steps: expansion of the environment over the raw text, YAML, the schema, files that are referred
to. What the schema cannot say is checked by `sidecar.config.normalise`.

Source: spec config section 0.1; design section 2.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import final

from sidecar.config.checker import Checker, Data, ItemCache
from sidecar.config.explain import Finding
from sidecar.config.problems import InvalidConfigError, Problem
from sidecar.config.splice import LastDocument
from sidecar.config.text import Source, Text, resolve
from sidecar.errors import ConfigError

__all__ = ["ItemCache", "LastDocument", "Loaded", "Source", "load"]


@final
class Loaded:
    """A configuration that fits the schema.

    `data`: plain JSON types under the schema's own key spellings, nulls and defaults left out
    (`invalid: null` of a backend is kept, as true). Parts may be shared, also with the result of
    an earlier load: read-only. `files`: what it refers to, to be watched. `warnings`: keys that
    are ignored.
    """

    def __init__(
        self, data: Data, files: Iterable[str], warnings: Iterable[Finding], text: Text
    ) -> None:
        self.data = data
        self.files: list[str] = list(dict.fromkeys(files))
        self._text = text
        self.warnings: list[Problem] = text.problems(warnings)

    def place(self, errors: Iterable[ConfigError]) -> list[Problem]:
        """Give errors found later, by cross-field checks, their places in the text."""
        found = (Finding(resolve(error.path, self.data), error.message) for error in errors)
        return self._text.problems(found)


def load(
    source: Source,
    env: Mapping[str, str],
    cache: ItemCache | None = None,
    last: LastDocument | None = None,
) -> Loaded:
    """Read and check. Raises InvalidConfigError with every problem at once.

    `cache` and `last`, kept from load to load, save the work on what did not change.
    """
    text = Text(source, env, last.read if last else None)
    checker = Checker(cache or ItemCache())
    with _no_collection():
        data = checker.check(text.document.data)
    if checker.findings:
        raise InvalidConfigError(source.name, text.problems(checker.findings))
    if cache is not None:
        cache.turn()
    return Loaded(data, checker.files, checker.warnings, text)


@contextmanager
def _no_collection() -> Iterator[None]:
    # Nothing made here is garbage, yet the collector would walk all of it again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
