"""mcpAuthentication of a real gateway, with an identity provider shaped like Keycloak, over TLS.

Source: spec/config.md section 6.5; spec/mcp_a2a.md sections 1.5 and 2.9.
"""

from __future__ import annotations

import json
import re
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.authority import Authority
from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.issuer import claims, jwks, token
from tests.support.mcp_server import McpClient, McpServer, messages
from tests.support.upstream import Answer, Seen, Upstream

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy/examples/mcp-authentication.yaml"
AUDIENCE = "https://mcp.example.com/mcp"
JSON = ("content-type", "application/json")


class Keycloak:
    """One realm: keys, metadata and registration where Keycloak has them."""

    def __init__(self, folder: Path) -> None:
        authority = Authority()
        (folder / "idp.pem").write_bytes(authority.issue(["127.0.0.1"]).any())
        (folder / "root.pem").write_text(authority.root)
        self.root = str(folder / "root.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "idp.pem")
        self.upstream = Upstream(self.answer, tls=context)
        self.issuer = f"https://{self.upstream.address}/realms/mcp"

    def answer(self, seen: Seen) -> Answer:
        below = seen.target.removeprefix("/realms/mcp")
        if below == "/protocol/openid-connect/certs":
            return Answer(200, [JSON], jwks("rsa").encode())
        if below == "/.well-known/openid-configuration":
            return Answer(200, [JSON], json.dumps(self.metadata()).encode())
        if below == "/clients-registrations/openid-connect" and seen.method == "POST":
            made = {"client_id": "made", **json.loads(seen.body)}
            return Answer(201, [JSON], json.dumps(made).encode())
        return Answer(404)

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/protocol/openid-connect/auth",
            "token_endpoint": f"{self.issuer}/protocol/openid-connect/token",
            "registration_endpoint": f"{self.issuer}/clients-registrations/openid-connect",
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }

    def token(self, **changes: Any) -> str:
        good = {"iss": self.issuer, "aud": AUDIENCE, "exp": time.time() + 600, "scope": "read"}
        return token(claims(**{**good, **changes}))


class Running:
    def __init__(self, port: int, idp: Keycloak, server: McpServer, upstream: Upstream) -> None:
        self.port = port
        self.idp = idp
        self.server = server
        self.upstream = upstream

    def client(self, **changes: Any) -> McpClient:
        return McpClient(
            self.port, headers={"authorization": f"Bearer {self.idp.token(**changes)}"}
        )

    def get(self, path: str, method: str = "GET", **more: Any) -> Got:
        return fetch(self.port, path, method, host="localhost", **more)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    (port,) = free_ports(1)
    server = McpServer()
    with tempfile.TemporaryDirectory() as name:
        idp = Keycloak(Path(name))
        config = yaml.safe_load(EXAMPLE.read_text())
        mcp = config["mcp"]
        mcp["port"] = port
        mcp["policies"]["mcpAuthentication"]["issuer"] = idp.issuer
        with idp.upstream, Upstream(server) as upstream:
            mcp["targets"][0]["mcp"]["host"] = f"http://{upstream.address}/mcp"
            with GatewayProcess(config, workers=2, env={"SSL_CERT_FILE": idp.root}):
                yield Running(port, idp, server, upstream)


def test_a_client_finds_its_way(running: Running) -> None:
    """As the protocol has it: 401 → resource → authorization server → registration."""
    got = McpClient(running.port).post({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    assert got.status == 401
    assert json.loads(got.body) == {
        "error": "unauthorized",
        "error_description": "JWT token required",
    }
    challenge = got.get("www-authenticate") or ""
    assert 'scope="read"' in challenge
    place = re.search(r'resource_metadata="http://localhost(/[^"]*)"', challenge)
    assert place is not None
    assert place[1] == "/.well-known/oauth-protected-resource/mcp"
    resource = json.loads(running.get(place[1]).body)
    assert resource["resource"] == AUDIENCE
    assert resource["authorization_servers"] == ["http://localhost/mcp"]
    page = running.get(place[1], headers={"origin": "https://app.example"})
    assert page.get("access-control-allow-origin") in ("*", "https://app.example")
    metadata = running.get("/.well-known/oauth-authorization-server/mcp")
    assert metadata.status == 200
    found = json.loads(metadata.body)
    assert found["issuer"] == "http://localhost/mcp"
    assert found["authorization_endpoint"].startswith(running.idp.issuer)
    assert "authorization_response_iss_parameter_supported" not in found
    register = found["registration_endpoint"].removeprefix("http://localhost")
    body = json.dumps({"redirect_uris": ["http://localhost:1/"]}).encode()
    made = running.get(register, "POST", headers=[JSON], body=body)
    assert (made.status, json.loads(made.body)["client_id"]) == (201, "made")


def test_tokens(running: Running) -> None:
    client = running.client()
    client.initialize()
    assert client.text("echo", a=1) == 'one: echo {"a": 1}'
    # The client's token is for the gateway, and goes no further.
    assert all(seen.get("authorization") is None for seen in running.upstream.seen)
    session = client.session
    for headers, invalid in (
        ({}, False),
        ({"authorization": "Bearer x"}, True),
        ({"authorization": f"Bearer {running.idp.token(aud='other')}"}, True),
        ({"authorization": f"Bearer {running.idp.token(exp=1)}"}, True),
    ):
        stranger = McpClient(running.port, session=session, headers=headers)
        got = stranger.request("ping")
        assert got.status == 401
        assert ('error="invalid_token"' in (got.get("www-authenticate") or "")) is invalid
    # The session belongs to who began it.
    other = running.client(sub="eve")
    other.session = session
    assert other.request("ping").status == 404


def test_a_scope_that_is_missing(running: Running) -> None:
    client = running.client()
    client.initialize()
    names = [tool["name"] for tool in client.result("tools/list")["tools"]]
    assert sorted(names) == ["echo", "stream"]
    got = client.request("tools/call", name="stream", arguments={})
    assert got.status == 403
    challenge = got.get("www-authenticate") or ""
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="write"' in challenge
    assert "/.well-known/oauth-protected-resource/mcp" in challenge
    stronger = running.client(scope="read write")
    stronger.initialize()
    last = messages(stronger.request("tools/call", name="stream", arguments={}))[-1]
    assert "result" in last


def test_passthrough_of_a_token_that_was_verified(running: Running) -> None:
    (port,) = free_ports(1)
    auth = {
        "issuer": running.idp.issuer,
        "audiences": [AUDIENCE],
        "resourceMetadata": {},
        "jwks": json.loads(jwks("rsa")),
    }
    target = {"name": "one", "mcp": {"host": f"http://{running.upstream.address}/mcp"}}
    config = {
        "mcp": {
            "port": port,
            "policies": {"mcpAuthentication": auth, "backendAuth": {"passthrough": {}}},
            "targets": [target],
        }
    }
    with GatewayProcess(config, workers=1):
        text = running.idp.token()
        client = McpClient(port, headers={"authorization": f"Bearer {text}"})
        client.initialize()
        assert client.text("auth") == f"Bearer {text}"
