"""What a guard's codec and who calls its service have in common.

A codec is a generator: it yields the questions of one round, is sent the answers in their order,
and returns a Verdict. So a service may be asked again about what it said first, without any I/O
here.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import orjson

Phase = Literal["Request", "Response"]
Json = dict[str, Any]
Verdict = bool | list[str]
"""True: refused; False: nothing found; else the texts as they may pass, in the order given."""

MAX_TEXT_BYTES: Final = 1024 * 1024
"""How much text a service is asked about at once; more cannot be judged."""
MAX_ASKS: Final = 128
"""How many questions one judgement may take."""


class GuardError(ValueError):
    """A judgement could not be had or understood. The message holds no text of the prompt."""


class Ask(NamedTuple):
    """A question: `POST target` with a JSON body."""

    target: str
    """Path and query, encoded."""
    body: bytes


Judging = Generator[Sequence[Ask], Sequence[bytes], Verdict]


class CloudService(Protocol):
    """One service as it is configured."""

    host: str
    """Where it is, as a URL without a path."""

    def auth(self, given: Any) -> Any:
        """`backendAuth` for the one that is configured, or for None."""

    def judging(self, phase: Phase, texts: Sequence[str]) -> Judging:
        """A judgement about texts, none of which is empty. Raises: GuardError."""


def parsed(answer: bytes) -> Json:
    """The JSON object of an answer. Raises: GuardError."""
    try:
        value = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise GuardError("its answer is not JSON") from error
    if not isinstance(value, dict):
        raise GuardError("its answer is not a JSON object")
    return value


def values_of(value: object, key: str) -> set[object]:
    """The texts that stand under a key anywhere in a JSON value."""
    found: set[object] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if isinstance(one.get(key), str):
                found.add(one[key])
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return found


def check_size(texts: Sequence[str]) -> None:
    """Raises: GuardError for more than MAX_TEXT_BYTES."""
    if sum(len(text.encode()) for text in texts) > MAX_TEXT_BYTES:
        raise GuardError(f"more than {MAX_TEXT_BYTES} bytes of text")


def pieces(text: str, size: int, overlap: int) -> list[str]:
    """A text in pieces of at most `size` characters that share `overlap` with their neighbours."""
    if len(text) <= size:
        return [text]
    step = size - overlap
    return [text[at : at + size] for at in range(0, len(text) - overlap, step)]


__all__ = [
    "MAX_ASKS",
    "Ask",
    "CloudService",
    "GuardError",
    "Judging",
    "Phase",
    "Verdict",
    "check_size",
    "parsed",
    "pieces",
    "values_of",
]
