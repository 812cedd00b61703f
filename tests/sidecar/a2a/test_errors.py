"""The gateway's own errors in three forms."""

from __future__ import annotations

import gzip

import orjson
import pytest

from sidecar.a2a import errors
from sidecar.a2a.framing import BadFrame, unframed
from sidecar.http.grpc import frame


def test_json_rpc() -> None:
    made = orjson.loads(errors.json_rpc(errors.VERSION, "no", "i"))
    assert (made["id"], made["error"]["code"], made["error"]["message"]) == ("i", -32009, "no")
    (info,) = made["error"]["data"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == ("VERSION_NOT_SUPPORTED", "a2a-protocol.org")


def test_rest() -> None:
    made = orjson.loads(errors.rest(errors.of_status(429, "RateLimit"), "slow down"))["error"]
    assert (made["code"], made["status"], made["message"]) == (
        *(429, "RESOURCE_EXHAUSTED"),
        "slow down",
    )
    assert made["details"][0]["reason"] == "RATE_LIMIT"
    assert made["details"][0]["domain"] == "agentgateway.dev"


@pytest.mark.parametrize(
    ("status", "grpc", "code"),
    [
        (401, 16, -32600),
        (403, 7, -32600),
        (418, 9, -32600),
        (500, 13, -32603),
        (503, 14, -32603),
        (504, 4, -32603),
    ],
)
def test_statuses(status: int, grpc: int, code: int) -> None:
    kind = errors.of_status(status, "X")
    assert (kind.http, kind.grpc, kind.json_rpc) == (status, grpc, code)


def test_codes() -> None:
    assert errors.of_code(-32700).reason == "JSON_PARSE_ERROR"
    assert errors.of_code(-1).reason == "INVALID_REQUEST"


def test_frames() -> None:
    assert unframed(frame(b"abc"), None, 99) == b"abc"
    packed = gzip.compress(b"abc")
    raw = b"\x01" + len(packed).to_bytes(4, "big") + packed
    assert unframed(raw, b"gzip", 99) == b"abc"
    for bad, coding in (
        (b"", None),
        (b"\0\0", None),
        (frame(b"a") + frame(b"b"), None),
        (frame(b"abc")[:-1], None),
        (raw, None),
        (raw, b"snappy"),
        (raw, b"identity"),
        (b"\x01" + frame(b"abc")[1:], b"gzip"),
    ):
        with pytest.raises(BadFrame):
            unframed(bad, coding, 99)
    with pytest.raises(BadFrame):
        unframed(raw, b"gzip", 2)
