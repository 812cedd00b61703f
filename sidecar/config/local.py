"""Load a configuration from a file, standard input or the command line, with all its problems.

Steps: expansion of the environment over the raw text, YAML, the schema, files that are referred
to. What the schema cannot say is checked by `sidecar.config.normalise`.

Source: spec config section 0.1; design section 2.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import final

from sidecar.config.checker import Checker, Data, ItemCache
from sidecar.config.explain import UNKNOWN_KEY, Finding, meant_parts
from sidecar.config.model.base import NOTHING_CHOSEN
from sidecar.config.problems import InvalidConfigError, Problem, in_file_order
from sidecar.config.pruning import Pruning
from sidecar.config.splice import LastDocument
from sidecar.config.text import Note, Source, Text, noted_nowhere, resolve
from sidecar.errors import ConfigError

__all__ = ["ItemCache", "LastDocument", "Loaded", "Source", "examine", "load"]


@final
class Loaded:
    """What of a configuration fits the schema: all of it unless there are `findings`.

    `data`: plain JSON types under the schema's own key spellings, nulls and defaults left out
    (`invalid: null` of a backend is kept, as true). Parts may be shared, also with the result of
    an earlier load: read-only. `files`: what it refers to, to be watched. `warnings`: keys that
    are ignored. `pruning`: what was left out of `data`, if anything.
    """

    def __init__(
        self, data: Data, files: Iterable[str], text: Text, pruning: Pruning | None = None
    ) -> None:
        self.data = data
        self.files: list[str] = list(dict.fromkeys(files))
        self.pruning = pruning
        self.findings: list[Finding] = []
        self._ignored: list[Finding] = []
        self._text = text

    @property
    def warnings(self) -> list[Problem]:
        """The keys that are ignored."""
        return self._text.problems(self._ignored)

    @property
    def problems(self) -> list[Problem]:
        """All that was found by now, in the order of the file; empty when it can run."""
        return in_file_order([*self._text.faults, *self._text.problems(self.findings)])

    def ignored(self, findings: Iterable[Finding]) -> None:
        """Take up keys without a meaning."""
        self._ignored += findings

    def refuse(self, errors: Iterable[ConfigError]) -> None:
        """Take up what a later stage found, without the consequences of earlier findings."""
        found = self._findings(errors)
        if found:
            self.pruning = self.pruning or Pruning(self._text.document.data)
            for one in found:
                self.pruning.hurt(one.parts)
            self.findings += found

    def place(self, errors: Iterable[ConfigError]) -> list[Problem]:
        """Give warnings found later, by cross-field checks, their places in the text."""
        return self._text.problems(self._findings(errors))

    def _findings(self, errors: Iterable[ConfigError]) -> list[Finding]:
        found = [Finding(resolve(error.path, self.data), error.message) for error in errors]
        pruning = self.pruning
        if pruning is None:
            return found
        there = [replace(one, parts=pruning.original(one.parts)) for one in found]
        return [one for one in there if not pruning.is_consequence(one.parts)]


def load(
    source: Source,
    env: Mapping[str, str],
    cache: ItemCache | None = None,
    last: LastDocument | None = None,
) -> Loaded:
    """Read and check. Raises InvalidConfigError with every problem at once.

    `cache` and `last`, kept from load to load, save the work on what did not change.
    """
    loaded = examine(source, env, cache, last)
    problems = loaded.problems
    if problems:
        raise InvalidConfigError(source.name, problems)
    return loaded


def examine(
    source: Source,
    env: Mapping[str, str],
    cache: ItemCache | None = None,
    last: LastDocument | None = None,
    note: Note = noted_nowhere,
) -> Loaded:
    """Read and check as `load` does, but leave out what the schema refuses: see `Loaded`.

    `note`: is told of each file that the configuration refers to, before it is read.
    Raises InvalidConfigError for a text that says nothing (unreadable, no YAML).
    """
    text = Text(source, env, last.read if last else None)
    cache = cache or ItemCache()
    with _no_collection():
        checker = Checker(cache, note)
        if text.faults:
            return _pruned(text, _without_unset(text), cache, note)
        loaded = Loaded(checker.check(text.document.data), checker.files, text)
        if checker.findings:
            return _pruned(text, Pruning(text.document.data), cache, note)
        loaded.ignored(checker.warnings)
        cache.turn()
    return loaded


def _without_unset(text: Text) -> Pruning:
    """The document without what depends on variables that are not set."""
    pruning = Pruning(text.document.data)
    places = list(text.places_of_unset())
    for parts in places:
        pruning.hurt(parts)
    pruning.cut(places)
    return pruning


def _pruned(text: Text, pruning: Pruning, cache: ItemCache, note: Note) -> Loaded:
    """Cut out what is refused until the rest fits the schema.

    A fault can hide others: what spans fields is looked at only when each of them is sound.
    """
    findings: list[Finding] = []
    checker = Checker(cache, note)
    data = checker.check(pruning.data)
    while checker.findings:
        found = [replace(one, parts=pruning.original(one.parts)) for one in checker.findings]
        findings += [one for one in found if not _is_consequence(one, pruning)]
        for one in found:
            # A key that means nothing is missed nowhere, unless another one was meant.
            if one.kind != UNKNOWN_KEY:
                pruning.hurt(one.parts)
            elif one.hint:
                pruning.hurt(meant_parts(one))
        # Each round cuts more, up to the whole document if nothing less helps, so this ends.
        pruning.cut(one.parts for one in found)
        checker = Checker(cache, note)
        data = checker.check(pruning.data)
    loaded = Loaded(data, checker.files, text, pruning)
    loaded.findings = findings
    loaded.ignored(replace(one, parts=pruning.original(one.parts)) for one in checker.warnings)
    return loaded


def _is_consequence(one: Finding, pruning: Pruning) -> bool:
    """Also that nothing was chosen, where what was chosen is not known."""
    return pruning.is_consequence(one.parts) or (
        one.kind == NOTHING_CHOSEN and pruning.has_cut_in(one.parts)
    )


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
