"""Vectors and relevance that the simulator makes from texts; equal texts give equal ones."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Final

from sidecar.simulator.ask import BadAskError, Json, as_text, texts

DIMENSIONS: Final = 8
MAX_DIMENSIONS: Final = 4096


def vector(text: str, dimensions: object = None) -> list[float]:
    """Numbers from -1 to 1, exact as 32-bit floats. Raises: BadAskError."""
    count = DIMENSIONS if dimensions is None else dimensions
    if not isinstance(count, int) or not 0 < count <= MAX_DIMENSIONS:
        raise BadAskError(f"dimensions: expected a number from 1 to {MAX_DIMENSIONS}")
    octets = hashlib.shake_128(text.encode()).digest(count)
    return [octet / 128 - 1 for octet in octets]


def packed(values: list[float]) -> str:
    """Little-endian 32-bit floats in base64."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def inputs(value: object) -> list[str]:
    """The texts to embed: one, several, or token numbers, as text. Raises: BadAskError."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, int) for item in value):
            return [" ".join(map(str, value))]
        return [item if isinstance(item, str) else " ".join(map(str, item)) for item in value]
    raise BadAskError("input: expected text or a list of texts")


def ranked(query: str, documents: list[object], top: object) -> list[tuple[int, float, str]]:
    """`[(index, score, text)]`, best first: the share of the query's words that a text has."""
    wanted = set(query.lower().split()) or {""}
    rows = []
    for index, document in enumerate(documents):
        text = as_text(document) or " ".join(texts(document))
        score = len(wanted & set(text.lower().split())) / len(wanted)
        rows.append((index, round(score, 4), text))
    rows.sort(key=lambda row: (-row[1], row[0]))
    return rows[:top] if isinstance(top, int) and top >= 0 else rows


def usage(given: list[str]) -> Json:
    """OpenAI's usage of an embedding."""
    count = sum(len(text.split()) for text in given)
    return {"prompt_tokens": count, "total_tokens": count}
