"""Credentials that are made of the client's own: shown on as they are, or exchanged for another.

Source: RFC 8693; RFC 7523; draft-ietf-oauth-identity-assertion-authz-grant; spec/config.md section
3.12.

An exchanged token is known by the configuration it was had with and by all that the request
brought: nobody gets a token that was issued for somebody else. A worker holds the ones it used
last; behind them is the table of all workers (llm.credentials.shared), which also says who asks.

    at hand, fresh   used
    at hand, stale   used, and renewed in the background
    not at hand      found in the table, or asked for; the request waits

A token is shown until 15 s before its own end or that of the client's token, whichever is first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NamedTuple, final

import orjson

from sidecar.cel.engine import CelError
from sidecar.config.scalars import duration_seconds
from sidecar.errors import ConfigError, RequestError, SidecarError
from sidecar.gateway.token_endpoint import SECONDS, TokenEndpoint
from sidecar.http.message import Request
from sidecar.llm.credentials import oauth
from sidecar.llm.credentials.base import Fetched, Outgoing, failed
from sidecar.llm.credentials.client_auth import Form
from sidecar.llm.credentials.recent import RecentTokens
from sidecar.llm.credentials.shared import SharedTokens
from sidecar.llm.credentials.static import DEFAULT_LOCATION, is_showable, place_of, removing
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression
from sidecar.policies.location import AMBIGUOUS, Location, Source, source_of
from sidecar.policies.schema import nested, parse

Data = Mapping[str, Any]
_MAX_ENTRIES: Final = 8192
_TTL_SECONDS: Final = 300.0
_MARGIN_SECONDS: Final = 15.0
_EARLY_SECONDS: Final = 60.0
_MAX_INPUT_BYTES: Final = 16 * 1024
"""Bound of a client's token and of all that goes with it."""
_AGAIN_NS: Final = 1_000_000_000
_VERIFIED: Final = ("jwt.rawToken", "apiKey.key")
"""Where policies leave the credential that they verified and took out of the request."""
_CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"))
_log = logging.getLogger("sidecar.gateway.exchanged")


@final
class Passthrough:
    """The client's own credential: the one that a policy verified, else as the client sent it."""

    explicit_place = True
    is_last = False

    def __init__(self, payload: Data) -> None:
        """Raises: ConfigError."""
        self._put = place_of(payload.get("location"), "passthrough.location")

    def apply_nowait(self, request: Outgoing) -> bool:
        """See Credential."""
        client = request.client
        if client is None:
            return True
        for name in _VERIFIED:
            found = client.state.get(name)
            if isinstance(found, str) and is_showable(found.encode()):
                self._put(request, found)
                return True
        if client.headers is not request.headers:
            # A request that is made anew, as for models: it lacks what nobody verified.
            for field in client.headers:
                if field[0] in _CREDENTIALS:
                    request.headers.set(*field)
        return True

    async def apply(self, request: Outgoing) -> None:
        """See Credential."""
        self.apply_nowait(request)

    def close(self) -> None:
        """See Credential."""


class Brought(NamedTuple):
    """What one request brings to be exchanged."""

    key: bytes
    subject: str
    actor: str
    more: Form

    def __repr__(self) -> str:
        return "<brought>"


Steps = Callable[[Brought, Request], Coroutine[Any, Any, oauth.Issued]]
"""The calls of an exchange. Raises: RequestError 400, UpstreamError 500."""


@final
class TokenOf:
    """A token of the request, where the configuration says that it is."""

    __slots__ = ("_source", "location")

    def __init__(self, location: Data, services: Services, path: str) -> None:
        """Raises: ConfigError."""
        self.location = location
        try:
            self._source: Source = source_of(parse(Location, location), services)
        except ConfigError as problem:
            raise nested(path, problem) from problem
        if self._source.needs_request_body:
            raise ConfigError(path, "the request's body cannot be read here")

    def read(self, request: Request, name: str) -> str:
        """Raises: RequestError 400."""
        found = self._source.read(request)
        if found is None or found is AMBIGUOUS or not found.strip():
            raise oauth.refused(f"no {name} token")
        if len(found) > _MAX_INPUT_BYTES:
            raise oauth.refused(f"the {name} token is longer than {_MAX_INPUT_BYTES} bytes")
        if not is_showable(found):
            raise oauth.refused(f"the {name} token is none")
        return found.decode("ascii")


@final
class Inputs:
    """What an exchange takes from each request. Raises: ConfigError."""

    __slots__ = ("_actor", "_enforces", "_identity", "_more", "_subject", "_tokens", "removals")

    def __init__(self, payload: Data, services: Services, tokens: SharedTokens) -> None:
        self._tokens = tokens
        self._identity = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
        source = (payload.get("subjectToken") or {}).get("source") or DEFAULT_LOCATION
        self._subject = TokenOf(source, services, "subjectToken.source")
        self.removals = [removing(source)]
        actor = payload.get("actorToken")
        self._actor: TokenOf | None = None
        self._enforces = False
        if actor is not None:
            self._actor = TokenOf(actor["source"], services, "actorToken.source")
            self._enforces = bool(actor.get("enforceMayAct"))
            self.removals.append(removing(actor["source"]))
        self._more = [
            (name, _parameter(name, source, services))
            for name, source in sorted((payload.get("additionalParams") or {}).items())
        ]

    def of(self, request: Request) -> Brought:
        """Raises: RequestError 400 or 403."""
        subject = self._subject.read(request, "subject")
        actor = "" if self._actor is None else self._actor.read(request, "actor")
        if self._enforces and not oauth.may_act(subject, actor):
            raise oauth.refused("the actor may not act for the subject", 403)
        more = [(name, _value(name, expression, request)) for name, expression in self._more]
        parts = [self._identity, subject.encode(), actor.encode()]
        for name, value in more:
            parts += [name.encode(), value.encode("utf-8", "surrogatepass")]
        return Brought(self._tokens.key(*parts), subject, actor, more)


def _parameter(name: str, source: str, services: Services) -> Expression:
    path = f"additionalParams.{name}"
    if name.lower() in oauth.RESERVED:
        raise ConfigError(path, "is a parameter with a setting of its own")
    made = Expression(source, services, path)
    if made.needs_request_body:
        raise ConfigError(path, "the request's body cannot be read here")
    return made


def _value(name: str, expression: Expression, request: Request) -> str:
    try:
        value = expression.value(request)
    except (CelError, RequestError):
        value = None
    if not isinstance(value, str) or len(value) > _MAX_INPUT_BYTES:
        raise oauth.refused(f"the parameter {name} cannot be computed")
    return value


@final
class Exchanged:
    """A token had in exchange. See llm.credentials.base.Credential."""

    explicit_place = True
    is_last = False

    def __init__(
        self, payload: Data, steps: Steps, legs: int, services: Services, tokens: SharedTokens
    ) -> None:
        """`legs`: how many calls `steps` makes. Raises: ConfigError, below the kind's key."""
        self._steps = steps
        self._clock = services.clock
        self._tokens = tokens
        self._inputs = Inputs(payload, services, tokens)
        self._place = place_of(payload.get("authorizationLocation"), "authorizationLocation")
        cache = payload.get("cache") or {}
        entries = cache.get("maxEntries")
        self._keeps = entries != 0
        self._recent = RecentTokens(_MAX_ENTRIES if entries is None else entries)
        ttl = cache.get("defaultTtl")
        self._ttl = (duration_seconds(ttl) if ttl is not None else 0.0) or _TTL_SECONDS
        self._seconds = legs * SECONDS + 2.0
        self._again_ns = 0
        self._renewals: set[asyncio.Task[Fetched[bytes]]] = set()

    def apply_nowait(self, request: Outgoing) -> bool:
        """See Credential. Raises: RequestError 400 or 403."""
        client = request.client
        if client is None:
            raise failed()
        if not self._keeps:
            return False
        brought = self._inputs.of(client)
        now_ns = self._clock.monotonic_ns()
        found = self._recent.get(brought.key, now_ns)
        if found is None:
            return False
        if now_ns >= found.fresh_ns and now_ns >= self._again_ns:
            self._renew(brought, client)
        self._put(request, found.value)
        return True

    async def apply(self, request: Outgoing) -> None:
        """See Credential. Raises: RequestError 400 or 403, UpstreamError 500."""
        client = request.client
        if client is None:
            raise failed()
        brought = self._inputs.of(client)
        if not self._keeps:
            self._put(request, (await self._steps(brought, client)).token)
            return
        fetch = self._fetching(brought, client)
        try:
            async with asyncio.timeout(self._seconds):
                got = await self._tokens.obtain(brought.key, fetch, self._seconds)
        except TimeoutError as error:
            raise failed() from error
        self._put(request, self._recent.put(brought.key, got, self._clock.monotonic_ns()))

    def close(self) -> None:
        """See Credential. Renewals end by their own deadlines."""

    def _put(self, request: Outgoing, token: str) -> None:
        # What was exchanged is for the gateway alone.
        for remove in self._inputs.removals:
            remove(request)
        self._place(request, token)

    def _fetching(
        self, brought: Brought, client: Request
    ) -> Callable[[], Coroutine[Any, Any, Fetched[bytes]]]:
        async def fetch() -> Fetched[bytes]:
            issued = await self._steps(brought, client)
            return self._lasting(issued, brought.subject)

        return fetch

    def _lasting(self, issued: oauth.Issued, subject: str) -> Fetched[bytes]:
        seconds = self._ttl if issued.seconds is None else issued.seconds
        left = oauth.seconds_left(subject, self._clock.time_ns())
        valid = min(seconds, seconds if left is None else left) - _MARGIN_SECONDS
        fresh = valid - min(_EARLY_SECONDS, valid / 4)
        return Fetched(issued.token.encode(), max(fresh, 0.0), max(valid, 0.0))

    def _renew(self, brought: Brought, client: Request) -> None:
        """Ask for the next one while this one is shown."""
        task = self._tokens.begin(brought.key, self._fetching(brought, client), self._seconds)
        if task in self._renewals:
            return
        self._renewals.add(task)

        def renewed(task: asyncio.Task[Fetched[bytes]]) -> None:
            self._renewals.discard(task)
            problem = None if task.cancelled() else task.exception()
            now_ns = self._clock.monotonic_ns()
            if problem is not None:
                self._again_ns = now_ns + _AGAIN_NS
                shown = (
                    str(problem) if isinstance(problem, SidecarError) else type(problem).__name__
                )
                _log.warning("a token could not be renewed: %s", shown)
            elif not task.cancelled():
                self._recent.put(brought.key, task.result(), now_ns)

        task.add_done_callback(renewed)


# --- the two kinds --------------------------------------------------------------------------------


def token_exchange(payload: Data, services: Services, tokens: SharedTokens) -> Exchanged:
    """`oauthTokenExchange`. Raises: ConfigError, below that key."""
    endpoint = TokenEndpoint(payload, services)
    is_exchange = (payload.get("grantType") or "tokenExchange") == "tokenExchange"
    wanted = payload.get("requestedTokenType")
    actor_type = _checked_types(payload, wanted, is_exchange=is_exchange)
    subject_type = (payload.get("subjectToken") or {}).get("tokenType") or oauth.ACCESS_TOKEN
    common = oauth.common_fields(
        *((payload.get(name) or ()) for name in ("audiences", "scopes", "resources"))
    )

    async def steps(brought: Brought, client: Request) -> oauth.Issued:
        if is_exchange:
            form = [
                ("grant_type", oauth.TOKEN_EXCHANGE),
                ("subject_token", brought.subject),
                ("subject_token_type", subject_type),
            ]
            if brought.actor:
                form += [("actor_token", brought.actor), ("actor_token_type", actor_type)]
            if wanted is not None:
                form.append(("requested_token_type", wanted))
        else:
            form = [("grant_type", oauth.JWT_BEARER), ("assertion", brought.subject)]
        return await endpoint.ask([*form, *common, *brought.more], client, wanted)

    return Exchanged(payload, steps, 1, services, tokens)


def _checked_types(payload: Data, wanted: str | None, *, is_exchange: bool) -> str:
    """What goes with what; the type of the actor's token. Raises: ConfigError."""
    actor = payload.get("actorToken")
    if not is_exchange:
        for name in ("actorToken", "requestedTokenType"):
            if payload.get(name) is not None:
                raise ConfigError(name, "only with the grant tokenExchange")
    if wanted is not None and wanted not in oauth.ISSUABLE:
        raise ConfigError("requestedTokenType", "no type of token that a backend can be shown")
    if actor is None:
        return ""
    kind = actor.get("tokenType") or oauth.ACCESS_TOKEN
    if actor.get("enforceMayAct") and kind != oauth.JWT:
        raise ConfigError("actorToken.enforceMayAct", f"only with the tokenType {oauth.JWT}")
    return str(kind)


def cross_app_access(payload: Data, services: Services, tokens: SharedTokens) -> Exchanged:
    """`crossAppAccess`: an identity assertion of the one server buys a token of the other.

    Raises: ConfigError, below that key.
    """
    audience = payload.get("audience")
    if not audience:
        raise ConfigError("audience", "required, and not empty")
    first = _endpoint(payload, "identityProvider", services)
    second = _endpoint(payload, "resourceAuthorizationServer", services)
    subject_type = (payload.get("subjectToken") or {}).get("tokenType") or oauth.ID_TOKEN
    scopes = payload.get("scopes") or ()
    later = payload.get("accessTokenScopes")
    asked = oauth.common_fields([audience], scopes, payload.get("resources") or ())
    # Not again `resource`: the assertion is bound to it.
    then = oauth.common_fields((), scopes if later is None else later, ())

    async def steps(brought: Brought, client: Request) -> oauth.Issued:
        form = [
            ("grant_type", oauth.TOKEN_EXCHANGE),
            ("requested_token_type", oauth.ID_JAG),
            ("subject_token", brought.subject),
            ("subject_token_type", subject_type),
            *asked,
        ]
        assertion = await first.ask(form, client, oauth.ID_JAG, is_assertion=True)
        form = [("grant_type", oauth.JWT_BEARER), ("assertion", assertion.token), *then]
        try:
            return await second.ask(form, client, None)
        except RequestError as error:
            # The assertion is the first server's, not the client's.
            raise oauth.unusable("the second token endpoint did not accept it") from error

    return Exchanged(payload, steps, 2, services, tokens)


def _endpoint(payload: Data, name: str, services: Services) -> TokenEndpoint:
    given = payload.get(name) or {}
    try:
        if given.get("clientAuth") is None:
            raise ConfigError("clientAuth", "required")
        return TokenEndpoint(given, services)
    except ConfigError as problem:
        raise nested(name, problem) from problem
