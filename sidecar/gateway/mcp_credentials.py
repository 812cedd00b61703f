"""Which MCP servers see, or are called with, what the client itself brought.

Source: spec/config.md sections 3.12 and 6.

Lists, connections and child processes are shared by clients that are one to the gateway. Where a
server is called with the client's own token, or with one had for it, the client's `Authorization`
is part of who asks; a token from elsewhere is taken only from what policies have verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sidecar.errors import ConfigError
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression

Data = Mapping[str, Any]
_PASSTHROUGH: Final = "passthrough"
_EXCHANGES: Final = ("oauthTokenExchange", "crossAppAccess")
_VERIFIED: Final = frozenset(("jwt", "apiKey"))


def without_passthrough(policies: Data) -> Data:
    """Without the credential that is the client's own: servers get that with the headers.

    Raises: ConfigError.
    """
    auth = policies.get("backendAuth")
    if not _is_passthrough(auth):
        return policies
    if isinstance(auth, Mapping):
        if len(auth) > 1:
            raise ConfigError("backendAuth", "passthrough stands alone")
        if auth[_PASSTHROUGH] and auth[_PASSTHROUGH].get("location") is not None:
            raise ConfigError("backendAuth.passthrough.location", "not supported yet")
    return {kind: value for kind, value in policies.items() if kind != "backendAuth"}


def passes_credentials(auth: Any, services: Services) -> bool:
    """Whether calls of a server take the client's own `Authorization` along, be it for the server,
    be it to be exchanged. Raises: ConfigError below the policies."""
    if _is_passthrough(auth):
        return True
    if not isinstance(auth, Mapping):
        return False
    _check_computed(auth, services)
    for kind in _EXCHANGES:
        if auth.get(kind) is not None:
            return _exchanges_authorization(auth[kind], f"backendAuth.{kind}", services)
    return False


def _check_computed(auth: Data, services: Services) -> None:
    """Claims and sessions that are computed for each request."""
    claims = (auth.get("jwtSign") or {}).get("claimExpressions") or {}
    for name, source in claims.items():
        _check_verified(source, f"backendAuth.jwtSign.claimExpressions.{name}", services)
    role, path = (auth.get("aws") or {}).get("assumeRole") or {}, "backendAuth.aws.assumeRole"
    name = role.get("sessionName")
    if isinstance(name, Mapping):
        _check_verified(name["expression"], f"{path}.sessionName", services)
    for index, tag in enumerate(role.get("tags") or ()):
        if tag.get("expression") is not None:
            _check_verified(tag["expression"], f"{path}.tags[{index}]", services)


def _is_passthrough(auth: Any) -> bool:
    return auth == _PASSTHROUGH or (isinstance(auth, Mapping) and _PASSTHROUGH in auth)


def _exchanges_authorization(payload: Data, path: str, services: Services) -> bool:
    takes = _is_authorization(
        (payload.get("subjectToken") or {}).get("source"), f"{path}.subjectToken.source", services
    )
    actor = payload.get("actorToken")
    if actor is not None and _is_authorization(
        actor.get("source"), f"{path}.actorToken.source", services
    ):
        raise ConfigError(f"{path}.actorToken.source", "of MCP servers: an expression expected")
    for name, source in (payload.get("additionalParams") or {}).items():
        _check_verified(source, f"{path}.additionalParams.{name}", services)
    return takes


def _is_authorization(source: Data | None, path: str, services: Services) -> bool:
    if source is None:
        return True
    if source.get("expression") is not None:
        _check_verified(source["expression"], f"{path}.expression", services)
        return False
    header = source.get("header") or {}
    if str(header.get("name", "")).lower() != "authorization":
        raise ConfigError(path, "of MCP servers: `Authorization`, or an expression")
    return True


def _check_verified(source: str, path: str, services: Services) -> None:
    others = Expression(source, services, path).variables - _VERIFIED
    if others:
        text = f"of MCP servers: only of `jwt` and `apiKey`, not of `{min(others)}`"
        raise ConfigError(path, text)
