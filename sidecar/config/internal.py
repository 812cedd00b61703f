"""The routes that the sections `ui`, `mcp` and `llm` stand for, one on each of their listeners.

Source: spec/config.md sections 1.8 and 1.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from sidecar.config.routes import Place
from sidecar.config.run import Run
from sidecar.config.snapshot import Json

_NAMESPACE: Final = "internal"


def path_match(kind: Literal["exact", "prefix"], path: str) -> Json:
    """What matches by the path alone."""
    return {"path": {"kind": kind, "value": path}, "method": None, "headers": [], "query": []}


def internal_route(
    place: Place,
    name: str,
    policies: Json,
    backend: tuple[str, Mapping[str, str]],
    matches: list[Json],
    section: str,
    run: Run,
    first: str = "",
) -> str:
    """Make the route of a section; its key. `backend`: name and target.

    `first`: the key of the route on another listener whose state (of limits, say) this one shares.
    """
    key = f"{place.prefix}/{_NAMESPACE}/{name}"
    data: Json = {
        "listener": place.listener,
        "name": name,
        "namespace": _NAMESPACE,
        "rule_name": None,
        "hostnames": [],
        "policies": policies,
        "backends": [{"name": backend[0], "weight": 1, "target": backend[1], "policies": {}}],
        "tcp": False,
        "group": None,
        "matches": matches,
    }
    if first:
        data["same"] = first
    run.make("route", key, data, section)
    return key
