"""gRPC framing, status and fields: octets in, messages or errors out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import UpstreamError
from sidecar.http import grpc
from sidecar.http.headers import Headers

GRPC = (b"content-type", b"application/grpc")


def fields(*pairs: tuple[bytes, bytes]) -> Headers:
    return Headers(pairs)


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_frames_do_not_depend_on_how_the_stream_is_cut(messages, data):
    octets = b"".join(grpc.frame(message) for message in messages)
    frames = grpc.Frames(64)
    found: list[bytes] = []
    while octets:
        size = data.draw(st.integers(1, len(octets)))
        found += frames.feed(octets[:size])
        octets = octets[size:]
    assert found == messages
    assert frames.is_between


def test_a_frame_has_a_flag_and_a_length():
    assert grpc.frame(b"abc") == b"\0\0\0\0\3abc"
    assert grpc.unary(grpc.frame(b"abc"), 3) == b"abc"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", grpc.INTERNAL),
        (b"\0\0\0\0", grpc.INTERNAL),
        (b"\0\0\0\0\4abc", grpc.INTERNAL),
        (grpc.frame(b"a") + grpc.frame(b"b"), grpc.INTERNAL),
        (grpc.frame(b"a") + b"\0", grpc.INTERNAL),
        (b"\1\0\0\0\1a", grpc.INTERNAL),
        (b"\0\xff\xff\xff\xff", grpc.RESOURCE_EXHAUSTED),
        (grpc.frame(b"12345"), grpc.RESOURCE_EXHAUSTED),
    ],
    ids=["nothing", "half-prefix", "half", "two", "rest", "compressed", "huge", "one-too-many"],
)
def test_what_is_not_one_message_is_refused(body, status):
    with pytest.raises(grpc.GrpcError) as caught:
        grpc.unary(body, 4)
    assert caught.value.grpc_status == status


def test_a_length_is_believed_only_within_the_limit():
    frames = grpc.Frames(1024)
    with pytest.raises(grpc.GrpcError):
        frames.feed(b"\0\x7f\xff\xff\xff" + b"x" * 100)


@pytest.mark.parametrize("kind", [b"application/grpc", b"application/grpc+proto"])
def test_ok_is_in_trailers_or_in_the_head(kind):
    head = fields((b"content-type", kind))
    grpc.check(200, head, fields((b"grpc-status", b"0")))
    grpc.check(200, fields((b"content-type", kind), (b"grpc-status", b"0")), None)


@pytest.mark.parametrize(
    ("status", "head", "trailers", "code"),
    [
        (200, fields(GRPC), fields((b"grpc-status", b"8")), grpc.RESOURCE_EXHAUSTED),
        (200, fields(GRPC, (b"grpc-status", b"12")), None, grpc.UNIMPLEMENTED),
        (200, fields(GRPC), fields((b"grpc-status", b"99")), 99),
        (200, fields(GRPC), fields((b"grpc-status", b"-1")), grpc.UNKNOWN),
        (200, fields(GRPC), fields((b"grpc-status", b"9" * 5000)), grpc.UNKNOWN),
        (200, fields(GRPC), fields(), grpc.INTERNAL),
        (200, fields(GRPC), None, grpc.INTERNAL),
        (200, fields(), fields((b"grpc-status", b"0")), grpc.UNKNOWN),
        (
            200,
            fields((b"content-type", b"application/grpc-web")),
            fields((b"grpc-status", b"0")),
            grpc.UNKNOWN,
        ),
        (200, fields((b"content-type", b"text/html")), None, grpc.UNKNOWN),
        (404, fields(GRPC), fields((b"grpc-status", b"0")), grpc.UNIMPLEMENTED),
        (503, fields(), None, grpc.UNAVAILABLE),
        (302, fields(), None, grpc.UNKNOWN),
    ],
)
def test_what_is_not_ok_is_an_error_with_a_status(status, head, trailers, code):
    with pytest.raises(grpc.GrpcError) as caught:
        grpc.check(status, head, trailers)
    assert caught.value.grpc_status == code
    assert isinstance(caught.value, UpstreamError)


def test_the_peers_words_are_kept_apart():
    trailers = fields((b"grpc-status", b"14"), (b"grpc-message", b"key%3A s3cr3t%"))
    with pytest.raises(grpc.GrpcError) as caught:
        grpc.check(200, fields(GRPC), trailers)
    assert caught.value.detail == "key: s3cr3t%"
    assert "s3cr3t" not in str(caught.value)
    assert "UNAVAILABLE" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"plain", "plain"),
        (b"%E2%82%AC 5%25", "\u20ac 5%"),
        (b"%zz %4", "%zz %4"),
        (b"%ff", "\ufffd"),
        (b"a" * 5000, "a" * 1024),
    ],
)
def test_messages_are_decoded_as_far_as_they_can_be(value, text):
    assert grpc.message_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (2.0, b"2000000u"),
        (0.05, b"50000000n"),
        (0.0, b"0n"),
        (-1.0, b"0n"),
        (3600.0, b"3600000m"),
        (1e6, b"1000000S"),
        (1e12, b"99999999S"),
    ],
)
def test_timeouts_have_eight_digits_at_most(seconds, value):
    assert grpc.timeout_value(seconds) == value


@pytest.mark.parametrize(
    ("code", "name"), [(0, "OK"), (14, "UNAVAILABLE"), (16, "UNAUTHENTICATED"), (17, "code 17")]
)
def test_codes_have_names(code, name):
    assert grpc.code_name(code) == name
