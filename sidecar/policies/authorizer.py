"""Asks an authorization service about a request and does what it says, or what its failure means.

Source: spec/config.md sections 3.8 and 11.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol, final

from sidecar.config.model.questions import ExtAuthzGrpc, IncludeBody
from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.http.message import FixedBody, PrefixedBody, Request, Response
from sidecar.policies.authz import (
    ALLOWED_ANYHOW,
    FAILED,
    REASON,
    VARIABLE,
    Allowed,
    Authorization,
    Decision,
    Denied,
    refuse_ambiguous,
)
from sidecar.policies.authz_cache import DecisionCache, Key
from sidecar.policies.authz_grpc import GrpcService
from sidecar.policies.authz_http import HttpService
from sidecar.policies.base import Services
from sidecar.policies.mutation import OVERWRITE, BadAnswerError, Mutation, learn
from sidecar.policies.schema import nested

_log = logging.getLogger("sidecar.policies.ext_authz")
_QUIET_NS: Final = 10_000_000_000


class _Service(Protocol):
    """How a service is asked."""

    needs_body: bool
    owned: frozenset[bytes]
    """Names of headers that the service alone may set for the backend."""

    async def ask(
        self, request: Request, body: bytes | None, *, is_cut: bool
    ) -> tuple[Decision, Response | None]:
        """Raises: UpstreamError, BadAnswerError, RequestError."""

    def is_kept(self, decision: Decision) -> bool:
        """Whether a cache may keep it."""

    def redirected(self, request: Request, denied: Denied, answer: Response | None) -> Denied:
        """What the client gets in the place of a denial."""


@final
class Authorizer:
    """One service. Raises: ConfigError with a path below the policy."""

    __slots__ = (
        "_cache",
        "_failed_status",
        "_flights",
        "_label",
        "_limit",
        "_partial",
        "_quiet_until_ns",
        "_service",
        "_services",
        "needs_body",
    )

    def __init__(self, config: Authorization, services: Services) -> None:
        callout = services.callouts.resolve(config.reference, config.policies, "ExtAuthz")
        self._services = services
        self._label = callout.label
        self._quiet_until_ns = 0
        mode = config.failure_mode
        self._failed_status = 403 if isinstance(mode, str) else mode.deny_with_status
        if mode == "allow":
            self._failed_status = 0
        body = config.include_request_body
        self._partial = body is not None and body.allow_partial_message
        self._limit = _limit(body, services)
        http, included = config.protocol.http, config.include_request_headers
        self._service: _Service
        if http is None:
            grpc = config.protocol.grpc or ExtAuthzGrpc()
            self._service = GrpcService(grpc, included, body, callout, services)
        else:
            sends = body is not None
            self._service = HttpService(http, included, callout, services, sends_body=sends)
        self._cache = _cache(config, services)
        self._flights: dict[Key, asyncio.Future[None]] = {}
        """Calls under way whose decision will be kept: others with the key wait for it."""
        self.needs_body = self._service.needs_body or (
            self._cache is not None and self._cache.needs_body
        )

    async def judge(self, request: Request) -> Response | None:
        """None lets the request pass, changed. Raises: RequestError."""
        refuse_ambiguous(request)
        cache = self._cache
        key = None if cache is None else cache.key(request)
        kept = cache.get(key) if cache is not None and key is not None else None
        if kept is not None:
            return self._act(request, kept, None)
        body, is_cut = await self._read(request)
        if cache is None or key is None:
            return await self._asked(request, None, body, is_cut=is_cut)
        flight = self._flights.get(key)
        if flight is not None:
            await asyncio.shield(flight)
            kept = cache.get(key)
            if kept is not None:
                return self._act(request, kept, None)
            # It failed, or is not to be kept.
            return await self._asked(request, key, body, is_cut=is_cut)
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._asked(request, key, body, is_cut=is_cut)
        finally:
            del self._flights[key]
            flight.set_result(None)

    async def _asked(
        self, request: Request, key: Key | None, body: bytes | None, *, is_cut: bool
    ) -> Response | None:
        """Ask, and do what is said. `key`: what the decision is kept by."""
        cache = self._cache
        try:
            decision, answer = await self._service.ask(request, body, is_cut=is_cut)
        except BadAnswerError as error:
            self._complain("the answer of %s is refused: %s", self._label, error)
            raise RequestError(self._failed_status or 403, REASON, FAILED) from error
        except UpstreamError as error:
            return self._without(request, key, error)
        if cache is not None and key is not None and self._service.is_kept(decision):
            learn(request.state, VARIABLE, decision.metadata)
            cache.put(key, decision, request, answer)
        return self._act(request, decision, answer)

    def _act(
        self, request: Request, decision: Decision, answer: Response | None
    ) -> Response | None:
        if isinstance(decision, Allowed):
            decision.apply(request)
            return None
        return self._service.redirected(request, decision, answer).answer(request)

    def _without(self, request: Request, key: Key | None, error: UpstreamError) -> Response | None:
        """Nobody decided: what still holds of an earlier decision, or what the mode says."""
        kept = self._cache.last(key) if self._cache is not None and key is not None else None
        if kept is not None:
            return self._act(request, kept, None)
        self._complain("the authorization service at %s failed: %s", self._label, error)
        if self._failed_status:
            raise RequestError(self._failed_status, REASON, FAILED) from error
        told = Mutation(((OVERWRITE, ALLOWED_ANYHOW, b"true"),))
        Allowed(told, owned=self._service.owned).apply(request)
        return None

    async def _read(self, request: Request) -> tuple[bytes | None, bool]:
        """What is sent of the body, and whether that is not all of it.

        Raises: RequestError 413; whatever reading raises.
        """
        limit = self._limit
        if limit is None or request.upgrade or request.method == "CONNECT":
            return None, False
        body = request.body
        if type(body) is FixedBody:
            data = body.unread
        else:
            if not self._partial and (body.length or 0) > limit:
                raise _too_large()
            parts: list[bytes] = []
            size = 0
            while size <= limit:
                chunk = body.read_nowait()
                if chunk is None:
                    chunk = await body.read()
                if not chunk:
                    break
                parts.append(chunk)
                size += len(chunk)
            data = b"".join(parts)
            is_whole = size <= limit
            request.body = FixedBody(data, body.trailers) if is_whole else PrefixedBody(data, body)
        if len(data) <= limit:
            return data, False
        if not self._partial:
            request.body.close()
            raise _too_large()
        return data[:limit], True

    def _complain(self, text: str, *values: object) -> None:
        """Log, at most every ten seconds: a service that is down fails each request."""
        now = self._services.clock.monotonic_ns()
        if now >= self._quiet_until_ns:
            self._quiet_until_ns = now + _QUIET_NS
            _log.warning(text, *values)


def _limit(body: IncludeBody | None, services: Services) -> int | None:
    return None if body is None else min(body.max_request_bytes, services.max_buffer_bytes)


def _cache(config: Authorization, services: Services) -> DecisionCache | None:
    if config.cache is None:
        return None
    try:
        return DecisionCache(config.cache, services, with_response=config.protocol.http is not None)
    except ConfigError as problem:
        raise nested("cache", problem) from problem


def _too_large() -> RequestError:
    # The empty message makes an empty body (section 11).
    return RequestError(413, REASON, "")
