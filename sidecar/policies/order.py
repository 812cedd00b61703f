"""Which policies there are, and the one order in which they run.

Source: spec/config.md sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, Final, Literal, final

from sidecar.errors import ConfigError
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.chain import EMPTY, Chain, Hook, hook_of
from sidecar.policies.merge import Placed
from sidecar.policies.schema import nested, parse

Phase = Literal["gateway", "route", "backend"]

_JUDGED = "mesh authorization"
_JUDGES = ("inferenceRouting", _JUDGED, "authorization", "extAuthz")
"""The first of the backend phase, which see no credentials; see chain.Chain.judges."""

MODULES: Final[Mapping[str, str]] = {
    "a2a": "a2a",
    "apiKey": "api_key",
    "authorization": "authorization",
    "basicAuth": "basic_auth",
    "budgets": "budgets",
    "buffer": "buffer",
    "cors": "cors",
    "csrf": "csrf",
    "delay": "delay",
    "directResponse": "direct_response",
    "extAuthz": "ext_authz",
    "extProc": "ext_proc",
    "inferenceRouting": "inference_routing",
    "jwtAuth": "jwt_auth",
    "localRateLimit": "local_rate_limit",
    "mcpAuthentication": "mcp_authentication",
    "networkAuthorization": "network_authorization",
    "networkExtAuthz": "network_ext_authz",
    "oidc": "oidc",
    "remoteRateLimit": "remote_rate_limit",
    "requestHeaderModifier": "request_header_modifier",
    "requestMirror": "request_mirror",
    "requestRedirect": "request_redirect",
    "responseHeaderModifier": "response_header_modifier",
    "retry": "retry",
    "timeout": "timeout",
    "transformations": "transformations",
    "urlRewrite": "url_rewrite",
}
"""The module of each policy, in this package. The order here means nothing."""


@final
class _Kinds(Mapping[str, PolicyKind]):
    """Imports a policy when a configuration has one (see gateway.parts); asks for no other."""

    def __getitem__(self, key: str) -> PolicyKind:
        module = import_module(f"{__package__}.{MODULES[key]}")
        kind: PolicyKind = module.KIND
        return kind

    def __contains__(self, key: object) -> bool:
        return key in MODULES

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


KINDS: Final[Mapping[str, PolicyKind]] = _Kinds()
"""Every policy by its configuration key."""

RESERVED = "oidc cookies"
"""Not a key: what `build` adds to every route while a policy keeps sessions in cookies."""

REQUEST_ORDER: Mapping[Phase, tuple[str, ...]] = {
    # Before a route is chosen, so that what changes here can change the choice.
    "gateway": (
        # First: a preflight carries no credentials, and whoever is refused below must be able to
        # read that refusal in a browser.
        "cors",
        # Before other credentials: who has none of any kind is sent to log in.
        "oidc",
        # These tell who the client is, which all below may ask.
        "jwtAuth",
        "basicAuth",
        "apiKey",
        # After those: it may ask who the client is, and costs a call.
        "extAuthz",
        # Judges before anything is done for the client. Whoever tells who that is comes before.
        "authorization",
        # Shown to a processor is only who was let in.
        "extProc",
        # Last, so that it can use all that was learnt, and only for those who were let in.
        "transformations",
    ),
    "route": (
        # As in the gateway phase. (The timeout's deadline runs already; it has no hook.)
        "cors",
        "oidc",
        # After the policy that reads them, before all that could show them to others.
        RESERVED,
        "jwtAuth",
        # After it: a token that both would take is the former's.
        "mcpAuthentication",
        "basicAuth",
        "apiKey",
        # Past credentials that the head holds, so that nobody without them makes us hold a body;
        # before rules, limits and transformations, which may ask what is called.
        "a2a",
        # After it: a condition that asks what is called must know. Else as in the gateway phase.
        "extAuthz",
        "authorization",
        # The precondition, on the request as the client sent it.
        "retry",
        # Nobody who is refused above uses a limit up; and a request that is held, processed or
        # answered below has passed it.
        "localRateLimit",
        # After our own limits: what those refuse costs no call.
        "remoteRateLimit",
        # After the limits of requests: what those refuse holds no estimate.
        "budgets",
        # Past authorization, so that nobody unknown makes us hold a body; before whatever reads it.
        "buffer",
        # After it: what it refuses is shown to nobody; before what works on the outcome.
        "extProc",
        "transformations",
        # By section 3.2 this late: it costs nothing, and what is refused above needs no judgement.
        "csrf",
        # Static changes have the last word over computed ones.
        "requestHeaderModifier",
        # The prefix it replaces is that of the path as it is by now.
        "urlRewrite",
        # After the rewrite: the location shows the rewritten URL.
        "requestRedirect",
        # Only what goes on, or is answered below, is delayed.
        "delay",
        # Last: it answers in the place of a backend.
        "directResponse",
    ),
    # Once for each attempt, when the endpoint is known.
    "backend": (
        # It chooses the endpoint, to which all the others belong.
        "inferenceRouting",
        # Before credentials for the backend are added to the request (chain.Chain.judges); what
        # follows may change those too.
        "authorization",
        "extAuthz",
        "transformations",
        "requestHeaderModifier",
        "requestRedirect",
    ),
}
"""Policies with request hooks, phase by phase."""

RESPONSE_ORDER: tuple[tuple[Phase, str], ...] = (
    # The picker learns what the endpoint said, not what is made of it here.
    ("backend", "inferenceRouting"),
    # The cost of a response is told by its backend, before anything here changes or hides it.
    ("route", "localRateLimit"),
    ("route", "remoteRateLimit"),
    ("route", "budgets"),
    # Static changes first, the route's before the backend's, the reverse of their request's order.
    ("route", "responseHeaderModifier"),
    ("backend", "responseHeaderModifier"),
    # Before whatever reads the body.
    ("route", "buffer"),
    # Outwards: each level sees what the inner one made.
    ("route", "transformations"),
    ("backend", "transformations"),
    ("gateway", "transformations"),
    # After those that change the message: processors see what the client will.
    ("route", "extProc"),
    ("gateway", "extProc"),
    # What an upstream or a transformation made of `set-cookie` is settled.
    ("route", "oidc"),
    ("gateway", "oidc"),
    # `vary` goes beside what the others left. The CORS fields themselves are queued on the request
    # and overwrite equal names at the very end.
    ("route", "cors"),
    ("gateway", "cors"),
)
"""Policies with response hooks, over all phases."""

HOOKLESS: Mapping[Phase, frozenset[str]] = {
    "gateway": frozenset(),
    "route": frozenset(("timeout", "requestMirror", "responseHeaderModifier")),
    # `a2a` runs in the route phase wherever it is set; what it does to a call is the backend's.
    "backend": frozenset(("a2a", "requestMirror", "responseHeaderModifier")),
}
"""Policies that a phase may have beside those with request hooks."""

CONNECTION = frozenset(
    (
        *("ai", "backendAuth", "backendTLS", "backendTunnel", "health", "http"),
        *("sessionAffinity", "tcp"),
        *("mcpAuthorization", "mcpGuardrails"),
    )
)
"""Keys of the same mappings that configure connections, credentials, balancing, and what models and
tools are asked; they are not policies here, but parts of backends."""


def make(key: str, payload: object, services: Services) -> object:
    """The policy of one payload. Raises: ConfigError, its path beginning with the key."""
    kind = KINDS.get(key)
    if kind is None:
        raise ConfigError(key, "not supported yet")
    if isinstance(payload, Placed):
        services = replace(services, attachment=payload.place)
        payload = payload.payload
    try:
        return kind.factory(parse(kind.config, payload), services)
    except ConfigError as problem:
        raise nested(key, problem) from problem


def build(
    phase: Phase,
    payloads: Mapping[str, Any],
    services: Services,
    judged: object | None = None,
) -> Chain:
    """The chain of a phase from its merged payloads (see `merge`). Raises: ConfigError.

    `judged`: a policy that no configuration names, a mesh's authorization; it runs beside ours.
    """
    made: dict[str, object] = {} if judged is None else {_JUDGED: judged}
    allowed = frozenset(REQUEST_ORDER[phase]) | HOOKLESS[phase]
    for key, payload in payloads.items():
        if payload is None or key in CONNECTION:
            continue
        if key in KINDS and key not in allowed:
            raise ConfigError(key, f"this policy cannot be used in the {phase} phase")
        if phase == "backend" and isinstance(payload, Mapping) and "conditional" in payload:
            text = f"conditional {key} are not supported on backend-targeted policies"
            raise ConfigError(key, text)
        made[key] = make(key, payload, services)
        if phase == "gateway" and "a2a" in getattr(made[key], "variables", ()):
            # A denial could never be true there, and would let everybody in.
            raise ConfigError(key, "`a2a` is known on routes, not before one is chosen")
    if phase == "route" and services.strips_cookies:
        from sidecar.policies.oidc_cookies import ReservedCookies

        made[RESERVED] = ReservedCookies()
    return _chain(phase, made) if made else EMPTY


def response_hooks(
    gateway: Chain = EMPTY, route: Chain = EMPTY, backend: Chain = EMPTY
) -> tuple[Hook, ...]:
    """The response hooks of three phases in the order of section 3.2, for use when compiling."""
    chains: Mapping[Phase, Chain] = {"gateway": gateway, "route": route, "backend": backend}
    found = (chains[phase].responses.get(key) for phase, key in RESPONSE_ORDER)
    return tuple(hook for hook in found if hook is not None)


def _chain(phase: Phase, made: Mapping[str, object]) -> Chain:
    ordered = [made[key] for key in REQUEST_ORDER[phase] if key in made]
    if _JUDGED in made:
        # Before our own rules: behind whatever tells who the client is.
        place = REQUEST_ORDER[phase].index("authorization")
        ordered.insert(sum(key in made for key in REQUEST_ORDER[phase][:place]), made[_JUDGED])
    requests = [hook_of(policy, "on_request") for policy in ordered]
    judging = [made[key] for key in _JUDGES if key in made]
    responses: dict[str, Hook] = {}
    for of_phase, key in RESPONSE_ORDER:
        hook = hook_of(made[key], "on_response") if of_phase == phase and key in made else None
        if hook is not None:
            responses[key] = hook
    is_guard = all(_flag(policy, "is_guard") for policy in made.values())
    guards = [hook_of(policy, "guard") or hook_of(policy, "on_request") for policy in ordered]
    return Chain(
        request_hooks=tuple(hook for hook in requests if hook is not None),
        response_hooks=tuple(responses.values()),
        needs_request_body=any(_flag(policy, "needs_request_body") for policy in made.values()),
        needs_response_body=any(
            _flag(policy, "needs_response_body")
            for key, policy in made.items()
            # The attempt loop asks the retry policy itself.
            if key != "retry"
        ),
        timeout=_one(made, "timeout"),
        retry=_one(made, "retry"),
        mirror=_one(made, "requestMirror"),
        buffer=_one(made, "buffer"),
        rewrite=_one(made, "urlRewrite"),
        responses=responses,
        is_guard=is_guard,
        guards=tuple(hook[0] for hook in guards if hook is not None) if is_guard else (),
        judges=sum(hook_of(policy, "on_request") is not None for policy in judging),
    )


def _flag(policy: object, name: str) -> bool:
    return bool(getattr(policy, name, False))


def _one(made: Mapping[str, object], key: str) -> Any:
    """The policy of this key, which says its class; None without one."""
    return made.get(key)
