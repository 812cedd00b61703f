"""Backends with the policy `a2a`.

Source: spec/config.md sections 3.3 and 4.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, final

from sidecar.errors import ConfigError
from sidecar.gateway.a2a_lookup import Lookup
from sidecar.gateway.a2a_refusal import A2aErrors
from sidecar.gateway.a2a_serve import A2aServe
from sidecar.gateway.plan import NOTHING_AFTER, Backend
from sidecar.policies.a2a import Config
from sidecar.policies.chain import EMPTY
from sidecar.policies.schema import nested, parse

_PROTOCOL: Final = "a2a"


@final
class A2aBackends:
    """Of one compilation. See backends.AgentBackends."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._lookup = Lookup()

    def served(self, made: Backend, policy: Mapping[str, Any]) -> Backend:
        """See there."""
        if made.serve is not None:
            raise ConfigError(_PROTOCOL, "models and MCP servers are no A2A agents")
        try:
            config = parse(Config, policy)
        except ConfigError as problem:
            raise nested(_PROTOCOL, problem) from problem
        # Its policies act around the agent's call, as they do around every other one.
        inner = replace(made, chain=EMPTY, after=NOTHING_AFTER, request_seconds=None)
        serve = A2aServe(inner, config, self._lookup, self._limit)
        return replace(made, serve=serve, protocol=_PROTOCOL, error_shape=A2aErrors())
