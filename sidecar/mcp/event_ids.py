"""Ids of the events that clients get, by which any worker can take a broken stream up again.

Source: spec/mcp_a2a.md sections 1.2 (2025-11-25), 1.3 and 5.2 row 5.

Behind one server they are the server's own. Behind several each holds the last id of every server
that the stream has seen, so that each is asked to go on from there. A stream whose server names
none is kept in a log of the worker that serves it (mcp.event_log), and its ids say which, where and
how far.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import orjson

from sidecar.jsonrpc import Id, id_of
from sidecar.mcp.token import base64, unbase64

MAX_CHARS: Final = 4096
_LOGGED: Final = re.compile(
    r"agw-([ls])([0-9]{1,5})-([0-9a-f]{16})-(?:([0-9a-f]{1,128})-)?([0-9]{1,15})"
)
_IDENTITY_BYTES: Final = 64
_COMPOSITE: Final = "agw-u"


@final
@dataclass(frozen=True, slots=True)
class Logged:
    """The place of an event in a log."""

    worker: int
    stream: str
    """16 hexadecimal digits."""
    number: int
    """From 0: the priming event."""
    listens: bool = False
    """Whether it is a stream of what servers say of their own accord."""
    identity: Id | None = None
    """Of the request that the stream answers, where it is short: it can be told that the log, and
    with it the answer, is lost."""


@final
@dataclass(frozen=True, slots=True)
class Composite:
    """The last ids of several servers."""

    last: Mapping[str, bytes]


def logged(place: Logged) -> bytes:
    """The id of an event in a log."""
    kind = "s" if place.listens else "l"
    raw = b"" if place.identity is None else orjson.dumps(place.identity)
    named = f"{raw.hex()}-" if 0 < len(raw) <= _IDENTITY_BYTES else ""
    return f"agw-{kind}{place.worker}-{place.stream}-{named}{place.number}".encode()


def _identity(text: str | None) -> Id | None:
    if text is None:
        return None
    try:
        return id_of({"id": orjson.loads(bytes.fromhex(text))})
    except ValueError:
        return None


def composite(last: Mapping[str, bytes]) -> bytes:
    """The id of an event of several servers' stream."""
    plain = orjson.dumps({name: value.decode("latin-1") for name, value in last.items()})
    return f"{_COMPOSITE}{base64(plain)}".encode()


def parse(raw: bytes) -> Logged | Composite | bytes | None:
    """What an id says: an id of the one server where it is not ours; None when it is malformed."""
    if len(raw) > MAX_CHARS:
        return None
    text = raw.decode("latin-1")
    found = _LOGGED.fullmatch(text)
    if found is not None:
        listens, identity = found[1] == "s", _identity(found[4])
        return Logged(int(found[2]), found[3], int(found[5]), listens=listens, identity=identity)
    if not text.startswith(_COMPOSITE):
        return raw
    plain = unbase64(text.removeprefix(_COMPOSITE)) if text.isascii() else None
    if plain is None:
        return None
    try:
        given = orjson.loads(plain)
        return Composite({str(name): value.encode("latin-1") for name, value in given.items()})
    except (orjson.JSONDecodeError, AttributeError, UnicodeEncodeError):
        return None
