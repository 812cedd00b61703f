"""What the gateway itself answers to MCP clients that look for where to log in.

Source: RFC 9728 (protected resource metadata); RFC 8414; RFC 7591; spec/config.md section 6.5;
spec/mcp_a2a.md sections 1.5 and 2.9.

These answers are for everybody, so nothing in them comes from anywhere but the configuration, the
provider and the request's own URL, and what they fetch is kept: nobody can make the gateway ask the
provider for each request.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, final
from urllib.parse import parse_qsl, quote, urlencode

import orjson

from sidecar.errors import BodyTooLarge, RequestError, SidecarError
from sidecar.http.headers import Field, Headers
from sidecar.http.message import FixedBody, Request, Response, read_all
from sidecar.policies.callouts import Callout, outgoing
from sidecar.policies.mcp_providers import Provider, Urls

RESOURCE: Final = "/.well-known/oauth-protected-resource"
SERVER: Final = "/.well-known/oauth-authorization-server"
_REGISTRATION: Final = "/client-registration"
_REASON: Final = "JwtAuth"
_TIMEOUT_SECONDS: Final = 10.0
_BODY_SECONDS: Final = 10.0
_BODY_BYTES: Final = 64 * 1024
_MAX_FIELDS: Final = 200
_ANSWER_BYTES: Final = 256 * 1024
_KEPT_NS: Final = 900 * 1_000_000_000
_FAILED_NS: Final = 5 * 1_000_000_000
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SCHEMES: Final = {b"http": "http", b"https": "https"}
_CORS: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-headers", b"content-type, authorization, mcp-protocol-version"),
)
_JSON: Final = (b"content-type", b"application/json")
_NO_STORE: Final = (b"cache-control", b"no-store")
_FORM: Final = b"application/x-www-form-urlencoded"
_NAMES_ITSELF: Final = "authorization_response_iss_parameter_supported"
_SECRET_GRANTS: Final = frozenset(("authorization_code", "refresh_token"))
_log: Final = logging.getLogger("sidecar.policies.mcp_metadata")


def snake_case(name: str) -> str:
    """`scopesSupported` as `scopes_supported`."""
    return _HUMP.sub("_", name).lower()


def base_of(request: Request) -> str:
    """Scheme and authority as the client wrote them, in front of whom TLS may have ended."""
    given = request.headers.get_all(b"x-forwarded-proto")
    scheme = _SCHEMES.get(given[0].strip().lower()) if len(given) == 1 else None
    return f"{scheme or request.scheme}://{request.received_authority}"


def suffix_of(path: str) -> str:
    """A path as it stands behind a well-known one, fit for a header's quoted text."""
    return "" if path == "/" else quote(path, safe="/%:@!$&'()*+,;=~-._")


def document(value: object, status: int = 200, *more: tuple[bytes, bytes]) -> Response:
    """JSON that pages of any origin may read."""
    return _response(status, (_JSON, *_CORS, *more), orjson.dumps(value))


def _response(status: int, fields: Iterable[Field], body: bytes = b"") -> Response:
    return Response(status, Headers(fields), FixedBody(body), reason="DirectResponse")


def _problem(status: int, code: str, text: str) -> Response:
    """An error as OAuth has them (RFC 6749 section 5.2)."""
    made = document({"error": code, "error_description": text}, status, _NO_STORE)
    made.error, made.reason = text, _REASON
    return made


@final
class MetadataSource:
    """The provider's metadata, kept for a quarter of an hour. `places`: of several, the first."""

    __slots__ = ("_due_ns", "_found", "_lock", "_now_ns", "_places", "_provider")

    def __init__(
        self,
        provider: Provider,
        places: Sequence[tuple[str, Callout]],
        now_ns: Callable[[], int],
    ) -> None:
        self._provider = provider
        self._places = tuple(places)
        self._now_ns = now_ns
        self._found: dict[str, Any] | None = None
        self._due_ns = 0
        self._lock: asyncio.Lock | None = None

    async def get(self, request: Request) -> Mapping[str, Any] | None:
        """The metadata; that of before while the provider fails; None when there was none."""
        if self._now_ns() < self._due_ns:
            return self._found
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            # Whoever waited finds what the one before fetched.
            if self._now_ns() >= self._due_ns:
                fresh = await self._fetched(request)
                self._found = fresh or self._found
                self._due_ns = self._now_ns() + (_FAILED_NS if fresh is None else _KEPT_NS)
        return self._found

    async def _fetched(self, request: Request) -> dict[str, Any] | None:
        reason = "no address"
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                for target, callout in self._places:
                    found = await self._at(target, callout, request)
                    if isinstance(found, dict):
                        return found
                    reason = found
        except TimeoutError:
            reason = "timed out"
        except SidecarError as problem:
            reason = str(problem)
        _log.warning("metadata of the authorization server cannot be had: %s", reason)
        return None

    async def _at(self, target: str, callout: Callout, request: Request) -> dict[str, Any] | str:
        """The metadata at one place, or why there is none."""
        headers = Headers(((b"accept", b"application/json"), (b"accept-encoding", b"identity")))
        asked = outgoing("GET", target, headers, b"", of=request)
        response = await callout.send(asked, _TIMEOUT_SECONDS, _ANSWER_BYTES)
        if response.status != 200:
            return f"status {response.status} at {target}"
        try:
            found = orjson.loads(response.body.read_nowait() or b"")
        except orjson.JSONDecodeError:
            return f"no JSON at {target}"
        if not isinstance(found, dict) or not self._provider.is_issuer(found.get("issuer")):
            # RFC 8414 section 3.3: another's metadata would lead clients to that other.
            return f"the metadata at {target} is another issuer's"
        if self._provider.is_fronted and found.get(_NAMES_ITSELF) is True:
            _log.warning(
                "%s names itself after logins (RFC 9207): clients that compare that with the"
                " gateway's URL refuse it; resourceMetadata.authorizationServers can send them"
                " there",
                found["issuer"],
            )
        return found


@final
class Endpoints:
    """Everything that is served at well-known paths of one MCP resource."""

    __slots__ = (
        "_client",
        "_fields",
        "_metadata",
        "_provider",
        "_registration",
        "_secret",
        "_server",
        "_token",
    )

    def __init__(
        self,
        provider: Provider,
        metadata: MetadataSource,
        fields: Mapping[str, Any],
        client: tuple[str | None, str | None],
        registration: tuple[str, Callout] | None,
        token: tuple[str, Callout] | None,
        issuer: str,
    ) -> None:
        """`fields`: of the resource, as configured. `client`: id and secret."""
        self._provider = provider
        self._metadata = metadata
        self._fields = {snake_case(name): value for name, value in fields.items()}
        self._client, self._secret = client
        self._registration = registration
        self._token = token
        self._server = issuer

    async def answer(self, request: Request) -> Response | None:
        """The answer when the request is for one of these; None when it is for the resource."""
        path = request.path
        for prefix in (RESOURCE, SERVER):
            if path == prefix or path.startswith(f"{prefix}/"):
                return await self._well_known(request, prefix, path.removeprefix(prefix))
        has_registration = self._client is not None or self._registration is not None
        if has_registration and path.endswith(_REGISTRATION):
            return await self._below(request, path.removesuffix(_REGISTRATION), _REGISTRATION)
        return None

    async def _well_known(self, request: Request, prefix: str, suffix: str) -> Response:
        if prefix == SERVER:
            for last in (_REGISTRATION, "/authorize", "/token"):
                if suffix.endswith(last) and (last == _REGISTRATION or self._provider.is_entra):
                    return await self._below(request, suffix.removesuffix(last), last)
        refusal = _not_for(request, "GET")
        if refusal is not None:
            return refusal
        base, suffix = base_of(request), suffix_of(suffix)
        if prefix == RESOURCE:
            return document(self._resource(base + suffix))
        found = await self._metadata.get(request)
        if found is None:
            text = "the metadata of the authorization server cannot be had"
            return _problem(503, "temporarily_unavailable", text)
        urls = Urls(base + suffix, f"{base}{SERVER}{suffix}")
        return document(self._provider.adapted(found, urls))

    def _resource(self, here: str) -> dict[str, Any]:
        """RFC 9728 section 2."""
        return {
            "resource": here,
            "authorization_servers": [here if self._provider.is_fronted else self._server],
            "mcp_protocol_version": "2025-06-18",
            "resource_type": "mcp-server",
            **self._fields,
        }

    async def _below(self, request: Request, suffix: str, name: str) -> Response:
        refusal = _not_for(request, "GET" if name == "/authorize" else "POST")
        if refusal is not None:
            return refusal
        if name == "/authorize":
            return self._login(request)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await read_all(request.body, _BODY_BYTES)
        except BodyTooLarge:
            return _problem(413, "invalid_request", f"larger than {_BODY_BYTES} bytes")
        except TimeoutError:
            return _problem(408, "invalid_request", "the body did not come")
        if name == "/token":
            return await self._tokens(request, body)
        return await self._registered(request, body)

    # --- registration (RFC 7591) ----------------------------------------------------------

    async def _registered(self, request: Request, body: bytes) -> Response:
        if self._client is None and self._registration is None:
            return _problem(404, "invalid_request", "clients are not registered here")
        try:
            asked = orjson.loads(body)
        except orjson.JSONDecodeError:
            asked = None
        if not isinstance(asked, dict):
            return _problem(400, "invalid_client_metadata", "a JSON object is needed")
        if self._client is not None:
            return _fixed_client(self._client, asked)
        assert self._registration is not None
        return await self._relayed(request, self._registration, b"application/json", body)

    async def _relayed(
        self, request: Request, place: tuple[str, Callout], kind: bytes, body: bytes
    ) -> Response:
        """The provider's answer, in its own words, for pages of any origin."""
        target, callout = place
        headers = Headers(
            (
                *((b"accept", b"application/json"), (b"accept-encoding", b"identity")),
                *((b"content-type", kind), (b"content-length", b"%d" % len(body))),
            )
        )
        asked = outgoing("POST", target, headers, body, of=request)
        try:
            got = await callout.send(asked, _TIMEOUT_SECONDS, _ANSWER_BYTES)
        except SidecarError as problem:
            _log.warning("the authorization server cannot be reached: %s", problem)
            return _problem(502, "temporarily_unavailable", "the provider cannot be reached")
        if not (200 <= got.status < 300 or 400 <= got.status < 500):
            return _problem(502, "temporarily_unavailable", "the provider failed")
        answer = got.body.read_nowait() or b""
        given = got.headers.get(b"content-type") or b"application/json"
        return _response(got.status, ((b"content-type", given), *_CORS, _NO_STORE), answer)

    # --- entra ----------------------------------------------------------------------------

    def _login(self, request: Request) -> Response:
        """Send the user on, without `resource`, which it refuses beside its scopes."""
        query = [one for one in _pairs(request.query) if one[0] != "resource"]
        location = f"{self._provider.authorize_url()}?{urlencode(query)}"
        return _response(302, ((b"location", location.encode("ascii")), *_CORS, _NO_STORE))

    async def _tokens(self, request: Request, body: bytes) -> Response:
        kind = (request.headers.get(b"content-type") or b"").partition(b";")[0].strip().lower()
        if kind != _FORM or not body.isascii():
            return _problem(400, "invalid_request", "a form is needed")
        form = [one for one in _pairs(body.decode()) if one[0] != "resource"]
        names = [name for name, _ in form]
        if len(set(names)) != len(names):
            return _problem(400, "invalid_request", "a parameter stands twice")
        given = dict(form)
        is_ours = self._client is not None and given.get("client_id") == self._client
        if self._secret and is_ours and given.get("grant_type") in _SECRET_GRANTS:
            given["client_secret"] = self._secret
        assert self._token is not None
        return await self._relayed(request, self._token, _FORM, urlencode(given).encode())


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise RequestError(400, _REASON, "too many parameters") from None


def _not_for(request: Request, method: str) -> Response | None:
    """The answer to a preflight, or to what is no request for this endpoint."""
    allowed = f"{method}, OPTIONS".encode()
    if request.method == "OPTIONS":
        fields = ((b"access-control-allow-methods", allowed), (b"access-control-max-age", b"86400"))
        return _response(204, (*_CORS, *fields))
    if request.method == method or (method == "GET" and request.method == "HEAD"):
        return None
    made = _problem(405, "invalid_request", "method not allowed")
    made.headers.append((b"allow", allowed))
    return made


def _fixed_client(client: str, asked: Mapping[str, Any]) -> Response:
    """A registration that gives everybody the one client there is (no secret with it)."""
    redirects = asked.get("redirect_uris")
    if not isinstance(redirects, list) or not all(isinstance(one, str) for one in redirects):
        return _problem(400, "invalid_redirect_uri", "`redirect_uris` must be a list of texts")
    made = {
        "client_id": client,
        "client_id_issued_at": 0,
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code"],
        "response_types": ["code"],
        "redirect_uris": redirects,
    }
    return document(made, 201, _NO_STORE)
