"""Lets browsers in that logged in at an identity provider, and sends the others there.

Source: spec/config.md sections 3.2, 3.6 and 11; OpenID Connect Core 1.0; OpenID Connect
RP-Initiated Logout 1.0; RFC 9700 (best current practice of OAuth).

What a browser keeps is in `oidc_cookies`, how it comes and goes in `oidc_login`, how sessions are
made, looked at and renewed in `oidc_sessions`, who the provider is in `oidc_provider`.
"""

from __future__ import annotations

import logging
from typing import Any, Final, final

from pydantic import Field, model_validator

from sidecar.errors import ConfigError, RequestError
from sidecar.http.headers import Field as HeaderField
from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.bearer import STATE, keys_of
from sidecar.policies.oidc_cookies import (
    CookieBox,
    CookieTooLargeError,
    jar_of,
    secret_key,
    without_foreign,
)
from sidecar.policies.oidc_login import (
    LOGIN_SECONDS,
    REASON,
    Callback,
    Transaction,
    callback_of,
    check_path,
    failure,
    is_navigation,
    is_preflight,
    local_target,
    scope_of,
    with_query,
)
from sidecar.policies.oidc_provider import (
    Metadata,
    Provider,
    ProviderSource,
    TokenAuth,
    discovered,
    endpoint_problem,
    given,
    parse_document,
)
from sidecar.policies.oidc_sessions import RAW_TOKEN, Session, Sessions, UnavailableError
from sidecar.policies.oidc_tokens import Client, ExchangeError, IdTokens, is_same
from sidecar.policies.remote_keys import DocumentError
from sidecar.policies.schema import PolicyConfig
from sidecar.policies.tokens import TokenError

_log: Final = logging.getLogger("sidecar.policies.oidc")
_UNAVAILABLE: Final = "the provider cannot be asked now"
_MAX_LOGINS: Final = 8
"""Logins that a browser may have under way; cookies of more would not fit into a request."""
_MAX_HINT: Final = 2048
_NO_STORE: Final = (b"cache-control", b"no-store")
_OWN_SITE: Final = frozenset((b"same-origin", b"none"))


class Logout(PolicyConfig):
    """The end of a session."""

    path: str
    """The path that ends it; nothing goes upstream from there."""
    redirect: str = "/"
    """The path that the browser is sent to then, with its query. Default `/`."""


class Config(PolicyConfig):
    """A provider, by discovery or with three endpoints, and this gateway as its client."""

    issuer: str = Field(min_length=1)
    """The `iss` of its tokens, to the letter."""
    discovery: str | dict[str, Any] | None = None
    """Its discovery document, or `{url}`. Default: `{issuer}/.well-known/openid-configuration`."""
    authorization_endpoint: str | None = None
    """Without discovery: where browsers are sent."""
    token_endpoint: str | None = None
    """Without discovery: where codes become tokens."""
    token_endpoint_auth: TokenAuth | None = None
    """Without discovery: how the secret is sent. Default clientSecretBasic."""
    jwks: str | dict[str, Any] | None = None
    """Without discovery: its keys, as in jwtAuth."""
    end_session_endpoint: str | None = None
    """Ours. Without discovery: where browsers are sent for the end of their session."""
    client_id: str = Field(min_length=1)
    """This gateway's name."""
    client_secret: str = Field(min_length=1)
    """Its secret."""
    redirect_uri: str = Field(alias="redirectURI")
    """Where the provider sends browsers back to; absolute, not the root path."""
    scopes: list[str] = Field(default_factory=list, max_length=64)
    """What is asked for beside `openid`."""
    logout: Logout | None = None
    """Default: no path ends a session."""

    @model_validator(mode="after")
    def _one_form(self) -> Config:
        known = (self.authorization_endpoint, self.token_endpoint, self.jwks)
        count = sum(one is not None for one in known)
        if count not in (0, 3):
            text = "`authorizationEndpoint`, `tokenEndpoint` and `jwks` must be set together"
            raise ValueError(text)
        if count and self.discovery is not None:
            raise ValueError("with explicit endpoints there is no `discovery`")
        if not count and (self.token_endpoint_auth or self.end_session_endpoint):
            text = "`tokenEndpointAuth` and `endSessionEndpoint` need all explicit endpoints"
            raise ValueError(text)
        return self


@final
class Oidc:
    """Answers with a redirect, a refusal or the end of a session; or notes what the token claims
    and lets the request pass. The cookies are taken out by `oidc_cookies.ReservedCookies`, on every
    route: another policy of this kind may still need its own."""

    __slots__ = (
        "_box",
        "_callback_path",
        "_client",
        "_id_tokens",
        "_issuer",
        "_logout",
        "_now_ns",
        "_origin",
        "_redirect_uri",
        "_scope",
        "_sessions",
        "_source",
        "_state",
    )

    def __init__(self, config: Config, services: Services) -> None:
        self._callback_path, self._origin = callback_of(config.redirect_uri)
        self._redirect_uri = config.redirect_uri
        self._scope = scope_of(config.scopes)
        self._logout = _checked_logout(config.logout, self._callback_path)
        self._issuer = config.issuer
        problem = endpoint_problem(config.issuer)
        if problem:
            raise ConfigError("issuer", problem)
        self._source: ProviderSource = _source(config, services)
        is_secure = config.redirect_uri.startswith("https:")
        of = (config.issuer, config.client_id)
        key = secret_key(services.cookie_secret)
        place = services.attachment
        self._box = CookieBox(key, place, of, is_secure=is_secure)
        self._client = Client(config.client_id, config.client_secret)
        self._id_tokens = IdTokens(config.issuer, config.client_id)
        self._sessions = Sessions(self._box, self._client, self._id_tokens, services)
        self._now_ns = services.clock.time_ns
        self._state = f"oidc.cookies.{self._box.names['s']}"

    async def on_request(self, request: Request) -> Response | None:
        """Raises: RequestError."""
        path = request.path
        if path == self._callback_path and request.method == "GET":
            callback = Callback.of(request.query)
            if callback is not None:
                return await self._returned(request, callback)
        logout = self._logout
        if logout is not None and path == logout.path:
            return self._left(request, logout)
        if is_preflight(request):
            return None
        jar = jar_of(request)
        session = self._sessions.of(jar, self._source.current)
        if session is None or session.is_ending:
            session = await self._renewed(request, jar, session)
        if session is not None:
            request.state[STATE] = session.claims
            request.state[RAW_TOKEN] = session.token
            return None
        return await self._sent_away(request, jar)

    def on_response(self, request: Request, response: Response) -> None:
        """Keep upstreams from setting our cookies, and add those of a session that was renewed."""
        if response.reason == "Upstream":
            without_foreign(response.headers)
        fields = request.state.pop(self._state, None)
        if isinstance(fields, list):
            response.headers += fields
            response.headers.set(*_NO_STORE)

    async def _renewed(
        self, request: Request, jar: dict[bytes, bytes], session: Session | None
    ) -> Session | None:
        """A session in the place of one that ended, or is about to. Raises: RequestError 503."""
        if not self._sessions.may_renew(jar, session):
            return session
        try:
            renewed = await self._sessions.renewed(request, jar, await self._provider())
        except (UnavailableError, RequestError):
            if session is None:
                raise failure(503, _UNAVAILABLE, (b"retry-after", b"1")) from None
            return session
        if renewed is None:
            return session
        request.state[self._state] = list(renewed.cookies)
        return renewed.session

    # --- coming ---------------------------------------------------------------------------

    async def _provider(self) -> Provider:
        """Raises: RequestError 503."""
        found = self._source.current
        if found is None:
            await self._source.wait()
            found = self._source.current
            if found is None:
                raise failure(503, _UNAVAILABLE, (b"retry-after", b"1"))
        return found

    async def _sent_away(self, request: Request, jar: dict[bytes, bytes]) -> Response:
        """To the provider, when somebody looks. Raises: RequestError 401."""
        if not is_navigation(request):
            raise failure(401, "authentication required")
        provider = await self._provider()
        begun = Transaction.begun(request.received_target, self._now_ns() // 10**9)
        name = self._login_name(begun.id)
        fields = self._box.cookies("t", name, begun.fields, LOGIN_SECONDS)
        others = self._logins(jar)
        if len(others) >= _MAX_LOGINS:
            fields += [field for one in others for field in self._box.cleared(one)]
        location = begun.location(
            provider.authorization, self._client.client_id, self._redirect_uri, self._scope
        )
        return _redirected(302, location, fields)

    def _login_name(self, of: str) -> str:
        return f"{self._box.names['t']}.{of}"

    def _logins(self, jar: dict[bytes, bytes]) -> list[str]:
        prefix = self._login_name("").encode()
        return [name.decode("latin-1") for name in jar if name.startswith(prefix)]

    async def _returned(self, request: Request, callback: Callback) -> Response:
        """Raises: RequestError."""
        name = self._login_name(callback.id)
        value = jar_of(request).get(name.encode())
        if value is None:
            raise failure(400, "missing transaction")
        ended = self._box.cleared(name)
        now = self._now_ns() // 10**9
        found = self._box.opened("t", name, value)
        login = None if found is None else Transaction.kept(found, now)
        if login is None:
            raise failure(400, "invalid transaction", *ended)
        if not is_same(login.csrf, callback.csrf):
            raise failure(400, "csrf mismatch", *ended)
        if callback.issuer not in ("", self._issuer):
            raise failure(400, "invalid callback", *ended)
        if callback.error:
            text = f"oidc provider returned callback error '{callback.shown_error}'"
            raise failure(400, text, *ended)
        try:
            fields = await self._begun(request, callback, login)
        except RequestError as problem:
            problem.headers += tuple(ended)
            raise
        return _redirected(302, login.target, [*fields, *ended])

    async def _begun(
        self, request: Request, callback: Callback, login: Transaction
    ) -> list[HeaderField]:
        """The cookies of a new session. Raises: RequestError."""
        provider = await self._provider()
        form = (
            ("grant_type", "authorization_code"),
            ("code", callback.code),
            ("redirect_uri", self._redirect_uri),
            ("code_verifier", login.verifier),
        )
        try:
            tokens = await self._client.exchange(provider, form, request)
            if not tokens.id_token:
                raise failure(500, "missing id token")
            now_ns = self._now_ns()
            claims = await self._id_tokens.fresh_claims(tokens.id_token, provider.keys, now_ns)
            if not is_same(claims.get("nonce"), login.nonce):
                raise failure(400, "nonce mismatch")
            return self._sessions.begun(tokens, claims)
        except ExchangeError as problem:
            _log.warning("a code of %s was not exchanged: %s", self._issuer, problem)
            raise failure(500, "token exchange failed") from problem
        except TokenError as problem:
            _log.warning("an ID token of %s is not accepted: %s", self._issuer, problem)
            raise failure(500, f"invalid id token: {problem}") from problem
        except CookieTooLargeError:
            text = "encoded browser session exceeds cookie size budget"
            raise failure(500, text) from None

    # --- going ----------------------------------------------------------------------------

    def _left(self, request: Request, logout: Logout) -> Response:
        """Raises: RequestError."""
        if request.method not in ("GET", "POST"):
            raise failure(405, "method not allowed", (b"allow", b"GET, POST"))
        # Another site's page must not end sessions.
        sites = request.headers.get_all(b"sec-fetch-site")
        origins = request.headers.get_all(b"origin")
        is_own = (
            origins == [self._origin.encode()]
            if not sites
            else len(sites) == 1 and (sites[0] in _OWN_SITE)
        )
        if not is_own:
            raise failure(400, "csrf mismatch")
        jar = jar_of(request)
        names = self._box.names
        fields = [
            field
            for name in (names["s"], names["r"], *self._logins(jar))
            for field in self._box.cleared(name, jar)
        ]
        return _redirected(303, self._farewell(logout, jar), fields)

    def _farewell(self, logout: Logout, jar: dict[bytes, bytes]) -> str:
        provider = self._source.current
        if provider is None or not provider.end_session:
            return logout.redirect
        query = {
            "client_id": self._client.client_id,
            "post_logout_redirect_uri": self._origin + logout.redirect,
        }
        token = self._sessions.token(jar)
        # A longer one would not fit into a URL, and the client's name says enough.
        if 0 < len(token) <= _MAX_HINT:
            query["id_token_hint"] = token
        return with_query(provider.end_session, query)


def _redirected(status: int, location: str, fields: list[HeaderField]) -> Response:
    # The address holds a code or a token: it must not go on to others, nor be kept.
    headers = Headers(
        ((b"location", location.encode()), _NO_STORE, (b"referrer-policy", b"no-referrer"))
    )
    headers += fields
    return Response(status, headers, reason=REASON)


# --- configuration ------------------------------------------------------------------------------


def _checked_logout(logout: Logout | None, callback_path: str) -> Logout | None:
    if logout is None:
        return None
    check_path(logout.path, "logout.path")
    if not logout.path.startswith("/") or logout.path == callback_path:
        raise ConfigError("logout.path", "expected a path of its own, such as `/logout`")
    if local_target(logout.redirect) != logout.redirect or "#" in logout.redirect:
        raise ConfigError("logout.redirect", "expected a path of this origin, such as `/bye`")
    return logout


def _source(config: Config, services: Services) -> ProviderSource:
    """Raises: ConfigError."""
    if config.jwks is not None:
        return _explicit(config, services)
    document = config.discovery
    if document is None or (isinstance(document, dict) and document.keys() == {"url"}):
        url = None if document is None else document["url"]
        if url is not None and endpoint_problem(url):
            raise ConfigError("discovery", endpoint_problem(url))
        return discovered(config.issuer, url, services)
    try:
        metadata = parse_document(document, config.issuer)
    except DocumentError as problem:
        raise ConfigError("discovery", str(problem)) from problem
    return given(metadata, None, services)


def _explicit(config: Config, services: Services) -> ProviderSource:
    assert config.jwks is not None
    for key, url in (
        ("authorizationEndpoint", config.authorization_endpoint),
        ("tokenEndpoint", config.token_endpoint),
        ("endSessionEndpoint", config.end_session_endpoint),
    ):
        problem = "" if url is None else endpoint_problem(url)
        if problem:
            raise ConfigError(key, problem)
    metadata = Metadata(
        config.authorization_endpoint or "",
        config.token_endpoint or "",
        "",
        config.end_session_endpoint or "",
        config.token_endpoint_auth or "clientSecretBasic",
    )
    return given(metadata, keys_of(config.jwks, services, "jwks"), services)


KIND = PolicyKind("oidc", Config, Oidc)
