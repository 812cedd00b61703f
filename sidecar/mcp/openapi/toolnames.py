"""What tools are called: by their `operationId`, else by method and path.

Source: spec/mcp_a2a.md sections 1.4 (tool names), 2.12 and 5.2 row 17.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from sidecar.mcp.openapi.document import below, fault
from sidecar.mcp.openapi.operations import Operation

_ID_MAX: Final = 128
_DERIVED_MAX: Final = 64
_HASH: Final = 8
_OTHER: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_VARIABLE: Final = re.compile(r"\{([^{}/]*)\}")


def tool_names(operations: Sequence[Operation]) -> list[str]:
    """A name for each, all different. Raises: ConfigError for an `operationId` of two.

    An `operationId` is kept; characters that no tool's name may have become `_`. A name that is
    made gives way to one that is given, so that rules by name mean what they say.
    """
    found: list[str | None] = []
    taken: dict[str, str] = {}
    for operation in operations:
        identity = operation.node.get("operationId")
        if identity is None or identity == "":
            found.append(None)
            continue
        place = below(operation.place, "operationId")
        if not isinstance(identity, str):
            raise fault(place, "expected text")
        name = _cut(_OTHER.sub("_", identity), identity, _ID_MAX)
        if name in taken:
            raise fault(place, f"`{name}` is the tool of {taken[name]} already")
        taken[name] = operation.place
        found.append(name)
    names: list[str] = []
    for operation, given in zip(operations, found, strict=True):
        made = given or _free(derived(operation.method, operation.path), taken)
        taken.setdefault(made, operation.place)
        names.append(made)
    return names


def derived(method: str, path: str) -> str:
    """`GET /pets/{id}` is `get_pets_by_id`; at most 64 characters."""
    steps = [
        _VARIABLE.sub(r"by_\1", step) if step.startswith("{") else _VARIABLE.sub(r"_\1", step)
        for step in path.split("/")
        if step
    ]
    whole = "_".join((method.lower(), *steps))
    return _cut(_OTHER.sub("_", whole).strip("_"), f"{method} {path}", _DERIVED_MAX)


def _cut(name: str, of: str, most: int) -> str:
    if len(name) <= most:
        return name
    mark = blake2b(of.encode("utf-8", "replace"), digest_size=_HASH // 2).hexdigest()
    return f"{name[: most - _HASH - 1]}_{mark}"


def _free(name: str, taken: dict[str, str]) -> str:
    made, number = name, 1
    while made in taken:
        number += 1
        made = f"{name[: _DERIVED_MAX - 5]}_{number}"
    return made
