"""Where identity providers have what, and how their metadata is changed."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import ConfigError
from sidecar.policies.mcp_providers import Provider, Urls

URLS = Urls("https://gw/mcp", "https://gw/.well-known/oauth-authorization-server/mcp")
AGENTIC = "https://api.descope.com/v1/apps/agentic/P1/S1"
TENANT = "https://login.microsoftonline.com/t-1/v2.0"
ENTRA_KEYS = "https://login.microsoftonline.com/t-1/discovery/v2.0/keys"


def provider(issuer: str, product: Any = None, client: str | None = None) -> Provider:
    return Provider(issuer, product, "https://mcp.example/mcp?a=b", client)


@pytest.mark.parametrize(
    ("issuer", "product", "url"),
    [
        ("https://idp.example", None, "https://idp.example/.well-known/jwks.json"),
        ("https://idp.example/x/", None, "https://idp.example/x/.well-known/jwks.json"),
        ("https://t.auth0.com/", "auth0", "https://t.auth0.com/.well-known/jwks.json"),
        (
            "https://o.okta.com/oauth2/a",
            "okta",
            "https://o.okta.com/oauth2/a/.well-known/jwks.json",
        ),
        (
            "http://localhost:7080/realms/mcp",
            "keycloak",
            "http://localhost:7080/realms/mcp/protocol/openid-connect/certs",
        ),
        (
            "https://a.example/application/o/mcp/",
            "authentik",
            "https://a.example/application/o/mcp/jwks/",
        ),
        (TENANT, "entra", ENTRA_KEYS),
        ("https://sts.windows.net/t-1/", "entra", ENTRA_KEYS),
        (AGENTIC, "descope", "https://api.descope.com/P1/.well-known/jwks.json"),
        ("https://x.example/v1/apps/P1", "descope", "https://x.example/P1/.well-known/jwks.json"),
    ],
)
def test_keys(issuer: str, product: Any, url: str) -> None:
    assert provider(issuer, product).jwks_url() == url


@pytest.mark.parametrize(
    ("issuer", "product", "urls"),
    [
        (
            "https://idp.example",
            None,
            [
                "https://idp.example/.well-known/oauth-authorization-server",
                "https://idp.example/.well-known/openid-configuration",
            ],
        ),
        (
            "https://idp.example/realms/a/",
            "keycloak",
            [
                "https://idp.example/.well-known/oauth-authorization-server/realms/a",
                "https://idp.example/realms/a/.well-known/oauth-authorization-server",
                "https://idp.example/.well-known/openid-configuration/realms/a",
                "https://idp.example/realms/a/.well-known/openid-configuration",
            ],
        ),
        (
            "https://sts.windows.net/t-1/",
            "entra",
            ["https://login.microsoftonline.com/t-1/.well-known/openid-configuration"],
        ),
    ],
)
def test_places_of_metadata(issuer: str, product: Any, urls: list[str]) -> None:
    assert provider(issuer, product).metadata_urls() == urls


@pytest.mark.parametrize(
    ("issuer", "product", "client", "url"),
    [
        ("https://k.example/realms/a", "keycloak", None, "https://k.example/realms/a/clients-registrations/openid-connect"),
        ("https://o.okta.com/oauth2/a", "okta", None, "https://o.okta.com/oauth2/v1/clients"),
        (AGENTIC, "descope", None, "https://api.descope.com/v1/mgmt/mcp/client/P1/S1/register"),
        ("https://x.example/v1/apps/P1", "descope", None, "https://x.example/v1/mgmt/inboundapp/app/P1/register"),
        ("https://k.example/realms/a", "keycloak", "fixed", None),
        ("https://t.auth0.com/", "auth0", None, None),
        (TENANT, "entra", None, None),
        ("https://idp.example", None, None, None),
    ],
)  # fmt: skip
def test_registration(issuer: str, product: Any, client: str | None, url: str | None) -> None:
    assert provider(issuer, product, client).registration_url() == url


METADATA = {
    "issuer": "https://idp.example",
    "authorization_endpoint": "https://idp.example/authorize",
    "token_endpoint": "https://idp.example/token",
    "registration_endpoint": "https://idp.example/register",
    "authorization_response_iss_parameter_supported": True,
    "signed_metadata": "e30.e30.x",
    "client_id_metadata_document_supported": True,
}


def changes(product: Any, client: str | None = None, **more: Any) -> dict[str, Any]:
    """What of the metadata is another in the gateway's; None: it is gone."""
    issuer = TENANT if product in ("entra", "descope") else "https://idp.example"
    given = {**METADATA, **more}
    made = provider(issuer, product, client).adapted(given, URLS)
    return {k: made.get(k) for k in given.keys() | made.keys() if given.get(k) != made.get(k)}


FRONTED = {
    "issuer": "https://gw/mcp",
    "authorization_response_iss_parameter_supported": None,
    "signed_metadata": None,
}
REGISTRATION = {"registration_endpoint": f"{URLS.metadata}/client-registration"}
AUDIENCE = "audience=https%3A%2F%2Fmcp.example%2Fmcp%3Fa%3Db"
LOGIN = {"authorization_endpoint": f"https://idp.example/authorize?{AUDIENCE}"}


def test_adaptations() -> None:
    assert changes(None) == {}
    assert changes(None, "fixed") == {**FRONTED, **REGISTRATION}
    assert changes("keycloak") == {**FRONTED, **REGISTRATION}
    assert changes("descope") == {**FRONTED, **REGISTRATION}
    assert changes("auth0") == {**FRONTED, **LOGIN}
    assert changes("okta") == {**FRONTED, **LOGIN, **REGISTRATION}
    assert changes("authentik") == FRONTED
    assert changes("authentik", "fixed") == {**FRONTED, **REGISTRATION}
    proxied = {
        "authorization_endpoint": f"{URLS.metadata}/authorize",
        "token_endpoint": f"{URLS.metadata}/token",
        "code_challenge_methods_supported": ["S256"],
    }
    assert changes("entra") == {**FRONTED, **proxied}
    assert changes("entra", "fixed") == {**FRONTED, **proxied, **REGISTRATION}


def test_a_login_with_a_query_already() -> None:
    made = changes("auth0", authorization_endpoint="https://idp.example/a?x=1")
    assert made["authorization_endpoint"] == f"https://idp.example/a?x=1&{AUDIENCE}"
    assert changes("auth0", authorization_endpoint="https://idp.example/a?audience=z") == FRONTED
    assert changes("auth0", authorization_endpoint=7) == FRONTED


def test_whose_metadata_it_is() -> None:
    made = provider("https://idp.example/")
    assert made.is_issuer("https://idp.example")
    assert made.is_issuer("https://idp.example/")
    for other in (
        "https://idp.example.evil",
        "http://idp.example",
        "",
        None,
        7,
        ["https://idp.example"],
    ):
        assert not made.is_issuer(other)


@pytest.mark.parametrize(
    ("issuer", "product"),
    [
        *((one, None) for one in ("idp.example", "", "ftp://idp", "https://", "https://[::1")),
        ("https://a:b@idp.example", None),
        ("https://idp.example?x", None),
        ("https://idp.example#x", None),
        ("https://login.microsoftonline.com", "entra"),
        ("https://api.descope.com/", "descope"),
    ],
)
def test_issuers_that_are_none(issuer: str, product: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        provider(issuer, product)
    assert caught.value.path == "issuer"
