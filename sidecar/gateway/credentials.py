"""From a `backendAuth` payload to credentials, of whatever kind.

Source: spec/config.md section 3.12. What needs no request is made in llm.credentials.table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from sidecar.errors import ConfigError
from sidecar.llm.credentials.base import Credential
from sidecar.llm.credentials.kept import KeptCredentials
from sidecar.llm.credentials.shared import SharedTokens
from sidecar.llm.credentials.table import Maker, Making, configured
from sidecar.llm.providers.base import DefaultAuth
from sidecar.policies.base import Services
from sidecar.policies.schema import nested

Data = Mapping[str, Any]
_NO_DEFAULT: Final = DefaultAuth()
_OF_CLIENT: Final = frozenset(("passthrough", "oauthTokenExchange", "crossAppAccess"))
_inside: ContextVar[bool] = ContextVar("token endpoint of a credential", default=False)


def credentials_of(
    payload: Data | str,
    services: Services,
    *,
    auth: DefaultAuth = _NO_DEFAULT,
    host: str = "",
    kept: KeptCredentials | None = None,
) -> tuple[Credential, ...]:
    """The credentials of a payload, in the order to apply them.

    `kept`: where those that depend on no request outlive this compilation; the others' tokens do
    without it. Raises: ConfigError with the path below `backendAuth`.
    """

    def make() -> tuple[Credential, ...]:
        tokens = services.tokens or SharedTokens(None, services.clock)
        others = _others(services, tokens, Making(services.clock, auth, host, services.tokens))
        made = configured(
            payload,
            services.clock,
            auth=auth,
            host=host,
            tokens=services.tokens,
            others=others,
        )
        return tuple(made)

    if kept is None or _depends_on_requests(payload):
        return make()
    return kept.get(payload, auth, host, make)


def _depends_on_requests(payload: Data | str) -> bool:
    if isinstance(payload, str):
        return payload in _OF_CLIENT
    if any(payload.get(kind) is not None for kind in _OF_CLIENT):
        return True
    if (payload.get("jwtSign") or {}).get("claimExpressions"):
        return True
    return _has_expressions((payload.get("aws") or {}).get("assumeRole") or {})


def _has_expressions(role: Data) -> bool:
    tags = role.get("tags") or ()
    return isinstance(role.get("sessionName"), Mapping) or any(
        tag.get("expression") is not None for tag in tags
    )


def _others(services: Services, tokens: SharedTokens, making: Making) -> Mapping[str, Maker]:
    # Here, for who has no such backend need not load what signs and verifies.
    from sidecar.gateway import exchanged

    def of(kind: str, make: Callable[[Data], Credential]) -> Maker:
        def made(value: Data) -> Credential:
            with _endpoint_of(kind):
                return make(value)

        return made

    def role(value: Data) -> Credential | None:
        if not _has_expressions(value.get("assumeRole") or {}):
            return None
        from sidecar.gateway.assumed import AssumedRole

        return AssumedRole(value, services, making)

    def signed(value: Data) -> Credential | None:
        if not value.get("claimExpressions"):
            return None
        from sidecar.gateway.signed import SignedForClient

        return SignedForClient(value, services)

    return {
        "aws": role,
        "jwtSign": signed,
        "passthrough": exchanged.Passthrough,
        "oauthTokenExchange": of(
            "oauthTokenExchange", lambda value: exchanged.token_exchange(value, services, tokens)
        ),
        "crossAppAccess": of(
            "crossAppAccess", lambda value: exchanged.cross_app_access(value, services, tokens)
        ),
    }


@contextmanager
def _endpoint_of(kind: str) -> Iterator[None]:
    """A token endpoint whose own credential is had at a token endpoint may lead in a circle."""
    if _inside.get():
        raise ConfigError(kind, "a token endpoint cannot need an exchanged token itself")
    token = _inside.set(True)
    try:
        yield
    except ConfigError as problem:
        raise nested(kind, problem) from problem
    finally:
        _inside.reset(token)
