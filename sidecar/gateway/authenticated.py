"""Credentials that the gateway shows to backends that are no model providers.

Source: spec/config.md sections 3.2 and 3.12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sidecar.errors import ConfigError
from sidecar.gateway.credentials import credentials_of
from sidecar.gateway.matching import authority_for
from sidecar.gateway.plan import Backend, Route
from sidecar.http.message import FixedBody, Request
from sidecar.llm.credentials.base import Credential, Outgoing
from sidecar.llm.credentials.kept import KeptCredentials
from sidecar.llm.credentials.table import default_credential
from sidecar.llm.providers.base import DefaultAuth
from sidecar.policies.base import Services
from sidecar.policies.schema import nested

Data = Mapping[str, Any]
_NO_DEFAULT: Final = DefaultAuth()
_AGENT_CORE: Final = "bedrock-agentcore"


def authenticated(
    backend: Backend, payload: Any, target: Data, services: Services, kept: KeptCredentials
) -> Backend:
    """The backend, and behind its policies what authenticates there. Raises: ConfigError.

    `payload`: None where the target's own default does. `kept`: where credentials, and the tokens
    that they hold, outlive this compilation.
    """
    host = (target.get("host") or {}).get("address", "")
    core = target.get("agent_core")
    auth = _NO_DEFAULT if core is None else DefaultAuth("aws", "", core["region"], _AGENT_CORE)
    try:
        credentials = (
            _default(auth, services, kept)
            if payload is None
            else credentials_of(payload, services, auth=auth, host=host, kept=kept)
        )
    except ConfigError as problem:
        raise nested("backendAuth", problem) from problem
    covering = tuple(credential for credential in credentials if credential.is_last)
    others = tuple(credential for credential in credentials if not credential.is_last)

    async def show(request: Request) -> None:
        await _show(others, request, backend)

    async def end(request: Request) -> None:
        if core is not None:
            request.target = core["target"]
        await _show(covering, request, backend)

    hooks = list(backend.chain.request_hooks)
    if covering or core is not None:
        hooks.append((end, True))
    if others:
        # What judges the request does not see them; what changes it may move them.
        hooks.insert(backend.chain.judges, (show, True))
    chain = replace(
        backend.chain,
        request_hooks=tuple(hooks),
        # A signature covers the body, which therefore has to be at hand.
        needs_request_body=backend.chain.needs_request_body or bool(covering),
    )
    return replace(backend, chain=chain)


def _default(
    auth: DefaultAuth, services: Services, kept: KeptCredentials
) -> tuple[Credential, ...]:
    def make() -> tuple[Credential, ...]:
        found = default_credential(auth, services.clock, services.tokens)
        return () if found is None else (found,)

    return kept.get(None, auth, "", make)


def _authority(request: Request, backend: Backend) -> str:
    """The Host that the call will have, which a signature covers."""
    route = request.route
    if isinstance(route, Route):
        return authority_for(request.authority, backend, route) or backend.default_authority
    return backend.auto_host or request.authority or backend.default_authority


async def _show(credentials: Sequence[Credential], request: Request, backend: Backend) -> None:
    body = request.body
    sent = Outgoing(
        request.method,
        backend.scheme,
        _authority(request, backend),
        request.target,
        request.headers,
        body.unread if type(body) is FixedBody else b"",
        request,
    )
    for credential in credentials:
        if not credential.apply_nowait(sent):
            await credential.apply(sent)
    request.target = sent.target
