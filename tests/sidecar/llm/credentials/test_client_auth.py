"""How the gateway authenticates at token endpoints."""

from __future__ import annotations

import base64
import hashlib
import logging
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.errors import ConfigError
from sidecar.llm.credentials.client_auth import ClientAuth
from tests.support.authority import Authority
from tests.support.clock import HeldClock
from tests.support.issuer import private_key

AUTHORITY = Authority()
LEAF = AUTHORITY.issue(["gateway.test"])


def pem(name: str = "rsa") -> str:
    key = private_key(name)
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


def made(**payload: Any) -> ClientAuth:
    return ClientAuth({"clientId": "c", **payload}, HeldClock(), "clientAuth")


def statement(**more: Any) -> ClientAuth:
    fields = {"method": "privateKeyJwt", "signingKey": pem(), "assertionAudience": "https://a"}
    return made(**{**fields, **more})


def test_both_halves_of_basic_are_form_encoded() -> None:
    auth = ClientAuth({"clientId": "a:b", "clientSecret": " p/w \n"}, HeldClock(), "")
    assert auth.header == b"Basic " + base64.b64encode(b"a%3Ab:p%2Fw")
    assert auth.fields() == []


def test_a_secret_in_the_form() -> None:
    auth = made(method="clientSecretPost", clientSecret="s")
    assert auth.header is None
    assert auth.fields() == [("client_id", "c"), ("client_secret", "s")]
    assert made(method="clientSecretPost").fields() == [("client_id", "c")]


def test_a_statement_serves_once() -> None:
    auth = statement(kid="k")
    first, second = (dict(auth.fields())["client_assertion"] for _ in range(2))
    options: Any = {"verify_exp": False, "verify_iat": False}
    key = private_key("rsa").public_key()
    one, other = (
        jwt.decode(text, key, ["RS256"], audience="https://a", options=options)
        for text in (first, second)
    )
    assert one["jti"] != other["jti"]
    assert one["exp"] - one["iat"] == 300
    assert jwt.get_unverified_header(first) == {"alg": "RS256", "kid": "k", "typ": "JWT"}


@pytest.mark.parametrize("form", ["x5c", "x5t#S256"])
def test_a_certificate_is_named(form: str, caplog: pytest.LogCaptureFixture) -> None:
    text = LEAF.cert + AUTHORITY.root
    with caplog.at_level(logging.WARNING):
        auth = statement(certificate=text, certificateHeader=form)
    # It is another key's: the server is the judge.
    assert "clientAuth.certificate is of another key" in caplog.text
    header = jwt.get_unverified_header(dict(auth.fields())["client_assertion"])
    ders = [
        one.public_bytes(Encoding.DER)
        for one in x509.load_pem_x509_certificates(text.encode())
    ]  # fmt: skip
    if form == "x5c":
        assert header["x5c"] == [base64.b64encode(der).decode() for der in ders]
    else:
        digest = hashlib.sha256(ders[0]).digest()
        assert header[form] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def test_a_certificate_of_the_key_is_no_mismatch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        statement(signingKey=LEAF.key, alg="ES256", certificate=LEAF.cert, certificateHeader="x5c")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"clientId": " "}, "clientId"),
        ({}, "clientSecret"),
        ({"clientSecret": ""}, "clientSecret"),
        ({"clientSecret": "s", "signingKey": "k"}, "signingKey"),
        ({"method": "clientSecretPost", "clientSecret": " "}, "clientSecret"),
        ({"method": "privateKeyJwt", "clientSecret": "s"}, "clientSecret"),
        ({"method": "privateKeyJwt", "signingKey": pem()}, "assertionAudience"),
        ({"method": "privateKeyJwt", "assertionAudience": "a"}, "signingKey"),
        (
            {"method": "privateKeyJwt", "assertionAudience": "a", "certificateHeader": "x5c"},
            "certificate",
        ),
        (
            {
                "method": "privateKeyJwt",
                "assertionAudience": "a",
                "certificateHeader": "x5c",
                "certificate": "nonsense",
            },
            "certificate",
        ),
    ],
)
def test_configuration_that_is_refused(payload: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**payload)
    assert caught.value.path == f"clientAuth.{path}"
