"""The texts of a message as guards judge them, and what their masks make of the message.

Source: spec/llm.md section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from sidecar.llm.chat.base import TextPart
from sidecar.llm.chat.loose import JsonField
from sidecar.llm.guard.arguments import Arguments, Leaf
from sidecar.llm.guard.masked import Masked

CALL: Final = "toolInput"


@final
@dataclass(slots=True)
class Subject:
    """A text to judge."""

    role: str
    kind: str
    """See TextPart."""
    masked: Masked
    floor: int = 0
    """Characters that were judged before, and are shown for context only."""
    is_key: bool = False
    """The name of an argument: patterns look at it, services are not asked."""


@final
class CallTexts:
    """The arguments of one call. Raises: GuardError."""

    __slots__ = ("_arguments", "_pairs", "subjects")

    def __init__(self, text: str, role: str = "assistant") -> None:
        self._arguments = Arguments(text)
        self._pairs: list[tuple[Leaf, Subject]] = []
        for leaf in self._arguments.leaves:
            subject = Subject(role, CALL, Masked(leaf.text), is_key=leaf.is_key)
            self._pairs.append((leaf, subject))
        self.subjects: Sequence[Subject] = [subject for _, subject in self._pairs]

    def text(self) -> str:
        """The arguments under the masks, which are written into them: to be called once."""
        is_edited = False
        for leaf, subject in self._pairs:
            if subject.masked.text != leaf.text:
                leaf.replace(subject.masked.text)
                is_edited = True
        return self._arguments.text(is_edited=is_edited)


@final
class Texts:
    """The texts of one message. Raises: GuardError."""

    __slots__ = ("_calls", "_plain", "subjects")

    def __init__(self, parts: Sequence[TextPart]) -> None:
        self._plain: list[tuple[TextPart, Subject]] = []
        self._calls: list[tuple[TextPart, CallTexts]] = []
        self.subjects: list[Subject] = []
        for part in parts:
            # What stands in a body as a value has to stay one.
            if part.kind == CALL or isinstance(part, JsonField):
                call = CallTexts(part.text, part.role)
                self._calls.append((part, call))
                for subject in call.subjects:
                    subject.kind = part.kind
                self.subjects += call.subjects
            else:
                subject = Subject(part.role, part.kind, Masked(part.text))
                self._plain.append((part, subject))
                self.subjects.append(subject)

    def write(self) -> bool:
        """Put what was masked into the body; whether there was anything."""
        is_edited = False
        for part, subject in self._plain:
            if subject.masked.text != part.text:
                part.replace(subject.masked.text)
                is_edited = True
        for part, call in self._calls:
            text = call.text()
            if text != part.text:
                part.replace(text)
                is_edited = True
        return is_edited


__all__ = ["CALL", "CallTexts", "Subject", "Texts"]
