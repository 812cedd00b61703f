"""The official Python SDK logs in: discovery, registration, PKCE, tokens and step-up, by itself.

The identity provider is shaped like Keycloak, and gives tokens for the scopes it is asked for.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider, TokenStorage
from mcp.client.session import ClientSession
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.issuer import claims, jwks, token
from tests.support.mcp_server import McpServer, mcp_config
from tests.support.upstream import Answer, Seen, Upstream

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
JSON = ("content-type", "application/json")
BACK = "http://127.0.0.1:1/callback"


class Realm:
    """Login, registration and tokens; checks PKCE as a provider does."""

    def __init__(self) -> None:
        self.upstream = Upstream(self.answer)
        self.issuer = f"http://{self.upstream.address}/realms/mcp"
        self.logins: list[dict[str, str]] = []
        self.jwks = jwks("rsa")
        self.names_itself = False

    def login(self, url: str) -> AuthorizationCodeResult:
        """What a user's browser does."""
        assert url.startswith(f"{self.issuer}/protocol/openid-connect/auth?")
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert (asked["client_id"], asked["code_challenge_method"]) == ("made", "S256")
        self.logins.append(asked)
        # RFC 9207: newer ones name themselves.
        who = self.issuer if self.names_itself else None
        return AuthorizationCodeResult(code=str(len(self.logins)), state=asked["state"], iss=who)

    def answer(self, seen: Seen) -> Answer:
        below = seen.target.removeprefix("/realms/mcp")
        if below == "/protocol/openid-connect/certs":
            return Answer(200, [JSON], self.jwks.encode())
        if below == "/protocol/openid-connect/token":
            return self.token({k: v[0] for k, v in parse_qs(seen.body.decode()).items()})
        if below == "/clients-registrations/openid-connect":
            made = {**json.loads(seen.body), "client_id": "made"}
            return Answer(201, [JSON], json.dumps(made).encode())
        if below == "/.well-known/openid-configuration":
            return Answer(200, [JSON], json.dumps(self.metadata()).encode())
        return Answer(404)

    def token(self, form: dict[str, str]) -> Answer:
        asked = self.logins[int(form["code"]) - 1]
        digest = sha256(form["code_verifier"].encode()).digest()
        assert urlsafe_b64encode(digest).decode().rstrip("=") == asked["code_challenge"]
        made = claims(
            iss=self.issuer, aud=form["resource"], exp=time.time() + 600, scope=asked["scope"]
        )
        text = {"access_token": token(made), "token_type": "Bearer", "scope": asked["scope"]}
        return Answer(200, [JSON], json.dumps(text).encode())

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/protocol/openid-connect/auth",
            "token_endpoint": f"{self.issuer}/protocol/openid-connect/token",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_post"],
            "authorization_response_iss_parameter_supported": self.names_itself,
            "registration_endpoint": f"{self.issuer}/clients-registrations/openid-connect",
        }


class Memory(TokenStorage):
    """What the client keeps."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Realm, dict[str, str]]]:
    """The provider, and the URLs of one resource behind the gateway's front and of one beside."""
    ports = dict(zip(("fronted", "direct"), free_ports(2), strict=True))
    urls = {name: f"http://127.0.0.1:{port}/mcp" for name, port in ports.items()}
    realm = Realm()
    with realm.upstream, Upstream(McpServer()) as upstream:
        binds: list[Any] = []
        for name, port in ports.items():
            resource: dict[str, Any] = {"scopesSupported": ["read"]}
            if name == "direct":
                resource["authorizationServers"] = [realm.issuer]
            policies = {
                "mcpAuthentication": {
                    "issuer": realm.issuer,
                    "audiences": [urls[name]],
                    "provider": {"keycloak": {}},
                    "resourceMetadata": resource,
                },
                "mcpAuthorization": {
                    "rules": [
                        'mcp.tool.name == "echo"',
                        {"allow": 'mcp.tool.name == "stream"', "requiredScope": "write"},
                    ]
                },
            }
            binds += mcp_config(port, ("one", upstream.address), policies=policies)["binds"]
        with GatewayProcess({"binds": binds}, workers=2):
            yield realm, urls


@pytest.mark.parametrize("name", ["fronted", "direct"])
async def test_login_and_step_up(place: tuple[Realm, dict[str, str]], name: str) -> None:
    realm, urls = place
    realm.names_itself = name == "direct"
    realm.logins.clear()
    places: list[str] = []

    async def redirect(to: str) -> None:
        places.append(to)

    async def come_back() -> AuthorizationCodeResult:
        return realm.login(places[-1])

    wanted = OAuthClientMetadata(client_name="test", redirect_uris=[AnyUrl(BACK)])
    auth = OAuthClientProvider(urls[name], wanted, Memory(), redirect, come_back)
    async with (
        create_mcp_http_client(auth=auth) as http,
        streamable_http_client(urls[name], http_client=http) as (read, write),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        assert [login["scope"] for login in realm.logins] == ["read"]
        assert realm.logins[0]["resource"] == urls[name]
        tools = await session.list_tools()
        assert sorted(tool.name for tool in tools.tools) == ["echo", "stream"]
        found = await session.call_tool("echo", {"a": 1})
        assert not found.is_error
        # It lacks a scope, asks for it, and calls again.
        found = await session.call_tool("stream", {})
        assert not found.is_error
        assert any("write" in login["scope"].split() for login in realm.logins)
