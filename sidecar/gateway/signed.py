"""`jwtSign` with claims that are computed for each request: who asks, as the backend is told.

Source: spec/config.md section 3.12; `claimExpressions` is our own.

Requests of which expressions give the same share a token for half its life.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import orjson

from sidecar.cel.engine import CelError
from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request
from sidecar.llm.credentials.base import Fetched, Outgoing, failed
from sidecar.llm.credentials.jwt_sign import RESERVED, Signer
from sidecar.llm.credentials.oauth import refused
from sidecar.llm.credentials.recent import RecentTokens
from sidecar.llm.credentials.signing import MAX_TOKEN_BYTES
from sidecar.llm.credentials.static import place_of
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression

Data = Mapping[str, Any]
_MAX_TOKENS: Final = 1024


@final
class SignedForClient:
    """A signed token in its place. See llm.credentials.base.Credential."""

    is_last = False

    def __init__(self, payload: Data, services: Services) -> None:
        """Raises: ConfigError with the path below `backendAuth`."""
        self.explicit_place = payload.get("location") is not None
        self._put = place_of(payload.get("location"), "jwtSign.location")
        self._clock = services.clock
        self._signer = Signer(payload, services.clock, "jwtSign")
        static = payload.get("claims") or {}
        self._expressions = [
            (name, _expression(name, source, static, services))
            for name, source in sorted(payload["claimExpressions"].items())
        ]
        self._tokens = RecentTokens(_MAX_TOKENS)

    def apply_nowait(self, request: Outgoing) -> bool:
        """See Credential. Raises: RequestError 400."""
        client = request.client
        if client is None:
            raise failed()
        claims = {name: _value(name, one, client) for name, one in self._expressions}
        key = orjson.dumps(list(claims.values()))
        now_ns = self._clock.monotonic_ns()
        found = self._tokens.get(key, now_ns)
        self._put(request, self._made(claims, key) if found is None else found.value)
        return True

    def _made(self, claims: Data, key: bytes) -> str:
        token = self._signer.sign(claims)
        if len(token) > MAX_TOKEN_BYTES:
            raise refused(f"a token would be longer than {MAX_TOKEN_BYTES} bytes")
        half = self._signer.ttl / 2
        lasting = Fetched(token.encode(), half, half)
        return self._tokens.put(key, lasting, self._clock.monotonic_ns())

    async def apply(self, request: Outgoing) -> None:
        """See Credential. Raises: RequestError 400."""
        self.apply_nowait(request)

    def close(self) -> None:
        """See Credential."""


def _expression(name: str, source: str, static: Data, services: Services) -> Expression:
    path = f"jwtSign.claimExpressions.{name}"
    if name in RESERVED:
        raise ConfigError(path, "is set by the signer")
    if name in static:
        raise ConfigError(path, "stands among `claims` too")
    made = Expression(source, services, path)
    if made.needs_request_body:
        raise ConfigError(path, "the request's body cannot be read here")
    return made


def _value(name: str, expression: Expression, request: Request) -> Any:
    """What JSON has of it. Raises: RequestError 400 for nothing, and for what it has not."""
    try:
        value = expression.value(request)
        if value is not None:
            return orjson.loads(orjson.dumps(value))
    except (CelError, RequestError, TypeError):
        # Told below: a claim that is not there would say something else.
        value = None
    raise refused(f"the claim {name} cannot be computed")
