"""By what a server's state in one worker is known: its child processes, its streams.

The same in all workers, and over reloads as long as nothing about the server changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

Data = Mapping[str, Any]
_STATELESS: Final = ("openapi",)


def state_key(entry: Data) -> str:
    """Tells one state of a target's configuration from another."""
    text = orjson.dumps(entry, option=orjson.OPT_SORT_KEYS)
    return f"{entry['name']}:{hashlib.blake2b(text, digest_size=12).hexdigest()}"


def state_keys(resources: Mapping[str, Data]) -> frozenset[str]:
    """Of all servers that a snapshot's resources name."""
    return frozenset(
        state_key(entry)
        for target in _targets(resources)
        for entry in target["targets"]
        if entry["kind"] not in _STATELESS
    )


def _targets(resources: Mapping[str, Data]) -> Iterator[Data]:
    for key, data in resources.items():
        if key.startswith("route/"):
            for backend in data["backends"]:
                if "mcp" in backend["target"]:
                    yield backend["target"]["mcp"]
        elif key.startswith("backend/") and "mcp" in data["target"]:
            yield data["target"]["mcp"]
