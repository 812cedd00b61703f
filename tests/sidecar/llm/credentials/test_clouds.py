"""Tokens of Google, Microsoft and Copilot, from token endpoints on this machine and from files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sidecar.errors import ConfigError
from sidecar.llm.credentials import azure, copilot, gcp, http
from sidecar.llm.credentials.base import CredentialError


class Endpoint:
    """A token endpoint: answers what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.answer: bytes = orjson.dumps({"access_token": "tok", "expires_in": 3600})
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                endpoint.asked.append((self.path, headers, self.rfile.read(length)))
                self.send_response(endpoint.status)
                self.send_header("content-length", str(len(endpoint.answer)))
                self.send_header("location", "/elsewhere")
                self.end_headers()
                self.wfile.write(endpoint.answer)

            do_GET = do_POST  # noqa: N815 - the base class's naming

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the test says what it wants to know."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.asked[-1][2].decode())


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


SCOPE = "https://ai.azure.com/.default"


def test_an_application_secret(endpoint: Endpoint) -> None:
    found = azure.client_secret("ten/ant", "client", "sec", SCOPE, endpoint.url)()
    assert found == ("tok", 3300.0, 3590.0)
    assert endpoint.asked[0][0] == "/ten%2Fant/oauth2/v2.0/token"
    assert endpoint.form() == {
        "grant_type": ["client_credentials"],
        "scope": [SCOPE],
        "client_id": ["client"],
        "client_secret": ["sec"],
    }


def test_a_workload_identity(endpoint: Endpoint, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("assertion\n")
    environment = {
        "AZURE_FEDERATED_TOKEN_FILE": str(file),
        "AZURE_CLIENT_ID": "client",
        "AZURE_TENANT_ID": "tenant",
        "AZURE_AUTHORITY_HOST": f"{endpoint.url}/",
    }
    for fetch in (azure.workload_identity(SCOPE, environment), azure.implicit(SCOPE, environment)):
        assert fetch().value == "tok"
        assert endpoint.form()["client_assertion"] == ["assertion"]


def test_a_managed_identity_of_app_service(endpoint: Endpoint) -> None:
    environment = {"IDENTITY_ENDPOINT": f"{endpoint.url}/msi", "IDENTITY_HEADER": "h"}
    azure.managed_identity(SCOPE, {"clientId": "c"}, environment)()
    target, headers, _ = endpoint.asked[0]
    assert urlsplit(target).path == "/msi"
    assert parse_qs(urlsplit(target).query) == {
        "api-version": ["2019-08-01"],
        "resource": ["https://ai.azure.com"],
        "client_id": ["c"],
    }
    assert headers["x-identity-header"] == "h"


def test_the_environments_secret_comes_first(endpoint: Endpoint) -> None:
    environment = {
        "AZURE_TENANT_ID": "t",
        "AZURE_CLIENT_ID": "c",
        "AZURE_CLIENT_SECRET": "s",
        "AZURE_AUTHORITY_HOST": endpoint.url,
        "IDENTITY_ENDPOINT": "http://127.0.0.1:1",
        "IDENTITY_HEADER": "h",
    }
    assert azure.implicit(SCOPE, environment)().value == "tok"


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (401, b"{}"),
        (302, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"access_token":1}'),
        (200, b'{"access_token":"a\\r\\nb"}'),
        (200, b'{"access_token":"a","expires_in":"soon"}'),
        (200, b" " * (1024 * 1024 + 1)),
    ],
)
def test_answers_without_a_token(endpoint: Endpoint, status: int, answer: bytes) -> None:
    endpoint.status, endpoint.answer = status, answer
    with pytest.raises(CredentialError) as caught:
        azure.client_secret("t", "c", "s3cr3t", SCOPE, endpoint.url)()
    assert "s3cr3t" not in str(caught.value)
    assert len(endpoint.asked) == 1


def test_an_endpoint_that_is_not_there() -> None:
    with pytest.raises(CredentialError, match="ConnectError"):
        http.send("GET", "http://127.0.0.1:1/x?secret=1", direct=True)


def test_a_workload_without_identity() -> None:
    with pytest.raises(CredentialError):
        azure.workload_identity(SCOPE, {})()
    environment = {
        "AZURE_FEDERATED_TOKEN_FILE": "/nonexistent/token",
        "AZURE_CLIENT_ID": "c",
        "AZURE_TENANT_ID": "t",
    }
    with pytest.raises(CredentialError, match="FileNotFoundError"):
        azure.workload_identity(SCOPE, environment)()


def test_a_developers_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "az"
    until = int(time.time()) + 3600
    tool.write_text(f'#!/bin/sh\necho \'{{"accessToken":"dev","expires_on":{until}}}\'\n')
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert azure.developer(SCOPE)().value == "dev"
    tool.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(CredentialError, match="CalledProcessError"):
        azure.developer(SCOPE)()


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def service_account(endpoint: Endpoint, key: str) -> dict[str, str]:
    return {
        "type": "service_account",
        "client_email": "gateway@project.iam.gserviceaccount.com",
        "private_key": key,
        "private_key_id": "k1",
        "token_uri": f"{endpoint.url}/token",
        "project_id": "project",
    }


def test_a_google_service_account(endpoint: Endpoint, private_key: str) -> None:
    found = gcp.access_token(service_account(endpoint, private_key))()
    assert found.value == "tok"
    assert 3200 < found.fresh_seconds < 3400
    assert endpoint.form()["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]


def test_a_google_identity_token(endpoint: Endpoint, private_key: str) -> None:
    # google-auth reads the expiry from the token's claims without checking its signature.
    claims = b"eyJleHAiOjQxMDI0NDQ4MDB9"
    endpoint.answer = orjson.dumps({"id_token": f"eyJhbGciOiJub25lIn0.{claims.decode()}.c2ln"})
    found = gcp.identity_token("https://svc", service_account(endpoint, private_key))()
    assert found.value.endswith(".c2ln")


def test_application_default_credentials(
    endpoint: Endpoint, private_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "adc.json"
    file.write_bytes(orjson.dumps(service_account(endpoint, private_key)))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    assert gcp.access_token()().value == "tok"


def test_a_google_refusal(endpoint: Endpoint, private_key: str) -> None:
    endpoint.status, endpoint.answer = 400, b'{"error":"invalid_grant"}'
    with pytest.raises(CredentialError, match="RefreshError"):
        gcp.access_token(service_account(endpoint, private_key))()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"type":1}', "s3cr3t"])
def test_google_documents_that_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gcp.document(text, "gcp.credential")
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "files", "expected"),
    [
        ({"GH_COPILOT_TOKEN": "a", "COPILOT_GITHUB_TOKEN": "b"}, {}, "a"),
        ({"COPILOT_GITHUB_TOKEN": "b"}, {"github-copilot/hosts.json": "{}"}, "b"),
        ({}, {"github-copilot/hosts.json": '{"github.com":{"oauth_token":"c"}}'}, "c"),
        (
            {},
            {
                "github-copilot/hosts.json": "broken",
                "github-copilot/apps.json": '{"github.com:Iv1":{"oauth_token":"d"}}',
            },
            "d",
        ),
        ({}, {"gh/hosts.yml": "github.com:\n  oauth_token: e\n"}, "e"),
        ({}, {"gh/hosts.yml": "evil.example:\n  oauth_token: e\n"}, None),
        ({}, {"gh/hosts.yml": "{", "github-copilot/apps.json": "[1]"}, None),
    ],
)
def test_copilot_tokens(
    variables: dict[str, str], files: dict[str, str], expected: str | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    fetch = copilot.discover({**variables, "XDG_CONFIG_HOME": str(tmp_path)})
    if expected is None:
        with pytest.raises(CredentialError):
            fetch()
    else:
        assert fetch().value == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://login.test/token",
        "http://10.0.0.1/token",
        "http://localhost.evil.test/token",
        "http://[::1/token",
        "ftp://127.0.0.1/token",
        "//127.0.0.1/token",
        "HTTPS:/evil",
    ],
)
def test_credentials_do_not_travel_in_clear_text(url: str) -> None:
    with pytest.raises(CredentialError, match="not https"):
        http.send("POST", url, body=b"client_secret=s")
