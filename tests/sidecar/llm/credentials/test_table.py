"""From configuration to credentials."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.llm.credentials.aws import AwsSignature
from sidecar.llm.credentials.base import Outgoing
from sidecar.llm.credentials.table import api_key, configured, default_credential
from sidecar.llm.credentials.token import BearerToken
from sidecar.llm.providers.base import DefaultAuth
from tests.support.clock import HeldClock

AWS = DefaultAuth("aws", region="us-west-2", service="bedrock")


def applied(payload: Any) -> Headers:
    request = Outgoing("POST", "https", "h", "/", Headers())
    for credential in configured(payload, HeldClock(), auth=AWS):
        assert credential.apply_nowait(request)
    return request.headers


def test_keys() -> None:
    assert applied({"key": " k\n"}) == [(b"authorization", b"Bearer k")]
    located = {"value": "k", "location": {"header": {"name": "x-key"}}}
    assert applied({"key": located}) == [(b"x-key", b"k")]
    extra = [{"location": {"header": {"name": "x-more"}}, "key": "m"}]
    assert applied({"key": "k", "credentials": extra}) == [
        (b"x-more", b"m"),
        (b"authorization", b"Bearer k"),
    ]
    assert not api_key("k").explicit_place
    assert configured({"key": located}, HeldClock())[0].explicit_place


def test_signatures_come_last() -> None:
    payload = {
        "aws": {"accessKeyId": "A", "secretAccessKey": "S"},
        "credentials": [{"location": {"header": {"name": "x-amz-more"}}, "key": "m"}],
    }
    made = applied(payload).get(b"authorization")
    assert made is not None
    assert b"us-west-2/bedrock" in made
    assert b"x-amz-more" in made


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"gcp": {}}, BearerToken),
        ({"gcp": {"type": "idToken", "audience": "https://a"}}, BearerToken),
        ({"aws": {}}, AwsSignature),
        ({"aws": {"assumeRole": {"roleArn": "arn:aws:iam::1:role/r"}}}, AwsSignature),
        ({"azure": {"implicit": {}}}, BearerToken),
        ({"azure": {"developerImplicit": {}}}, BearerToken),
        ({"azure": {"explicitConfig": {"workload_identity": {}}}}, BearerToken),
        ({"azure": {"explicitConfig": {"managedIdentity": {}}}}, BearerToken),
        (
            {
                "azure": {
                    "explicitConfig": {
                        "clientSecret": {"tenant_id": "t", "client_id": "c", "client_secret": "s"}
                    }
                }
            },
            BearerToken,
        ),
        ({"copilot": {}}, BearerToken),
        ("copilot", BearerToken),
    ],
)
def test_clouds_are_asked_when_a_request_needs_them(payload: Any, kind: type) -> None:
    (made,) = configured(payload, HeldClock(), auth=AWS)
    assert isinstance(made, kind)
    made.close()


async def test_copilot_wants_more_than_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GH_COPILOT_TOKEN", "tok")
    (made,) = configured("copilot", HeldClock())
    request = Outgoing("POST", "https", "h", "/", Headers())
    await made.apply(request)
    assert request.headers.get(b"authorization") == b"Bearer tok"
    assert request.headers.get(b"x-github-api-version") == b"2025-10-01"
    assert request.headers.get(b"openai-intent") == b"conversation-agent"


@pytest.mark.parametrize("auth", ["aws", "gcp", "azure", "copilot"])
def test_defaults(auth: Any) -> None:
    made = default_credential(DefaultAuth(auth, "s", "us-west-2", "bedrock"), HeldClock())
    assert made is not None
    assert default_credential(DefaultAuth(), HeldClock()) is None


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"jwtSign": {}}, "jwtSign.signingKey"),
        ({"crossAppAccess": {}}, "crossAppAccess"),
        ({"passthrough": {}}, "passthrough"),
        ({"key": ""}, "key"),
        ({"key": {"file": "x"}}, "key"),
        ({"gcp": {"credential": "{"}}, "gcp.credential"),
        ({"gcp": {"audience": "a"}}, "gcp.audience"),
        ({"gcp": {"type": "idToken"}}, "gcp.audience"),
        ({"aws": {"accessKeyId": "a"}}, "aws"),
        (
            {"aws": {"accessKeyId": "a", "secretAccessKey": "b", "assumeRole": {"roleArn": "r"}}},
            "aws.assumeRole",
        ),
        (
            {"aws": {"assumeRole": {"roleArn": "r", "sessionName": "a b"}}},
            "aws.assumeRole.sessionName",
        ),
        (
            {"aws": {"assumeRole": {"roleArn": "r", "sessionName": {"expression": "x"}}}},
            "aws.assumeRole.sessionName",
        ),
        (
            {"aws": {"assumeRole": {"roleArn": "r", "tags": [{"key": "k", "expression": "x"}]}}},
            "aws.assumeRole.tags[0]",
        ),
    ],
)
def test_configuration_that_is_refused(payload: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(payload, HeldClock(), auth=AWS)
    assert caught.value.path == path


def test_a_signature_needs_a_region_and_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(ConfigError, match="region"):
        configured({"aws": {}}, HeldClock())
