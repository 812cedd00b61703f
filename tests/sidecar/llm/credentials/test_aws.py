"""AWS signatures, checked by an independent calculation of version 4."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from urllib.parse import quote

import pytest

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.llm.credentials import aws
from sidecar.llm.credentials.base import Outgoing
from tests.support.clock import HeldClock

KEY = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def expected(request: Outgoing, service: str, region: str) -> str:
    """The Authorization field by the steps of AWS's documentation."""
    headers = {name.decode(): value.decode() for name, value in request.headers}
    date = headers["x-amz-date"]
    covered = {"host": request.authority} | {
        name: value
        for name, value in headers.items()
        if name == "content-type" or name.startswith("x-amz-")
    }
    names = ";".join(sorted(covered))
    path, _, query = request.target.partition("?")
    canonical = "\n".join(
        [
            request.method,
            quote(path, safe="/~"),
            "&".join(sorted(query.split("&"))),
            *(f"{name}:{covered[name]}" for name in sorted(covered)),
            "",
            names,
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{SECRET}".encode()
    for part in (date[:8], region, service, "aws4_request"):
        key = _hmac(key, part)
    signature = _hmac(key, f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}").hex()
    return (
        f"AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders={names}, Signature={signature}"
    )


def outgoing(target: str = "/model/a:0%2Fb/converse") -> Outgoing:
    headers = Headers(
        [
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer client"),
            (b"traceparent", b"00-1-2-01"),
            (b"x-amz-security-token", b"client's"),
        ]
    )
    host = "bedrock-runtime.us-west-2.amazonaws.com"
    return Outgoing("POST", "https", host, target, headers, b'{"a":1}')


@pytest.mark.parametrize("target", ["/model/a:0%2Fb/converse", "/rerank", "/x?b=2&a=1"])
@pytest.mark.parametrize("token", [None, "session"])
def test_signatures(target: str, token: str | None) -> None:
    request = outgoing(target)
    signer = aws.AwsSignature(aws.fixed(KEY, SECRET, token), "bedrock", "us-west-2", HeldClock())
    assert signer.apply_nowait(request)
    made = request.headers.get(b"authorization")
    assert made is not None
    assert made.decode() == expected(request, "bedrock", "us-west-2")
    assert request.headers.get_all(b"x-amz-security-token") == ([b"session"] if token else [])
    assert request.headers.get(b"traceparent") == b"00-1-2-01"


async def test_credentials_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    signer = aws.AwsSignature(aws.environment(), "bedrock", "us-west-2", HeldClock())
    request = outgoing()
    assert not signer.apply_nowait(request)
    await signer.apply(request)
    assert (
        request.headers.get(
            b"authorization",
        )
        is not None
    )
    assert signer.apply_nowait(outgoing())


async def test_credentials_of_a_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[p]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert aws.environment("p")().value.access_key == KEY


async def test_no_credentials_is_an_error_of_the_gateway(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    signer = aws.AwsSignature(aws.environment(), "bedrock", "us-west-2", HeldClock())
    with pytest.raises(UpstreamError) as caught:
        await signer.apply(outgoing())
    assert caught.value.status == 500
