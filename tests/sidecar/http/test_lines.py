"""Lines of heads: what is remembered answers as what is not, and secrets are not remembered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http import lines

REQUEST = getattr(lines.known_request_line, "__self__")  # noqa: B009 - mypy knows no such attribute
FIRST = getattr(lines.known_first_line, "__self__")  # noqa: B009


@pytest.mark.parametrize(
    ("line", "field", "meaning"),
    [
        (b"Accept: */*", (b"accept", b"*/*"), lines.PLAIN),
        (b"HOST:a.example", (b"host", b"a.example"), lines.HOST),
        (b"content-length:  7 \t", (b"content-length", b"7"), lines.LENGTH),
        (b"X_Forwarded_For: 1", (b"x_forwarded_for", b"1"), lines.DROP),
        (b"x-empty:", (b"x-empty", b""), lines.PLAIN),
    ],
)
def test_known_and_unknown_are_the_same(
    line: bytes, field: tuple[bytes, bytes], meaning: int
) -> None:
    REQUEST.clear()
    assert lines.known_request_line(line) == (field, meaning)
    assert lines.known_request_line(line) == (field, meaning)


@given(st.binary(max_size=20))
def test_only_the_grammar_passes(line: bytes) -> None:
    name, colon, value = line.partition(b":")
    token = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    good = (
        bool(name and colon)
        and all(octet in token for octet in name)
        and all(octet == 9 or (octet >= 32 and octet != 127) for octet in value)
    )
    try:
        found = lines.known_response_line(line)
    except lines.MalformedError:
        assert not good
    else:
        assert good
        assert found[0] == (name.lower(), value.strip(b" \t"))


@pytest.mark.parametrize(
    "line", [b"authorization: Bearer x", b"cookie: a=b", b"accept: " + b"x" * 300]
)
def test_lines_not_kept(line: bytes) -> None:
    lines.known_request_line(line)
    assert line not in REQUEST


def test_first_lines() -> None:
    FIRST.clear()
    for _ in range(2):
        assert lines.known_first_line(b"GET /a HTTP/1.1") == ("GET", "/a", True)
        assert lines.known_first_line(b"PUT /b HTTP/1.0") == ("PUT", "/b", False)
        assert lines.known_first_line(b"GET /a?key=x HTTP/1.1") == ("GET", "/a?key=x", True)
    assert set(FIRST) == {b"GET /a HTTP/1.1", b"PUT /b HTTP/1.0"}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"GET /a HTTP/2.0", lines.VersionError),
        (b"GET  /a HTTP/1.1", lines.MalformedError),
        (b"GET /a HTTP/1.1 ", lines.MalformedError),
        (b"G(T /a HTTP/1.1", lines.MalformedError),
        (b"GET /\xc3\xa4 HTTP/1.1", lines.MalformedError),
        (b"", lines.MalformedError),
    ],
)
def test_bad_first_lines(line: bytes, error: type[Exception]) -> None:
    for _ in range(2):
        with pytest.raises(error):
            lines.known_first_line(line)


def test_status_lines() -> None:
    assert lines.known_status_line(b"HTTP/1.1 200 OK") == (200, True)
    assert lines.known_status_line(b"HTTP/1.0 404") == (404, False)
    with pytest.raises(lines.VersionError):
        lines.known_status_line(b"HTTP/2.0 200 OK")
    with pytest.raises(lines.MalformedError):
        lines.known_status_line(b"HTTP/1.1 20 OK")


def test_memory_is_bounded() -> None:
    for number in range(3000):
        lines.known_request_line(b"etag: %d" % number)
        lines.known_request_line(b"x-%d: 1" % number)
        lines.known_first_line(b"GET /%d HTTP/1.1" % number)
    assert len(REQUEST) <= 1024
    assert len(FIRST) <= 1024
