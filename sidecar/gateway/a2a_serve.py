"""Serves the requests of a backend with the policy `a2a`: an ordinary call, with an eye on it.

Source: spec/mcp_a2a.md section 3; spec/config.md section 4.7.

Before the call: the version, and where push notifications are to go. After it: cards are rewritten,
anything else passes as it comes and is watched. All around it is as for every other backend.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.a2a import errors, webhook
from sidecar.a2a.methods import CARD, EXTENDED_CARD
from sidecar.a2a.outcome import Watch
from sidecar.gateway.a2a_cards import Cards
from sidecar.gateway.a2a_lookup import Lookup
from sidecar.gateway.a2a_refusal import refusal
from sidecar.gateway.a2a_stream import WatchedBody
from sidecar.gateway.exchange import Exchange
from sidecar.gateway.plan import Attempt, Backend, Route
from sidecar.http.coding import CodingError, codings_of
from sidecar.http.message import Body, FixedBody, Request, Response
from sidecar.policies.a2a import (
    CALL,
    STATE,
    WATCH,
    BadCallError,
    Call,
    Config,
    head_of,
    read_call,
    version_of,
)

_REASON: Final = "InvalidRequest"
_MAX_WEBHOOKS: Final = 16


@final
class A2aServe:
    """See plan.Serve. `inner`: the agent, without policies of its own."""

    __slots__ = ("_cards", "_inner", "_limit", "_lookup", "_mode", "_policy", "_versions")

    def __init__(self, inner: Backend, config: Config, lookup: Lookup, limit_bytes: int) -> None:
        self._inner = inner
        self._cards = Cards(config.card)
        self._lookup = lookup
        self._limit = limit_bytes
        self._mode = config.push_notifications.mode
        self._policy = config.push_notifications.policy()
        self._versions = frozenset(config.versions)

    async def serve(
        self, request: Request, exchange: Exchange, route: Route, attempt: Attempt
    ) -> Response:
        """See plan.Serve."""
        found = await self._call(request)
        if isinstance(found, Response):
            return found
        refused = await self._refused(request, found)
        if refused is not None:
            return refused
        if found.details.method in (CARD, EXTENDED_CARD):
            return await self._cards.serve(
                request, found, lambda: self._sent(request, exchange, route, attempt)
            )
        response = await self._sent(request, exchange, route, attempt)
        _watch(request, found, response)
        return response

    async def _sent(
        self, request: Request, exchange: Exchange, route: Route, attempt: Attempt
    ) -> Response:
        body: Body = request.body
        if type(body) is FixedBody:
            # Another attempt, or an expression over the answer, may read it again.
            body = body.copy()
        return await attempt(request, exchange, route, self._inner, body)

    async def _call(self, request: Request) -> Call | Response:
        """What the agent will see called: policies may have changed the path and the body."""
        head = head_of(request)
        known = request.state.get(CALL)
        if isinstance(known, Call) and known.head == head and _is_unchanged(known, request):
            return known
        try:
            return await read_call(request, head, self._limit)
        except BadCallError as error:
            kind = errors.of_code(error.json_rpc)
            return refusal(head.binding, error.identity, kind, error.message, _REASON)

    async def _refused(self, request: Request, call: Call) -> Response | None:
        details = call.details
        if call.binding and details.method and details.method != CARD:
            version = version_of(request)
            if version not in self._versions:
                served = ", ".join(sorted(self._versions))
                text = f"A2A version {version!a} is not served here, only {served}"
                return refusal(call.binding, details.identity, errors.VERSION, text, _REASON)
        if not details.webhooks or self._mode == "allow":
            return None
        if self._mode == "deny":
            text = "push notifications are not supported here"
            return refusal(call.binding, details.identity, errors.NO_PUSH, text, _REASON)
        try:
            await self._check(details.webhooks)
        except webhook.Refused as error:
            text = f"the push notification URL is refused: {error}"
            return refusal(call.binding, details.identity, errors.INVALID_PARAMS, text, _REASON)
        return None

    async def _check(self, urls: tuple[object, ...]) -> None:
        """Raises: webhook.Refused."""
        if len(urls) > _MAX_WEBHOOKS:
            raise webhook.Refused("there are too many")
        for url in urls:
            host = self._policy.needs_lookup(url)
            if host is not None:
                for address in await self._lookup.addresses(host):
                    self._policy.check(address)


def _is_unchanged(call: Call, request: Request) -> bool:
    if call.raw is None:
        return True
    body = request.body
    return type(body) is FixedBody and body.unread == call.raw


def _watch(request: Request, call: Call, response: Response) -> None:
    """Let the answer be seen as it passes."""
    if not call.binding or STATE not in request.state or response.tunnel is not None:
        return
    headers = response.headers
    kind = (headers.get(b"content-type") or b"").lower()
    try:
        codings = codings_of(headers.get(b"content-encoding"))
    except CodingError:
        # It tells nothing then; the client may know the coding.
        return
    watch = Watch(call.binding, call.details.method, response.status, kind, codings)
    request.state[WATCH] = watch
    response.body = WatchedBody(response.body, watch)
