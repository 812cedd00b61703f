"""The arguments of a tool call as texts that guards read and replace: what comes out is JSON again.

A text is a string, a number or a key; a mask makes a string of a number. Arguments that are no JSON
(they were cut, or the tool takes text) are one text.

Source: RFC 8259; spec/llm.md section 4.2.
"""

from __future__ import annotations

import json
from typing import Any, Final, final

from sidecar.llm.guard.verdict import GuardError

MAX_VALUES: Final = 10_000
"""How many texts the arguments of one call may have."""
Json = dict[str, Any]


@final
class Leaf:
    """One text of a JSON value."""

    __slots__ = ("_holder", "_key", "is_key", "text")

    def __init__(self, holder: Any, key: Any, text: str, *, is_key: bool) -> None:
        self._holder = holder
        self._key = key
        self.text = text
        self.is_key = is_key

    def replace(self, text: str) -> None:
        """Put other text in its place. Keys are replaced after all values."""
        if self.is_key:
            self._holder[text] = self._holder.pop(self._key)
        else:
            self._holder[self._key] = text


@final
class Arguments:
    """The arguments of one call. Raises: GuardError for more than MAX_VALUES texts."""

    __slots__ = ("_is_json", "_original", "_repeats", "_root", "leaves")

    def __init__(self, text: str) -> None:
        self._original = text
        self._repeats = False
        self._root: Json = {"": text}
        self.leaves: list[Leaf] = []
        try:
            value = json.loads(text, object_pairs_hook=self._object, parse_constant=_refused)
        except (ValueError, RecursionError):
            value = None
        self._is_json = isinstance(value, dict | list)
        if self._is_json:
            self._root = {"": value}
            self._collect()
        else:
            self.leaves.append(Leaf(self._root, "", text, is_key=False))

    def _object(self, pairs: list[tuple[str, Any]]) -> Json:
        made = dict(pairs)
        # Of a repeated key one value was read: the client must not find the other.
        self._repeats = self._repeats or len(made) < len(pairs)
        return made

    def _collect(self) -> None:
        keys: list[Leaf] = []
        waiting: list[tuple[Any, Any]] = [(self._root, "")]
        while waiting:
            holder, key = waiting.pop()
            value = holder[key]
            if isinstance(value, dict):
                keys += [Leaf(value, name, name, is_key=True) for name in value]
                waiting += [(value, name) for name in reversed(value)]
            elif isinstance(value, list):
                waiting += [(value, index) for index in reversed(range(len(value)))]
            elif isinstance(value, str):
                self.leaves.append(Leaf(holder, key, value, is_key=False))
            elif value is not None and not isinstance(value, bool):
                self.leaves.append(Leaf(holder, key, json.dumps(value), is_key=False))
            if len(self.leaves) + len(keys) > MAX_VALUES:
                raise GuardError(f"a tool call has more than {MAX_VALUES} arguments")
        self.leaves += keys

    def text(self, *, is_edited: bool) -> str:
        """The arguments as they are now; as they came, when no text was replaced."""
        if not is_edited and not self._repeats:
            return self._original
        value = self._root[""]
        return json.dumps(value, separators=(",", ":")) if self._is_json else str(value)


def _refused(name: str) -> None:
    raise ValueError(name)


__all__ = ["MAX_VALUES", "Arguments", "Leaf"]
