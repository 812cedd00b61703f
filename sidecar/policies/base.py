"""The one shape of a policy, and what a policy may reach for.

Source: house style, section "A policy or a provider is one file".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, final

from pydantic import BaseModel

from sidecar.cel.engine import Engine
from sidecar.http.message import Request, Response
from sidecar.telemetry.clock import Clock


@final
@dataclass(frozen=True, slots=True)
class Services:
    """All that a policy may use of the world."""

    clock: Clock
    cel: Engine
    max_buffer_bytes: int = 2 * 1024 * 1024
    """`frontendPolicies.http.maxBufferSize`: bound of every body held whole."""


class Policy(Protocol):
    """A policy in action. Hooks it lacks are not defined, or None; `chain.hook_of` finds the rest.

    `on_request(request) -> Response | None` (None goes on; a Response answers the client), and
    `on_response(request, response) -> None` (changes the response in place); each may be sync or
    `async def`. `needs_request_body` / `needs_response_body` (class or instance attribute, bool):
    the pipeline holds the body whole (as a FixedBody) before the hook runs.
    """


class PolicyFactory(Protocol):
    """What makes a policy from its configuration."""

    def __call__(self, config: Any, services: Services) -> object:
        """The policy. Raises ConfigError for what the schema cannot check."""


@final
@dataclass(frozen=True, slots=True)
class PolicyKind:
    """One entry of the register: the configuration key, its model, and the class behind it."""

    key: str
    config: type[BaseModel]
    factory: PolicyFactory


__all__ = ["Policy", "PolicyFactory", "PolicyKind", "Request", "Response", "Services"]
