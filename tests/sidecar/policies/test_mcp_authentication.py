"""mcpAuthentication: what is answered to everybody, who else comes in, and how one is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.http.message import Request, Response
from sidecar.policies.mcp_authentication import CHALLENGE
from sidecar.policies.order import make
from tests.sidecar.policies.test_remote_keys import Provider, answer
from tests.support.clock import HeldClock
from tests.support.issuer import NOW, claims, jwks, token
from tests.support.messages import request, services

ISSUER = "https://idp.example/realms/a"
HERE = "http://shop.example/.well-known/oauth-authorization-server/mcp"
BASE = {
    "issuer": ISSUER,
    "audiences": ["https://shop.example/mcp"],
    "resourceMetadata": {"scopesSupported": ["read", "write", "offline_access"]},
    "jwks": jwks("rsa"),
}
GOOD = token(claims(iss=ISSUER, aud="https://shop.example/mcp"))
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/auth",
    "token_endpoint": f"{ISSUER}/token",
}
CORS = b"*"


class Resolving:
    """Callouts that remember what they were asked for; every answer is the provider's."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.origins: list[str] = []

    def resolve(self, reference: Any, policies: Any, subtype: Any) -> Provider:
        self.origins.append(reference["host"])
        return self.provider


class Made:
    def __init__(self, *answers: Response | Exception, **more: Any) -> None:
        self.clock = HeldClock()
        self.clock.pass_seconds(NOW - self.clock.time_ns() / 1e9)
        self.provider = Provider(*answers)
        self.callouts = Resolving(self.provider)
        lent = replace(services(clock=self.clock), callouts=self.callouts)
        self.policy: Any = make("mcpAuthentication", {**BASE, **more}, lent)

    async def ask(self, asked: Request) -> Response | None:
        found = await self.policy.on_request(asked)
        assert found is None or isinstance(found, Response)
        return found

    async def get(self, target: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        found = await self.ask(request(method, target, names))
        assert found is not None
        assert found.headers.get(b"access-control-allow-origin") == CORS
        body = found.body.read_nowait()
        return found.status, orjson.loads(body) if body else None

    async def post(
        self, target: str, body: bytes, kind: str = "application/json"
    ) -> tuple[int, Any]:
        found = await self.ask(request("POST", target, {"content-type": kind}, body=body))
        assert found is not None
        assert found.headers.get(b"access-control-allow-origin") == CORS
        assert found.headers.get(b"cache-control") == b"no-store"
        return found.status, orjson.loads(found.body.read_nowait() or b"")


def bearer(text: str | None, target: str = "/mcp") -> Request:
    return request("POST", target, {} if text is None else {"authorization": f"Bearer {text}"})


# --- tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "absent", "bad"), [(None, 401, 401), ("optional", 0, 401), ("permissive", 0, 0)]
)
async def test_modes(mode: str | None, absent: int, bad: int) -> None:
    made = Made() if mode is None else Made(mode=mode)
    for text, expected in ((GOOD, 0), (None, absent), ("x", bad), (GOOD + "x", bad)):
        found = await made.ask(bearer(text))
        assert (0 if found is None else found.status) == expected


async def test_a_good_token() -> None:
    made, asked = Made(), bearer(GOOD)
    assert await made.ask(asked) is None
    assert asked.state["jwt"]["sub"] == "ada"  # type: ignore[index]
    assert not asked.headers.has(b"authorization")
    expected = 'resource_metadata="http://shop.example/.well-known/oauth-protected-resource/mcp"'
    assert asked.state[CHALLENGE] == expected


async def test_the_challenge() -> None:
    made = Made()
    metadata = 'resource_metadata="http://shop.example/.well-known/oauth-protected-resource/mcp"'
    for text, more in ((None, ""), ("x", ', error="invalid_token"')):
        found = await made.ask(bearer(text))
        assert found is not None
        value = found.headers.get(b"www-authenticate")
        assert value == f'Bearer {metadata}, scope="read write"{more}'.encode()
        assert found.headers.get(b"content-type") == b"application/json"
        assert orjson.loads(found.body.read_nowait() or b"") == {
            "error": "unauthorized",
            "error_description": "JWT token required",
        }
    plain = Made(resourceMetadata={"resource": "https://shop.example/mcp"})
    found = await plain.ask(bearer(None))
    assert found is not None
    assert found.headers.get(b"www-authenticate") == f"Bearer {metadata}".encode()


@pytest.mark.parametrize(
    ("target", "headers", "place"),
    [
        ("/", {}, "http://shop.example/.well-known/oauth-protected-resource"),
        ("/a/b?c=d", {}, "http://shop.example/.well-known/oauth-protected-resource/a/b"),
        ("/mcp", {"x-forwarded-proto": "https"}, "https://shop.example/.well-known/oauth-protected-resource/mcp"),
        ("/mcp", {"x-forwarded-proto": "javascript"}, "http://shop.example/.well-known/oauth-protected-resource/mcp"),
        ('/a"b', {}, "http://shop.example/.well-known/oauth-protected-resource/a%22b"),
        ("/a\\b", {}, "http://shop.example/.well-known/oauth-protected-resource/a%5Cb"),
    ],
)  # fmt: skip
async def test_the_place_of_the_metadata(target: str, headers: dict[str, str], place: str) -> None:
    found = await Made(resourceMetadata={}).ask(request("POST", target, headers))
    assert found is not None
    value = found.headers.get(b"www-authenticate")
    assert value == f'Bearer resource_metadata="{place}"'.encode()


async def test_derived_keys_are_asked_of_the_issuer() -> None:
    made = Made()
    lent = replace(services(clock=made.clock), callouts=made.callouts)
    assert make("mcpAuthentication", {**BASE, "jwks": None}, lent)
    assert made.callouts.origins[-5:] == ["https://idp.example"] * 5


# --- the protected resource ---------------------------------------------------------------------


async def test_resource_metadata() -> None:
    fields = {
        "scopesSupported": ["read"],
        "bearerMethodsSupported": ["header"],
        "resourceDocumentation": "https://docs.example",
        "x_custom": {"keepThis": 1},
    }
    made = Made(resourceMetadata=fields)
    expected = {
        "resource": "http://shop.example/mcp",
        "authorization_servers": [ISSUER],
        "mcp_protocol_version": "2025-06-18",
        "resource_type": "mcp-server",
        "scopes_supported": ["read"],
        "bearer_methods_supported": ["header"],
        "resource_documentation": "https://docs.example",
        "x_custom": {"keepThis": 1},
    }
    assert await made.get("/.well-known/oauth-protected-resource/mcp") == (200, expected)
    root = {**expected, "resource": "http://shop.example"}
    assert await made.get("/.well-known/oauth-protected-resource?x") == (200, root)
    secure = {**expected, "resource": "https://shop.example/mcp"}
    found = await made.get("/.well-known/oauth-protected-resource/mcp", x_forwarded_proto="https")
    assert found == (200, secure)


async def test_what_is_configured_goes_before_what_is_computed() -> None:
    fields = {"resource": "https://mcp.example/x", "authorizationServers": ["https://as.example"]}
    _, found = await Made(resourceMetadata=fields, provider={"keycloak": {}}).get(
        "/.well-known/oauth-protected-resource/mcp"
    )
    assert found["resource"] == "https://mcp.example/x"
    assert found["authorization_servers"] == ["https://as.example"]


async def test_with_a_provider_clients_are_sent_to_the_gateway() -> None:
    for more in ({"provider": {"keycloak": {}}}, {"clientId": "fixed"}):
        _, found = await Made(**more).get("/.well-known/oauth-protected-resource/mcp")
        assert found["authorization_servers"] == ["http://shop.example/mcp"]


@pytest.mark.parametrize("name", ["oauth-protected-resource", "oauth-authorization-server"])
async def test_methods(name: str) -> None:
    made = Made(answer(orjson.dumps(METADATA).decode()))
    found = await made.ask(request("OPTIONS", f"/.well-known/{name}/mcp"))
    assert found is not None
    assert (found.status, found.headers.get(b"access-control-allow-origin")) == (204, b"*")
    assert found.headers.get(b"access-control-allow-methods") == b"GET, OPTIONS"
    assert (await made.get(f"/.well-known/{name}/mcp", "POST"))[0] == 405
    assert (await made.get(f"/.well-known/{name}/mcp", "HEAD"))[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-protected-resources",
        "/.well-known/%6fauth-protected-resource",
        "/x/.well-known/oauth-protected-resource",
        "//.well-known/oauth-protected-resource",
        "/.WELL-KNOWN/oauth-protected-resource",
        "/mcp/client-registration",
        "/mcp/authorize",
        "/mcp/token",
    ],
)
async def test_nothing_else_is_for_everybody(path: str) -> None:
    found = await Made().ask(request("POST", path))
    assert found is not None
    assert found.status == 401


# --- the authorization server -------------------------------------------------------------------


async def test_metadata_is_fetched_once_and_kept() -> None:
    made = Made(answer(orjson.dumps(METADATA).decode()), UpstreamError(503, "x", "down"))
    both = await asyncio.gather(*(made.get(urlsplit(HERE).path) for _ in range(5)))
    assert both == [(200, METADATA)] * 5
    assert len(made.provider.asked) == 1
    # While the provider fails, what was known is served.
    made.clock.pass_seconds(901)
    assert await made.get(urlsplit(HERE).path) == (200, METADATA)
    assert len(made.provider.asked) == 2


async def test_metadata_is_looked_for_where_it_may_be() -> None:
    other = orjson.dumps({**METADATA, "issuer": "https://evil.example"}).decode()
    made = Made(
        answer("", 404), answer("<html>"), answer(other), answer(orjson.dumps(METADATA).decode())
    )
    assert await made.get(urlsplit(HERE).path) == (200, METADATA)
    assert [one.target for one in made.provider.asked] == [
        "/.well-known/oauth-authorization-server/realms/a",
        "/realms/a/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration/realms/a",
        "/realms/a/.well-known/openid-configuration",
    ]


async def test_a_provider_that_is_down_is_not_asked_for_each_request() -> None:
    down = UpstreamError(503, "UpstreamFailure", "connection refused")
    made = Made(down, answer(orjson.dumps(METADATA).decode()))
    for _ in range(5):
        status, found = await made.get(urlsplit(HERE).path)
        assert (status, found["error"]) == (503, "temporarily_unavailable")
    assert len(made.provider.asked) == 1
    made.clock.pass_seconds(6)
    assert (await made.get(urlsplit(HERE).path))[0] == 200


async def test_metadata_for_a_provider() -> None:
    made = Made(answer(orjson.dumps(METADATA).decode()), provider={"keycloak": {}})
    assert await made.get(urlsplit(HERE).path) == (
        200,
        {
            **METADATA,
            "issuer": "http://shop.example/mcp",
            "registration_endpoint": f"{HERE}/client-registration",
        },
    )


# --- registration -------------------------------------------------------------------------------

REGISTER = f"{urlsplit(HERE).path}/client-registration"


async def test_registration_with_a_fixed_client() -> None:
    made = Made(clientId="fixed")
    asked = orjson.dumps({"redirect_uris": ["http://localhost:1/cb"], "client_name": "x"})
    expected = {
        "client_id": "fixed",
        "client_id_issued_at": 0,
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code"],
        "response_types": ["code"],
        "redirect_uris": ["http://localhost:1/cb"],
    }
    for path in (REGISTER, "/mcp/client-registration"):
        assert await made.post(path, asked) == (201, expected)
    for body in (b"", b"[]", b"x", b"[" * 9999):
        assert (await made.post(REGISTER, body))[0] == 400
    for redirects in (None, "http://x", [1], {}):
        status, found = await made.post(REGISTER, orjson.dumps({"redirect_uris": redirects}))
        assert (status, found["error"]) == (400, "invalid_redirect_uri")
    assert (await made.post(REGISTER, b" " * 65_537))[0] == 413
    assert (await made.get(REGISTER))[0] == 405
    assert made.provider.asked == []


async def test_registration_at_the_provider() -> None:
    got = answer('{"client_id":"new"}', 201, content_type="application/json", set_cookie="a=b")
    made = Made(got, answer("x", 500), UpstreamError(503, "x", "down"), provider={"keycloak": {}})
    body = b'{"redirect_uris":["http://localhost/"]}'
    assert await made.post(REGISTER, body) == (201, {"client_id": "new"})
    (asked,) = made.provider.asked
    assert asked.target == "/realms/a/clients-registrations/openid-connect"
    assert asked.body.read_nowait() == body
    assert not asked.headers.has(b"authorization")
    for _ in range(2):
        assert (await made.post(REGISTER, body))[0] == 502


async def test_no_registration() -> None:
    assert (await Made().post(REGISTER, b"{}"))[0] == 404


# --- entra --------------------------------------------------------------------------------------

TENANT = "https://login.microsoftonline.com/t-1/v2.0"
ENTRA = {"issuer": TENANT, "provider": {"entra": {}}, "clientId": "app", "clientSecret": "s3cr3t"}
FORM = "application/x-www-form-urlencoded"


async def test_login_at_entra() -> None:
    made = Made(**ENTRA)
    path = f"{urlsplit(HERE).path}/authorize?client_id=app&resource=https%3A%2F%2Fx&state=a%26b"
    found = await made.ask(request("GET", path))
    assert found is not None
    assert found.status == 302
    location = urlsplit((found.headers.get(b"location") or b"").decode())
    assert location.netloc + location.path == "login.microsoftonline.com/t-1/oauth2/v2.0/authorize"
    assert parse_qs(location.query) == {"client_id": ["app"], "state": ["a&b"]}
    with pytest.raises(RequestError):
        await made.ask(request("GET", f"{urlsplit(HERE).path}/authorize?{'a&' * 300}"))


@pytest.mark.parametrize(
    ("form", "has_secret"),
    [
        ("grant_type=authorization_code&client_id=app&code=c&resource=x", True),
        ("grant_type=refresh_token&client_id=app&refresh_token=r", True),
        ("grant_type=client_credentials&client_id=app", False),
        ("grant_type=authorization_code&client_id=other&code=c", False),
        ("grant_type=authorization_code&code=c", False),
    ],
)
async def test_tokens_of_entra(form: str, has_secret: bool) -> None:
    made = Made(answer('{"access_token":"t"}'), **ENTRA)
    got = await made.post(f"{urlsplit(HERE).path}/token", form.encode(), FORM)
    assert got == (200, {"access_token": "t"})
    (asked,) = made.provider.asked
    assert asked.target == "/t-1/oauth2/v2.0/token"
    sent = parse_qs((asked.body.read_nowait() or b"").decode())
    assert sent.get("client_secret") == (["s3cr3t"] if has_secret else None)
    assert "resource" not in sent


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}", "application/json"),
        (b"grant_type=authorization_code&client_id=app&client_id=other", FORM),
        (b"a=\xff", FORM),
    ],
)
async def test_forms_that_are_none(body: bytes, kind: str) -> None:
    made = Made(**ENTRA)
    status, found = await made.post(f"{urlsplit(HERE).path}/token", body, kind)
    assert (status, found["error"]) == (400, "invalid_request")
    assert (await made.get(f"{urlsplit(HERE).path}/token"))[0] == 405


# --- configurations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"issuer": "agentgateway.dev"}, "issuer"),
        ({"audiences": []}, "audiences"),
        ({"resourceMetadata": None}, "resourceMetadata"),
        ({"resourceMetadata": {"resource": "mcp"}}, "resourceMetadata.resource"),
        ({"resourceMetadata": {"scopesSupported": "read"}}, "resourceMetadata.scopesSupported"),
        ({"resourceMetadata": {"scopesSupported": ['a"b']}}, "resourceMetadata.scopesSupported"),
        (
            {"resourceMetadata": {"authorizationServers": []}},
            "resourceMetadata.authorizationServers",
        ),
        ({"resourceMetadata": {"scopesSupported": [], "scopes_supported": []}}, "resourceMetadata"),
        ({"provider": {}}, "provider"),
        ({"provider": {"auth0": {}, "okta": {}}}, "provider"),
        ({"provider": {"ping": {}}}, "provider.ping"),
        ({"clientSecret": "x"}, "clientSecret"),
        ({"clientSecret": "x", "clientId": "c"}, "clientSecret"),
        ({"clientSecret": "x", "provider": {"entra": {}}, "issuer": TENANT}, "clientSecret"),
        ({"jwks": "x"}, "jwks"),
        ({"authorizationLocation": {"cookie": {"name": ""}}}, "authorizationLocation.cookie.name"),
        ({"mode": "lax"}, "mode"),
    ],
)
def test_refused_configurations(change: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make("mcpAuthentication", {**BASE, **change}, services())
    assert caught.value.path == f"mcpAuthentication.{path}"
