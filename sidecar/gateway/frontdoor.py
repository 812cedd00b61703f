"""Which front door serves a listener: the choice of `config.frontDoor`, in one place.

Source: design section 3; docs/frontdoors.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from sidecar.config.snapshot import Snapshot
from sidecar.errors import ConfigError

Data = Mapping[str, Any]


def uses_granian(config: Data) -> bool:
    """Whether plaintext HTTP/2 goes to Granian.

    `auto` does not: every route of this release ends in a backend that may speak gRPC, and gRPC
    needs the trailers that Granian cannot send.
    """
    return config.get("frontDoor") == "granian"


def front_door(config: Data, protocol: str) -> str:
    """What `/config_dump` says of a listener of this protocol."""
    if protocol in ("TCP", "TLS"):
        return "relay"
    return "granian (HTTP/2), native (HTTP/1.1)" if uses_granian(config) else "native"


def refusals(snapshot: Snapshot, config: Data) -> Iterable[ConfigError]:
    """What `config.frontDoor: granian` asks for in vain."""
    if not uses_granian(config):
        return
    http = snapshot.resources.get("frontend/http")
    policy: Data = {} if http is None else cast("Data", http.data["policy"])
    if policy.get("maxConnectionDuration") is not None:
        place = snapshot.places.get("frontend/http", "frontendPolicies.http")
        yield ConfigError(
            f"{place}.maxConnectionDuration",
            "config.frontDoor is granian, which ends no connection for its age",
        )
    for key, resource in snapshot.resources.items():
        if resource.kind == "listener" and resource.data["protocol"] == "HTTPS":
            yield ConfigError(
                snapshot.places.get(key, key),
                "config.frontDoor is granian, which cannot serve HTTPS: it knows neither client"
                " certificates nor a choice of certificate by name",
            )
