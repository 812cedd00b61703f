"""Names of fields as a peer spelt them, for peers that mind their letter case (they should not).

Source: RFC 9110 section 5.1; spec/config.md section 1.10 (http1HeaderCase).

Everything in between knows names in lower case. Where a head came in, its spelling is noted in the
request's state; where a head goes out, names that were noted are spelt so, and all others, which
the gateway or its policies added, are lower-case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from sidecar.http.headers import Field

REQUEST: Final = "http.spelling"
"""In a request's state: how its own names were spelt. There, even when empty, if that matters."""
RESPONSE: Final = "http.spelling.response"
"""The same of its response."""

Spelling = Mapping[bytes, bytes]
"""Lower case → as it came, without those that came so; the last of those that differ."""


def spelling_of(head: bytes) -> Spelling:
    """How a head spells its names; `head` was parsed, and is known to be well-formed."""
    names = (line.partition(b":")[0] for line in head.split(b"\r\n")[1:])
    return {name.lower(): name for name in names if not name.islower()}


def respelt(fields: Iterable[Field], spelling: object) -> list[Field]:
    """The fields with names as `spelling` has them; any other object changes nothing."""
    if not isinstance(spelling, dict):
        return list(fields)
    return [(spelling.get(name, name), value) for name, value in fields]
