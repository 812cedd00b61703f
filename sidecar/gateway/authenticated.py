"""Credentials that the gateway shows to backends that are no model providers.

Source: spec/config.md sections 3.2 and 3.12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sidecar.errors import ConfigError
from sidecar.http.message import FixedBody, Request
from sidecar.llm.credentials.base import Credential, Outgoing
from sidecar.llm.credentials.kept import KeptCredentials
from sidecar.llm.credentials.table import configured
from sidecar.llm.providers.base import DefaultAuth
from sidecar.policies.base import Services
from sidecar.policies.chain import Chain
from sidecar.policies.schema import nested

Data = Mapping[str, Any]
_NO_DEFAULT: Final = DefaultAuth()


def authenticated(
    chain: Chain, payload: Any, target: Data, services: Services, kept: KeptCredentials
) -> Chain:
    """The chain of a backend, and behind it what authenticates there. Raises: ConfigError.

    `kept`: where credentials, and the tokens that they hold, outlive this compilation.
    """
    host = (target.get("host") or {}).get("address", "")
    clock = services.clock
    try:
        credentials = kept.get(
            payload, _NO_DEFAULT, host, lambda: tuple(configured(payload, clock, host=host))
        )
    except ConfigError as problem:
        raise nested("backendAuth", problem) from problem
    # A signature covers the body, which therefore has to be at hand.
    signs = any(credential.is_last for credential in credentials)

    async def show(request: Request) -> None:
        await _show(credentials, request)

    return replace(
        chain,
        request_hooks=(*chain.request_hooks, (show, True)),
        needs_request_body=chain.needs_request_body or signs,
    )


async def _show(credentials: Sequence[Credential], request: Request) -> None:
    body = request.body
    sent = Outgoing(
        request.method,
        request.scheme,
        request.authority,
        request.target,
        request.headers,
        body.peek() if type(body) is FixedBody else b"",
    )
    for credential in credentials:
        if not credential.apply_nowait(sent):
            await credential.apply(sent)
    request.target = sent.target
