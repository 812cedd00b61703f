"""Sessions of browsers: begun with an ID token, looked at with each request, renewed in time.

Source: spec/config.md section 3.6 (oidc); OpenID Connect Core 1.0 section 12; RFC 9700 section 4.14
(rotation of refresh tokens).

A session lives in the browser, in two cookies: the ID token with the session's end, and what renews
it (a refresh token, when the provider gives one). Providers that rotate refresh tokens may end all
of a browser's sessions when one is used twice, so that of the requests of a browser one renews:
within a worker the others wait for it, and what came of it is kept for late ones; over workers, it
is tried before the session ends, by who takes the one token of a bucket that all workers share.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, final

from shm.bucket import Ask, Limit
from shm.errors import ShmError
from sidecar.http.headers import Field
from sidecar.http.message import Request
from sidecar.policies.base import Services
from sidecar.policies.oidc_cookies import CookieBox, CookieTooLargeError
from sidecar.policies.oidc_provider import Provider
from sidecar.policies.oidc_tokens import (
    TIMEOUT_SECONDS,
    Client,
    ExchangeError,
    IdTokens,
    Tokens,
    kept_claims,
)
from sidecar.policies.tokens import TokenError

RAW_TOKEN: Final = "jwt.rawToken"  # noqa: S105 - the name of a variable
_log: Final = logging.getLogger("sidecar.policies.oidc")
_SECOND: Final = 1_000_000_000
_LONGEST_SECONDS: Final = 3600
"""Of a session without renewal, and of one that could be renewed and was not used."""
_EARLY_SECONDS: Final = 60
"""Before its end a session is renewed; of a short one, its last quarter."""
_ONE_AT_A_TIME: Final = Limit(1, 1, 30 * _SECOND)
_KEPT_NS: Final = 30 * _SECOND
_FAILED_NS: Final = 1 * _SECOND
_MAX_FLIGHTS: Final = 1024


class UnavailableError(Exception):
    """The provider could not be asked; it may be later."""


@final
@dataclass(frozen=True, slots=True)
class Session:
    """A session that holds. `is_ending`: it should be renewed."""

    token: str
    claims: dict[str, Any]
    ends: int
    """Seconds since 1970."""
    is_ending: bool


@final
@dataclass(frozen=True, slots=True)
class Renewed:
    """A session with the cookies that tell the browser of it."""

    session: Session
    cookies: tuple[Field, ...]


@final
@dataclass(frozen=True, slots=True)
class _Ticket:
    """What renews a session, and whose that is."""

    refresh_token: str = field(repr=False)
    subject: object = field(repr=False)


@final
@dataclass(slots=True)
class _Flight:
    """A renewal under way, or what came of it. `until_ns`: when it is forgotten; 0 before."""

    landed: asyncio.Event = field(default_factory=asyncio.Event)
    renewed: Renewed | None = None
    is_final: bool = False
    until_ns: int = 0


@final
class Sessions:
    """The sessions of one policy."""

    __slots__ = ("_box", "_client", "_clock", "_flights", "_id_tokens", "_rates", "_start")

    def __init__(
        self, box: CookieBox, client: Client, id_tokens: IdTokens, services: Services
    ) -> None:
        self._box = box
        self._client = client
        self._id_tokens = id_tokens
        self._clock = services.clock
        self._rates = services.rates
        self._start = None if services.keys is None else services.keys.start
        self._flights: dict[bytes, _Flight] = {}

    def _now(self) -> int:
        return self._clock.time_ns() // _SECOND

    def _kept(self, jar: Mapping[bytes, bytes]) -> dict[str, Any] | None:
        """The session's cookie, whether or not its time has passed."""
        name = self._box.names["s"]
        value = self._box.value(name, jar)
        found = self._box.opened("s", name, value) if value else None
        if found is None or not isinstance(found.get("t"), str):
            return None
        return found if type(found.get("e")) is int and type(found.get("b")) is int else None

    def _ticket(self, jar: Mapping[bytes, bytes], subject: object) -> str:
        """The refresh token that goes with a session; empty when there is none."""
        name = self._box.names["r"]
        value = self._box.value(name, jar)
        found = self._box.opened("r", name, value) if value else None
        if found is None or found.get("s") != subject or type(found.get("e")) is not int:
            return ""
        ticket = found.get("r")
        return ticket if isinstance(ticket, str) and self._now() < found["e"] else ""

    def token(self, jar: Mapping[bytes, bytes]) -> str:
        """The ID token of a session, also of one that ended; empty when there is none."""
        found = self._kept(jar)
        return "" if found is None else str(found["t"])

    def of(self, jar: Mapping[bytes, bytes], provider: Provider | None) -> Session | None:
        """The session that cookies hold, when it has not ended and its key is still the provider's.

        While nobody can tell about keys, what was verified before it was sealed is believed.
        """
        found = self._kept(jar) if jar else None
        if found is None:
            return None
        now = self._now()
        begun, end, token = found["b"], found["e"], found["t"]
        if not begun - _EARLY_SECONDS <= now < end:
            return None
        if provider is None or provider.keys.current is None:
            claims = kept_claims(token)
        else:
            try:
                claims = self._id_tokens.claims(token, provider.keys, self._clock.time_ns())
            except TokenError:
                return None
        return Session(token, claims, end, end - now < min(_EARLY_SECONDS, (end - begun) // 4))

    def begun(self, tokens: Tokens, claims: Mapping[str, Any]) -> list[Field]:
        """The cookies of a session that begins or goes on.

        Raises: CookieTooLargeError, TokenError.
        """
        now, end = self._now(), self._end(claims)
        subject, names = claims["sub"], self._box.names
        session = {"t": tokens.id_token, "s": subject, "b": now, "e": end}
        fields = self._box.cookies("s", names["s"], session, _LONGEST_SECONDS)
        if tokens.refresh_token:
            ticket = {"r": tokens.refresh_token, "s": subject, "e": now + _LONGEST_SECONDS}
            try:
                return fields + self._box.cookies("r", names["r"], ticket, _LONGEST_SECONDS)
            except CookieTooLargeError:
                _log.warning("a refresh token is too long for cookies: the session will just end")
        return fields + self._box.cleared(names["r"])

    def _end(self, claims: Mapping[str, Any]) -> int:
        """When a session that begins now ends. Raises: TokenError."""
        now = self._now()
        end = min(now + _LONGEST_SECONDS, int(claims["exp"]))
        if end <= now:
            # Within the leeway of clocks; the session would end before it began.
            raise TokenError("the token is invalid or malformed: ExpiredSignature")
        return end

    # --- renewal --------------------------------------------------------------------------

    def may_renew(self, jar: Mapping[bytes, bytes], session: Session | None) -> bool:
        """Whether this request should renew: the session ended, or nobody else is at it."""
        found = self._kept(jar) if jar else None
        ticket = "" if found is None else self._ticket(jar, found.get("s"))
        if not ticket:
            return False
        rates = self._rates
        if session is None or rates is None:
            return True
        key = rates.key(b"oidc", sha256(ticket.encode()).digest())
        ask = Ask(key, b"oidc renewal", _ONE_AT_A_TIME, 1)
        try:
            return rates.take(ask, self._clock.monotonic_ns()).allowed
        except ShmError:
            # The session holds for now; once it has ended, the table is not asked.
            return False

    async def renewed(
        self, request: Request, jar: Mapping[bytes, bytes], provider: Provider
    ) -> Renewed | None:
        """The session renewed; None when it cannot be any more. Raises: UnavailableError."""
        found = self._kept(jar)
        ticket = "" if found is None else self._ticket(jar, found.get("s"))
        if found is None or not ticket:
            return None
        key = sha256(ticket.encode()).digest()
        flight = self._flight(key)
        if flight is None:
            made = flight = _Flight()
            subject = found["s"]

            async def renew() -> None:
                await self._renew(made, _Ticket(ticket, subject), provider, request)

            # In the background: who asked may leave, and the refresh token is used all the same.
            if self._start is None or not self._start(renew):
                raise UnavailableError
            self._flights[key] = flight
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS + 1):
                await flight.landed.wait()
        except TimeoutError:
            raise UnavailableError from None
        renewed = flight.renewed
        if renewed is None and not flight.is_final:
            raise UnavailableError
        # What late requests are given may have ended as well.
        return renewed if renewed is not None and self._now() < renewed.session.ends else None

    def _flight(self, key: bytes) -> _Flight | None:
        now = self._clock.monotonic_ns()
        flights = self._flights
        while flights:
            first = next(iter(flights))
            ended = flights[first].until_ns
            if not (ended and ended <= now) and len(flights) < _MAX_FLIGHTS:
                break
            del flights[first]
        found = flights.get(key)
        if found is not None and found.until_ns and found.until_ns <= now:
            return None
        return found

    async def _renew(
        self, flight: _Flight, ticket: _Ticket, provider: Provider, of: Request
    ) -> None:
        form = (("grant_type", "refresh_token"), ("refresh_token", ticket.refresh_token))
        try:
            tokens = await self._client.exchange(provider, form, of)
            flight.renewed = await self._believed(tokens, ticket, provider)
            flight.is_final = True
        except ExchangeError as problem:
            _log.warning("a session was not renewed: %s", problem)
            flight.is_final = problem.is_final
        except (TokenError, CookieTooLargeError) as problem:
            _log.warning("a session was not renewed: %s", problem or "too long for cookies")
            flight.is_final = True
        finally:
            seconds = _KEPT_NS if flight.is_final else _FAILED_NS
            flight.until_ns = self._clock.monotonic_ns() + seconds
            flight.landed.set()

    async def _believed(self, tokens: Tokens, ticket: _Ticket, provider: Provider) -> Renewed:
        """Raises: TokenError, CookieTooLargeError."""
        token = tokens.id_token
        if not token:
            raise TokenError("no ID token came")
        claims = await self._id_tokens.fresh_claims(token, provider.keys, self._clock.time_ns())
        if claims["sub"] != ticket.subject:
            raise TokenError("an ID token of somebody else came")
        kept = Tokens(token, tokens.refresh_token or ticket.refresh_token)
        session = Session(token, claims, self._end(claims), is_ending=False)
        return Renewed(session, tuple(self.begun(kept, claims)))
