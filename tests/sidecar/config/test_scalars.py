"""Durations, targets, host names, and text from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from sidecar.config import scalars
from sidecar.config.scalars import (
    HostPort,
    UnixPath,
    check_hostname,
    duration_ns,
    duration_seconds,
    parse_target,
    parse_url_target,
)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("0s", 0),
        ("1ns", 1),
        ("100us", 100_000),
        ("100µs", 100_000),
        ("100μs", 100_000),
        ("500ms", 500_000_000),
        ("1s", 10**9),
        ("1.5s", 1_500_000_000),
        (".5s", 500_000_000),
        ("1.s", 10**9),
        ("1m30s", 90 * 10**9),
        ("10m0s", 600 * 10**9),
        ("1h", 3600 * 10**9),
        ("2562047h47m16.854775807s", 2**63 - 1),
    ],
)
def test_durations(text: str, ns: int) -> None:
    assert duration_ns(text) == ns
    assert duration_seconds(text) == ns / 1e9


@pytest.mark.parametrize(
    "text", ["", "1", "-1s", "+1s", "1 s", "1d", "s", "1s1", "1e3s", ".s", "\u0661s", "2562048h"]
)
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        duration_ns(text)


@given(st.integers(0, 10**6), st.integers(0, 999))
def test_durations_add_up(seconds: int, milliseconds: int) -> None:
    assert duration_ns(f"{seconds}s{milliseconds}ms") == duration_ns(
        f"{seconds}.{milliseconds:03}s"
    )


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("example.com:443", HostPort("example.com", 443)),
        ("Example.COM:443", HostPort("example.com", 443)),
        ("localhost:1", HostPort("localhost", 1)),
        ("10.0.0.1:65535", HostPort("10.0.0.1", 65535)),
        ("[::1]:80", HostPort("::1", 80)),
        ("my_svc:80", HostPort("my_svc", 80)),
        ("unix:/run/x.sock", UnixPath("/run/x.sock")),
    ],
)
def test_targets(text: str, target: HostPort | UnixPath) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a:",
        ":80",
        "a:0",
        "a:65536",
        "a:x",
        "a:-1",
        "a:\uff18",
        "::1:80",
        "[::1]",
        "[x]:80",
        "a b:80",
        "a:80/x",
        "http://a:80",
        "a..b:80",
        "-a:80",
        "a:1:2",
        "[::1%25eth0/]:80",
    ],
)
def test_bad_targets(text: str) -> None:
    with pytest.raises(ValueError, match="invalid host:port"):
        parse_target(text)


def test_empty_socket_path() -> None:
    with pytest.raises(ValueError, match="invalid unix socket path"):
        parse_target("unix:")


@pytest.mark.parametrize(
    ("text", "target", "has_tls"),
    [
        ("http://a", HostPort("a", 80), False),
        ("https://a", HostPort("a", 443), True),
        ("https://a:8443/", HostPort("a", 8443), True),
        ("https://[::1]", HostPort("::1", 443), True),
        ("http://[::1]:8080", HostPort("::1", 8080), False),
        ("a:1", HostPort("a", 1), False),
    ],
)
def test_url_targets(text: str, target: HostPort, has_tls: bool) -> None:
    assert parse_url_target(text) == (target, has_tls)


@pytest.mark.parametrize("text", ["https://a/path", "https://u:p@a", "https://a?x", "ftp://a"])
def test_bad_url_targets(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_url_target(text)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "*", "a", "a.b", "*.a.b", "10.0.0.1", "[::1]", "::1", "A.b"])
def test_hostnames(text: str) -> None:
    assert check_hostname(text) == text


@pytest.mark.parametrize("text", ["a b", "*a.b", "a.*", "**.a", "a/b", "a:80", "é.com", "a" * 64])
def test_bad_hostnames(text: str) -> None:
    with pytest.raises(ValueError, match="invalid hostname"):
        check_hostname(text)


class Reader:
    """The validation context over a real folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[str] = []

    def read(self, path: str) -> str:
        self.note(path)
        return (self.folder / path).read_text(encoding="utf-8")

    def note(self, path: str) -> None:
        self.seen.append(path)


def check(kind: Any, value: object, reader: Reader | None = None) -> Any:
    return TypeAdapter(kind).validate_python(value, context=reader)


def refusal(kind: Any, value: object, reader: Reader | None = None) -> str:
    with pytest.raises(ValidationError) as caught:
        check(kind, value, reader)
    return caught.value.errors()[0]["msg"]


def test_file_or_inline(tmp_path: Path) -> None:
    (tmp_path / "f").write_text(" text\n")
    (tmp_path / "b").write_bytes(b"\xff")
    reader = Reader(tmp_path)
    assert check(scalars.FileOrInline, "x", reader) == "x"
    assert check(scalars.FileOrInline, {"file": "f"}, reader) == " text\n"
    assert check(scalars.Secret, {"file": "f"}, reader) == "text"
    assert check(scalars.Secret, " x ", reader) == " x "
    assert reader.seen == ["f", "f"]
    assert check(scalars.FileOrInline, {"file": "f"}) == {"file": "f"}
    assert "cannot read `gone`: No such file" in refusal(
        scalars.FileOrInline, {"file": "gone"}, reader
    )
    assert "not UTF-8" in refusal(scalars.FileOrInline, {"file": "b"}, reader)
    pem = {"file": "-----BEGIN PRIVATE KEY-----\nMIGHAgEA"}
    assert "`-----BEGIN …`" in refusal(scalars.FileOrInline, pem, reader)


@pytest.mark.parametrize("value", [1, None, [], {}, {"file": 1}, {"file": "f", "url": "x"}])
def test_not_file_or_inline(value: object) -> None:
    refusal(scalars.FileOrInline, value)


def test_file_inline_or_remote() -> None:
    for value in ("x", {"url": "https://a/jwks"}, {"keys": []}):
        assert check(scalars.FileInlineOrRemote, value) == value
    refusal(scalars.FileInlineOrRemote, {"url": "file:///etc/passwd"})
    refusal(scalars.FileInlineOrRemote, 1)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (scalars.StringOrInt, [1, "50%"], [True, 1.5, None]),
        (scalars.StringBoolFloat, ["x", True, 0.5, 1], [None, []]),
        (scalars.StringOrList, ["a", ["a", "b"], []], [1, ["a", 1], None]),
        (scalars.BytesText, ["a", [0, 255]], [[256], [True], 1, ["a"]]),
        (scalars.HeaderName, ["x-a", "A"], ["", "a b", ":path", "a\n", "é"]),
        (scalars.HeaderOrPseudo, [":path", "x"], [":nope", "", "a:"]),
        (scalars.HeaderValue, ["", "a b"], ["a\nb", "a\r", "\x00"]),
        (scalars.NamespacedHostname, ["a/b"], ["a", "/b", "a/", "a/b/c"]),
    ],
)
def test_forms(kind: Any, good: list[object], bad: list[object]) -> None:
    for value in good:
        assert check(kind, value) == value
    for value in bad:
        refusal(kind, value)
