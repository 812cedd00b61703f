"""Another service decides whether a connection may come in, before anything is read from it.

Source: spec/config.md sections 1.10 and 3.8.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final, final

from pydantic import RootModel

from sidecar.errors import ConfigError, RequestError, SidecarError
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request
from sidecar.policies.authorizer import Authorizer
from sidecar.policies.authz import Authorization
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.expressions import Expression
from sidecar.policies.schema import ROOT, child

_log = logging.getLogger("sidecar.policies.network_ext_authz")
_KNOWN: Final = frozenset(("source", "destination", "env"))
_ANSWERED: Final = _KNOWN | {"response", "extauthz"}
_AT: Final = "protocol.http"
_PENDING_MAX: Final = 1024
"""Connections of a worker that may wait at a time: each holds a file and costs a call."""
_NO_REQUEST: Final = "a connection has no request that this could change or be read from"


class Config(RootModel[Authorization]):
    """As `extAuthz` by plain HTTP, without what needs a request."""

    model_config = ROOT


@final
class NetworkExtAuthz:
    """Asked once a connection, by whoever accepts it; it has no hooks on requests."""

    __slots__ = ("_authorizer", "_clock", "_pending")

    def __init__(self, config: Config, services: Services) -> None:
        asked = config.root
        if asked.protocol.http is None:
            raise ConfigError("protocol", "only `http` is supported for connections")
        for path, given in _unusable(asked):
            if given:
                raise ConfigError(path, _NO_REQUEST)
        for path, source, known in _sources(asked):
            expression = Expression(source, services, path, with_response="response" in known)
            if not expression.variables <= known:
                raise ConfigError(path, "only `source` and `destination` are known of a connection")
        self._authorizer = Authorizer(asked, services)
        self._clock = services.clock
        self._pending = 0

    async def permits(self, connection: Connection) -> bool:
        """Whether the connection may go on; when not it is closed without a word."""
        if self._pending >= _PENDING_MAX:
            _log.warning("a connection is refused: %d wait for a decision", self._pending)
            return False
        self._pending += 1
        try:
            return await self._is_let_in(connection)
        finally:
            self._pending -= 1

    async def _is_let_in(self, connection: Connection) -> bool:
        # The expressions can only see the connection, so an empty request may carry it to them.
        now = self._clock.monotonic_ns()
        request = Request("GET", "http", "", "/", "", Headers(), FixedBody(), connection, now)
        try:
            return await self._authorizer.judge(request) is None
        except RequestError:
            return False
        except SidecarError as error:
            _log.debug("a connection from %s is refused: %s", connection.peer_host, error)
            return False


def _unusable(asked: Authorization) -> Iterator[tuple[str, object]]:
    """Keys that mean nothing here, and their values."""
    yield "includeRequestHeaders", asked.include_request_headers
    yield "includeRequestBody", asked.include_request_body
    http = asked.protocol.http
    if http is not None:
        yield f"{_AT}.redirect", http.redirect
        yield f"{_AT}.includeResponseHeaders", http.include_response_headers


def _sources(asked: Authorization) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Expressions, where they stand and what they may name."""
    http, cache = asked.protocol.http, asked.cache
    assert http is not None
    for name, one in (("path", http.path), ("body", http.body)):
        if one is not None:
            yield f"{_AT}.{name}", one, _KNOWN
    for name, source in http.add_request_headers.items():
        yield child(f"{_AT}.addRequestHeaders", name), source, _KNOWN
    for name, source in http.metadata.items():
        yield child(f"{_AT}.metadata", name), source, _ANSWERED
    if cache is not None:
        for index, source in enumerate(cache.key):
            yield f"cache.key[{index}]", source, _KNOWN
        yield "cache.ttl", cache.ttl, _ANSWERED


KIND = PolicyKind("networkExtAuthz", Config, NetworkExtAuthz)
