"""Model names and patterns of them: `gpt-4o`, `gpt-*`, `*-preview`, `*`.

Source: spec llm sections 0 (aliases), 3.4 and 4.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, final

from sidecar.errors import ConfigError, RequestError

ALLOWED: Final = "allowedModels"
"""Key of `request.state`: the AllowedModels of the API key that a request came with."""


class ModelError(RequestError):
    """A request for a model that cannot be had. `code` is also the code of the JSON error."""


@final
@dataclass(frozen=True, slots=True)
class NamePattern:
    """A name, or a pattern with one `*` at its start or end."""

    text: str
    prefix: str
    suffix: str
    is_wildcard: bool

    @classmethod
    def parse(cls, text: str, path: str = "") -> NamePattern:
        """Raises: ConfigError."""
        if "*" not in text:
            return cls(text, text, "", is_wildcard=False)
        if text.count("*") > 1:
            raise ConfigError(path, f"model name wildcard may only appear once: '{text}'")
        prefix, _, suffix = text.partition("*")
        if prefix and suffix:
            raise ConfigError(
                path, f"model name wildcard must be either at the beginning or the end: '{text}'"
            )
        return cls(text, prefix, suffix, is_wildcard=True)

    @property
    def specificity(self) -> int:
        """Characters that are no `*`: more is tried first."""
        return len(self.prefix) + len(self.suffix)

    def matches(self, name: str) -> bool:
        """Whether the name is meant."""
        if not self.is_wildcard:
            return name == self.text
        return name.startswith(self.prefix) and name.endswith(self.suffix)

    def covers(self, other: NamePattern) -> bool:
        """Whether every name that `other` matches is matched."""
        if not other.is_wildcard:
            return self.matches(other.text)
        return (
            self.is_wildcard
            and other.prefix.startswith(self.prefix)
            and other.suffix.endswith(self.suffix)
        )


@final
class Aliases:
    """`modelAliases`: names that are replaced, once; an exact name first, then patterns, longest
    first. Raises: ConfigError."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, aliases: Mapping[str, str], path: str = "modelAliases") -> None:
        parsed = [NamePattern.parse(name, f"{path}.{name}") for name in aliases]
        self._exact = {one.text: aliases[one.text] for one in parsed if not one.is_wildcard}
        wild = sorted((one for one in parsed if one.is_wildcard), key=lambda one: -one.specificity)
        self._patterns = tuple((one, aliases[one.text]) for one in wild)

    def apply(self, name: str) -> str:
        """The name to use."""
        found = self._exact.get(name)
        if found is not None:
            return found
        for pattern, model in self._patterns:
            if pattern.matches(name):
                return model
        return name


@final
class AllowedModels:
    """The models that an API key may ask for: `*`, names, `prefix*`, `*suffix`. None: all of them;
    an empty list: none. Raises: ConfigError."""

    __slots__ = ("_also", "_exact", "_patterns")

    def __init__(self, names: Iterable[str], path: str = "allowedModels") -> None:
        self._also: AllowedModels | None = None
        parsed = [NamePattern.parse(name, path) for name in names]
        self._exact = frozenset(one.text for one in parsed if not one.is_wildcard)
        self._patterns = tuple(one for one in parsed if one.is_wildcard)

    def within(self, other: AllowedModels) -> AllowedModels:
        """What both allow: the keys of two phases, each with a list of its own."""
        made = AllowedModels(())
        made._exact, made._patterns = self._exact, self._patterns
        made._also = other if self._also is None else self._also.within(other)
        return made

    def allows(self, name: str) -> bool:
        """Whether this name may be asked for."""
        if self._also is not None and not self._also.allows(name):
            return False
        return name in self._exact or any(one.matches(name) for one in self._patterns)

    def shown(self, pattern: NamePattern) -> list[str]:
        """What a list of models shows of a model: itself, or the narrower names allowed of it."""
        shown = self._shown(pattern)
        also = self._also
        if also is None:
            return shown
        narrower = (also.shown(NamePattern.parse(name)) for name in shown)
        return list(dict.fromkeys(name for names in narrower for name in names))

    def _shown(self, pattern: NamePattern) -> list[str]:
        if not pattern.is_wildcard:
            return [pattern.text] if self.allows(pattern.text) else []
        if any(one.covers(pattern) for one in self._patterns):
            return [pattern.text]
        names = sorted(name for name in self._exact if pattern.matches(name))
        return names + [one.text for one in self._patterns if pattern.covers(one)]
