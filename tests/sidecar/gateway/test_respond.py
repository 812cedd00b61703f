"""Errors become responses in the shape the client's protocol expects."""

from __future__ import annotations

import pytest

from sidecar.errors import BodyTooLarge, RequestError, UpstreamError
from sidecar.gateway.respond import error_response, is_grpc, make
from tests.support.compiled import ask_for

GRPC = {"content-type": "application/grpc+proto"}


@pytest.mark.parametrize(
    ("error", "status", "text", "reason"),
    [
        (RequestError(404, "NotFound", "route not found"), 404, "route not found", "NotFound"),
        (UpstreamError(503, "UpstreamFailure", "down"), 503, "down", "UpstreamFailure"),
        (BodyTooLarge(5), 413, "request body too large", "InvalidRequest"),
        (ValueError("a secret"), 500, "internal error", "Internal"),
    ],
)
async def test_plain(error: Exception, status: int, text: str, reason: str) -> None:
    response = error_response(ask_for(), error)
    assert (response.status, response.reason) == (status, reason)
    assert await response.body.read() == text.encode()
    assert response.headers.get(b"content-type") == b"text/plain"
    assert "secret" not in response.error


def test_headers_and_close_of_the_error() -> None:
    error = RequestError(503, "Overload", "x", headers=((b"retry-after", b"1"),), close=True)
    response = error_response(ask_for(), error)
    assert response.headers.get(b"retry-after") == b"1"
    assert response.close


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "m", b"13"),
        (401, "m", b"16"),
        (407, "m", b"16"),
        (403, "m", b"7"),
        (404, "m", b"12"),
        (429, "m", b"14"),
        (502, "m", b"14"),
        (503, "m", b"14"),
        (504, "m", b"14"),
        (500, "no valid backends", b"14"),
        (500, "m", b"2"),
        (413, "m", b"2"),
    ],
)
async def test_grpc(status: int, message: str, code: bytes) -> None:
    response = make(ask_for(headers=GRPC), status, message, "r")
    assert response.status == 200
    assert response.headers.get(b"content-type") == b"application/grpc"
    assert response.headers.get(b"grpc-status") == code
    assert await response.body.read() == b""


def test_grpc_message_is_percent_encoded() -> None:
    response = make(ask_for(headers=GRPC), 503, "100% sö\n", "r")
    assert response.headers.get(b"grpc-message") == b"100%25 s%C3%B6%0A"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("application/grpc", True), ("application/grpc+json", True), ("application/json", False)],
)
def test_is_grpc(kind: str, expected: bool) -> None:
    assert is_grpc(ask_for(headers={"content-type": kind})) is expected
    assert not is_grpc(ask_for())
