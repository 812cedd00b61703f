from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admin.redact import REDACTED, Redactor

SECRET = "hunter2-very-secret"
PEM = "-----BEGIN EC PRIVATE KEY-----\naGVsbG8=\n-----END EC PRIVATE KEY-----\n"
CERT = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"tls": {"key": SECRET}}, id="tls-key"),
        pytest.param({"apiKey": {"keys": [{"key": SECRET, "metadata": {"user": "u"}}]}}, id="api"),
        pytest.param({"apiKey": {"keys": [{"keyHash": f"sha256:{SECRET}"}]}}, id="key-hash"),
        pytest.param({"params": {"apiKey": SECRET}}, id="llm-api-key"),
        pytest.param({"apiKey": {"value": SECRET}}, id="secret-in-an-object"),
        pytest.param({"oidc": {"clientSecret": SECRET}}, id="client-secret"),
        pytest.param({"client_secret": SECRET}, id="snake-case"),
        pytest.param({"password": SECRET}, id="password"),
        pytest.param({"basicAuth": {"htpasswd": f"user:{SECRET}"}}, id="htpasswd"),
        pytest.param({"aws": {"secretAccessKey": SECRET, "accessKeyId": SECRET}}, id="aws"),
        pytest.param({"session": {"key": SECRET}}, id="session-key"),
        pytest.param({"set": {"Authorization": SECRET}}, id="header-map"),
        pytest.param({"set": {"x-api-key": f'"{SECRET}"'}}, id="header-expression"),
        pytest.param({"add": [["authorization", SECRET]]}, id="header-pair"),
        pytest.param({"headers": [{"name": "Cookie", "value": SECRET}]}, id="header-object"),
        pytest.param({"set": {"X-Mine": SECRET}}, id="config-sensitive-headers"),
        pytest.param({"set": {"x": f"Bearer {SECRET}"}}, id="bearer"),
        pytest.param({"database": {"url": f"postgres://u:{SECRET}@db/x"}}, id="url-credentials"),
        pytest.param({"url": f"https://x/?a=1&access_token={SECRET}"}, id="url-query"),
        pytest.param({"args": ["sk-" + SECRET]}, id="known-shape"),
        pytest.param({"stdio": {"cmd": "npx", "env": {"PLAIN": SECRET}}}, id="command-env"),
        pytest.param({"jwks": {"keys": [{"kty": "oct", "k": SECRET}]}}, id="jwk"),
        pytest.param(
            {"jwks": json.dumps({"keys": [{"kty": "RSA", "n": "n", "d": SECRET}]})}, id="jwks-text"
        ),
        pytest.param({"jwks": '{"kty": "oct", "k": "' + SECRET}, id="jwks-broken-text"),
        pytest.param({"tokens": [SECRET]}, id="list-of-secrets"),
    ],
)
def test_hardening_40_secrets_are_not_shown(value):
    shown = json.dumps(Redactor(["x-mine"]).redact(value))
    assert SECRET not in shown
    assert REDACTED in shown


def test_private_keys_go_and_certificates_stay():
    shown = Redactor().redact({"material": f"{CERT}{PEM}{CERT}", "cert": CERT})
    assert shown == {"material": f"{CERT}{REDACTED}\n{CERT}", "cert": CERT}


def test_a_cut_private_key_goes_as_well():
    assert "aGVs" not in Redactor().text(PEM[:45])


def test_what_is_no_secret_stays():
    value = {
        "authorization": {"rules": [{"allow": 'jwt.sub == "x"'}]},
        "apiKey": {
            "mode": "strict",
            "location": {"header": {"name": "x-key", "prefix": "Bearer "}},
        },
        "route": {"hostnames": ["a"], "port": 80, "weight": 1.5, "tls": None, "on": True},
        "maxTokens": 100,
        "url": "https://example.com/path?q=1",
        "cookie": None,
    }
    assert Redactor().redact(value) == value


def test_bottomless_data_is_cut():
    value: dict[str, object] = {}
    for _ in range(300):
        value = {"a": value}
    assert REDACTED in json.dumps(Redactor().redact(value))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(st.sampled_from(["password", "API-KEY", "Client_Secret", "xdsAuthToken"]), json_values)
def test_any_data_under_a_secret_name_keeps_its_shape(name, value):
    json.dumps(Redactor().redact({name: value, "other": [value]}))
