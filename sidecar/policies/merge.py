"""How the policies of several levels become those of one route, listener or backend.

Source: spec/config.md section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Payloads = Mapping[str, Any]
"""Policy key → payload as configured (camelCase). A null payload counts as absent."""

ACCUMULATED = frozenset(("authorization", "mcpAuthorization", "networkAuthorization"))
"""Rule sets of all levels hold together, so that a route cannot lift its gateway's rules."""

OUTERMOST = frozenset(("buffer",))
"""The least specific level wins: it bounds what routes may make the gateway hold."""

KEPT = frozenset(("budgets", "localRateLimit", "oidc"))
"""Policies that keep something under the name of their place: in a shared table, or in browsers."""

_AI_MAPS = ("modelAliases", "routes")


class Placed(NamedTuple):
    """A payload of one of `KEPT` with the place it was configured at (see Services.attachment)."""

    payload: Any
    place: str


def placed(level: Payloads, place: str) -> dict[str, Any]:
    """The level, its payloads of `KEPT` with their place."""
    return {
        key: Placed(payload, place) if key in KEPT and payload is not None else payload
        for key, payload in level.items()
    }


def merge(levels: Sequence[Payloads]) -> dict[str, Any]:
    """The policies that hold, from levels ordered least to most specific.

    Each kind is the most specific level's, whole, but for ACCUMULATED (rules of all levels, in
    the order of levels), OUTERMOST, and `ai` (field by field).
    """
    given = [level for level in levels if level]
    # Fast path: most routes have policies on one level at most.
    if len(given) == 1:
        return {key: payload for key, payload in given[0].items() if payload is not None}
    merged: dict[str, Any] = {}
    for level in given:
        for key, payload in level.items():
            if payload is None:
                continue
            below = merged.get(key)
            merged[key] = payload if below is None else _combined(key, below, payload)
    return merged


def _combined(key: str, below: Any, payload: Any) -> Any:
    if key in ACCUMULATED:
        return {**payload, "rules": [*below["rules"], *payload["rules"]]}
    if key in OUTERMOST:
        return below
    if key == "ai":
        return _merged_ai(below, payload)
    return payload


def _merged_ai(below: Payloads, payload: Payloads) -> dict[str, Any]:
    merged = dict(below)
    for key, value in payload.items():
        # An empty map says nothing; any other field is taken whole from the most specific level.
        if value is None or (key in _AI_MAPS and not value):
            continue
        merged[key] = value
    return merged
