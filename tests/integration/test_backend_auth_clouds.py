"""Credentials of Google and Microsoft at a real gateway of two workers, from token endpoints of
this test. Source: spec/config.md section 3.12.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.issuer import private_key, token
from tests.support.upstream import Answer, Seen, Upstream

SCOPE = "https://cognitiveservices.azure.com"


def shown(seen: Seen) -> Answer:
    return Answer(200, [], (seen.get("authorization") or "").encode())


class Clouds:
    """Token endpoints: each answer is another token."""

    def __init__(self) -> None:
        self.up = Upstream(self._answer)
        self.count = 0

    def _answer(self, seen: Seen) -> Answer:
        self.count += 1
        if seen.target == "/google/identity":
            text = token({"aud": "https://a", "exp": time.time() + 3600, "n": self.count})
            return Answer(200, [], orjson.dumps({"id_token": text}))
        made = {"access_token": f"cloud-{self.count}", "expires_in": 3600, "token_type": "Bearer"}
        return Answer(200, [("content-type", "application/json")], orjson.dumps(made))

    def asked(self, path: str) -> list[Seen]:
        return [seen for seen in self.up.seen if urlsplit(seen.target).path == path]


@pytest.fixture(scope="module")
def clouds() -> Iterator[Clouds]:
    made = Clouds()
    with made.up:
        yield made


@pytest.fixture(scope="module")
def port(clouds: Clouds) -> Iterator[int]:
    (port,) = free_ports(1)
    key = private_key("rsa")
    text: str = key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    ).decode()

    def account(path: str) -> str:
        made = {
            "type": "service_account",
            "client_email": "gateway@project.iam.gserviceaccount.com",
            "private_key": text,
            "token_uri": f"http://{clouds.up.address}{path}",
        }
        return orjson.dumps(made).decode()

    kinds: dict[str, Any] = {
        "access": {"gcp": {"credential": account("/google/access")}},
        "identity": {
            "gcp": {
                "type": "idToken",
                "audience": "https://a",
                "credential": account("/google/identity"),
            }
        },
        "managed": {
            "azure": {
                "explicitConfig": {"managedIdentity": {"userAssignedIdentity": {"clientId": "c"}}}
            }
        },
        "found": {"azure": {"implicit": {}}},
    }
    with Upstream(shown) as upstream:
        routes = [
            {
                "matches": [{"path": {"exact": f"/{name}"}}],
                "policies": {"backendAuth": auth},
                "backends": [{"host": upstream.address}],
            }
            for name, auth in kinds.items()
        ]
        config = {"binds": [{"port": port, "listeners": [{"routes": routes}]}]}
        env = {
            "IDENTITY_ENDPOINT": f"http://{clouds.up.address}/msi",
            "IDENTITY_HEADER": "machine",
            "AZURE_CLIENT_ID": "",
            "AZURE_TENANT_ID": "",
            "AZURE_FEDERATED_TOKEN_FILE": "",
        }
        with GatewayProcess(config, workers=2, env=env):
            yield port


def tokens(port: int, name: str) -> set[str]:
    """What twelve requests were shown with, on connections of their own."""
    found = [fetch(port, f"/{name}") for _ in range(12)]
    assert {one.status for one in found} == {200}, found
    return {one.text for one in found}


@pytest.mark.parametrize("name", ["access", "identity", "managed", "found"])
def test_one_worker_asks_for_all(port: int, clouds: Clouds, name: str) -> None:
    before = clouds.count
    (text,) = tokens(port, name)
    assert text.startswith("Bearer ")
    assert clouds.count == before + 1


def test_google_is_asked_by_a_signed_statement(port: int, clouds: Clouds) -> None:
    (text,) = tokens(port, "identity")
    key = private_key("rsa").public_key()
    assert jwt.decode(text.removeprefix("Bearer "), key, ["RS256"], audience="https://a")
    for seen in clouds.asked("/google/identity"):
        statement = parse_qs(seen.body.decode())["assertion"][0]
        found = jwt.decode(statement, key, ["RS256"], options={"verify_aud": False})
        assert found["iss"] == "gateway@project.iam.gserviceaccount.com"


def test_a_managed_identity_is_asked_by_its_header(port: int, clouds: Clouds) -> None:
    tokens(port, "managed")
    for seen in clouds.asked("/msi"):
        assert seen.get("x-identity-header") == "machine"
        assert parse_qs(urlsplit(seen.target).query)["resource"] == [SCOPE]
