"""Which models a key may ask for, however a body names them."""

from __future__ import annotations

import pytest

from sidecar.gateway.llm_allowed import check_allowed
from sidecar.llm.names import AllowedModels, ModelError
from tests.support.messages import request

ALLOWED = AllowedModels(["gpt-4o", "claude-*"])


def ask(body: bytes) -> None:
    asked = request("POST", "/v1/chat/completions")
    check_allowed(ALLOWED, "completions", asked, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-4o","messages":[]}',
        b'{"model":"claude-opus","model":"gpt-4o"}',
        b'{"model":"gpt-4o","tools":[{"model":"other"}]}',
        b'{"messages":[{"content":"the \\u00e9clair \\"model\\""}],"model":"gpt-4o"}',
    ],
)
def test_allowed(body: bytes) -> None:
    ask(body)


@pytest.mark.parametrize(("second", "is_allowed"), [("n", True), ("model", False)])
def test_forms(second: str, is_allowed: bool) -> None:
    asked = request("POST", "/v1/images/edits?model=gpt-4o")
    asked.headers.set(b"content-type", b"multipart/form-data; boundary=x")
    head = 'Content-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--x'
    body = "--x\r\n" + "\r\n".join((head % ("model", "gpt-4o"), head % (second, "o3"))) + "--"
    if is_allowed:
        check_allowed(ALLOWED, "detect", asked, body.encode())
        return
    with pytest.raises(ModelError):
        check_allowed(ALLOWED, "detect", asked, body.encode())


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"o3"}',
        b'{"model":"o3","model":"gpt-4o"}',
        b'{"model":"gpt-4o","model":"o3"}',
        b'{"\\u006dodel":"o3","model":"gpt-4o"}',
        b'{"model":"o3","messages":[{"model":"gpt-4o"}],"model":"gpt-4o"}',
        b'{"messages":[]}',
        b"",
    ],
)
def test_refused(body: bytes) -> None:
    with pytest.raises(ModelError) as refused:
        ask(body)
    assert refused.value.status == 403
