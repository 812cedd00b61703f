"""The one shape of a policy, and what a policy may reach for.

Source: house style, section "A policy or a provider is one file".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, final, runtime_checkable

from pydantic import BaseModel

from sidecar.http.message import Request, Response
from sidecar.policies.callouts import Callouts, Nowhere

if TYPE_CHECKING:
    from shm.budgets import BudgetTable
    from shm.rates import RateTable
    from sidecar.cel.engine import Engine
    from sidecar.llm.credentials.shared import SharedTokens
    from sidecar.policies.kept import KeptKeys
    from sidecar.state.leases import Leases
    from sidecar.telemetry.clock import Clock

SECRET_VARIABLE: Final = "OIDC_COOKIE_SECRET"  # noqa: S105 - the name of a variable


@final
@dataclass(frozen=True, slots=True)
class Services:
    """All that a policy may use of the world."""

    clock: Clock
    cel: Engine
    max_buffer_bytes: int = 2 * 1024 * 1024
    """`frontendPolicies.http.maxBufferSize`: bound of every body held whole."""
    rates: RateTable | None = None
    """Token buckets that all workers share; None where policies are only checked."""
    budgets: BudgetTable | None = None
    """Budgets that all workers share; None where policies are only checked."""
    leases: Leases | None = None
    """Buckets and budgets that several gateways share over Redis; None: they are this one's."""
    keeps_spending: bool = True
    """Whether what is spent outlives a reboot (`config.state.journal`). Control checks what needs
    that, before a configuration is published."""
    attachment: str = ""
    """Where the policy at hand was configured, for what it keeps in a shared table: the same after
    a reload and in every worker, another for each place."""
    callouts: Callouts = field(default_factory=Nowhere)
    """Other services that a policy may call."""
    keys: KeptKeys | None = None
    """Keys that are fetched from issuers of tokens; None where policies are only checked."""
    cookie_secret: str = field(default="", repr=False)
    """`SECRET_VARIABLE`, as it was found in the environment."""
    strips_cookies: bool = False
    """Whether some policy keeps sessions in cookies, which then go to no upstream."""
    tokens: SharedTokens | None = None
    """Tokens for backends that all workers share; None where policies are only checked."""
    a2a_counter: Callable[[], Callable[[Request], None]] | None = None
    """Gives what counts A2A requests at their end; None where policies are only checked."""


@runtime_checkable
class Anticipating(Protocol):
    """An ending (http.message.Ending) that can take beforehand what it is likely to charge."""

    async def anticipate(self, request: Request) -> Response | None:
        """Take the cost as it would be now, once an exchange; what is charged at the end is less by
        that much. A Response or RequestError when it is not to be had."""


class Policy(Protocol):
    """A policy in action. Hooks it lacks are not defined, or None; `chain.hook_of` finds the rest.

    `on_request(request) -> Response | None` (None goes on; a Response answers the client), and
    `on_response(request, response) -> None` (changes the response in place); each may be sync or
    `async def`. `needs_request_body` / `needs_response_body` (class or instance attribute, bool):
    the pipeline holds the body whole (as a FixedBody) before the hook runs. `is_guard` (bool): its
    request hook is sync, changes nothing of the request that goes upstream but by giving it another
    header list, and refuses at once, by RequestError or Response, so that it may also run on the
    direct way (gateway.direct). One whose hook
    is async has a `guard(request)` for that, which raises another SidecarError to go the long way;
    it then has done nothing, and of a chain only one guard may take from anything.
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


__all__ = [
    "SECRET_VARIABLE",
    "Anticipating",
    "Policy",
    "PolicyFactory",
    "PolicyKind",
    "Request",
    "Response",
    "Services",
]
