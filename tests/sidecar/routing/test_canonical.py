"""One canonical form of authority and path; hardening cases 36, 37 and 38."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import RequestError
from sidecar.routing import canonical

AUTHORITIES = [
    ("example.com", "example.com"),
    ("EXAMPLE.com:8080", "example.com:8080"),
    ("example.com.", "example.com"),
    ("example.com.:443", "example.com:443"),
    ("localhost", "localhost"),
    ("my_service-1", "my_service-1"),
    ("10.0.0.1:80", "10.0.0.1:80"),
    ("[::1]", "[::1]"),
    ("[2001:DB8:0:0::1]:443", "[2001:db8::1]:443"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("a:65535", "a:65535"),
]


@pytest.mark.parametrize(("raw", "expected"), AUTHORITIES)
def test_authority(raw: str, expected: str) -> None:
    assert canonical.authority(raw) == expected
    assert canonical.authority(expected) == expected


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(raw, id=f"case-36-{name}")
        for name, raw in [
            ("fragment-and-userinfo", "a/#@b"),
            ("query", "a?x"),
            ("userinfo", "a:80@b"),
            ("userinfo-plain", "user@b"),
            ("path", "a/b"),
            ("backslash", "a\\b"),
            ("empty", ""),
            ("only-port", ":80"),
            ("only-dot", "."),
            ("empty-port", "a:"),
            ("port-zero", "a:0"),
            ("port-leading-zero", "a:080"),
            ("port-too-big", "a:65536"),
            ("port-too-long", "a:000080"),
            ("port-sign", "a:+80"),
            ("port-underscore", "a:8_0"),
            ("port-unicode", "a:\xb2"),
            ("port-letters", "a:http"),
            ("two-ports", "a:80:80"),
            ("space-inside", "a b"),
            ("space-before", " a"),
            ("space-after", "a "),
            ("tab", "a\tb"),
            ("cr-lf", "a\r\nx: y"),
            ("nul", "a\x00b"),
            ("non-ascii", "b\xfccher.example"),
            ("comma", "a,b"),
            ("semicolon", "a;b"),
            ("percent", "a%2eb"),
            ("empty-label", "a..b"),
            ("leading-dot", ".a"),
            ("two-final-dots", "a.."),
            ("wildcard", "*.a"),
            ("long-label", "a" * 64),
            ("long-name", ".".join(["a" * 50] * 6)),
            ("endless", "a" * 10_000),
            ("bare-ipv6", "::1"),
            ("bracket-open", "[::1"),
            ("bracket-name", "[a.example]"),
            ("bracket-trail", "[::1]x"),
            ("bracket-empty-port", "[::1]:"),
            ("bracket-inside", "a[::1]"),
            ("zone", "[fe80::1%25eth0]"),
            ("zone-raw", "[fe80::1%eth0]"),
            ("ipvfuture", "[v1.a]"),
        ]
    ],
)
def test_authority_is_refused(raw: str) -> None:
    for _ in range(2):
        with pytest.raises(RequestError) as caught:
            canonical.authority(raw)
        assert caught.value.status == 400
        assert caught.value.close


@given(st.text(max_size=40))
def test_authority_is_stable_and_harmless(raw: str) -> None:
    try:
        text = canonical.authority(raw)
    except RequestError:
        return
    assert canonical.authority(text) == text
    assert not set(text) & set("/\\?#@ %\t\r\n\0")
    assert text == text.lower()
    assert text.isascii()


def test_host_of() -> None:
    assert canonical.host_of("a:80") == "a"
    assert canonical.host_of("a") == "a"
    assert canonical.host_of("[::1]:80") == "[::1]"
    assert canonical.host_of("[::1]") == "[::1]"


PATHS = [
    # name, target, canonical path, forwarded target (None: as received)
    ("root", "/", "/", None),
    ("plain", "/a/b.json", "/a/b.json", None),
    ("well-known", "/.well-known/agent.json", "/.well-known/agent.json", None),
    ("query", "/a?x=/../y&z=%2e%2e", "/a", None),
    ("empty-query", "/a?", "/a", None),
    ("trailing-slash", "/a/", "/a/", None),
    ("sub-delims", "/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,=", None),
    ("tilde-encoded", "/%7Euser", "/~user", None),
    ("letters-encoded", "/%61dmin", "/admin", None),
    ("lower-case-hex", "/a%c3%a9", "/a%C3%A9", None),
    ("raw-utf8", "/a\xc3\xa9", "/a%C3%A9", None),
    ("braces", "/{id}|x", "/%7Bid%7D%7Cx", None),
    ("encoded-space", "/a%20b", "/a%20b", None),
    ("encoded-slash-upper", "/%40scope%2Fname", "/%40scope%2Fname", None),
    ("encoded-slash-lower", "/%40scope%2fname", "/%40scope%2Fname", None),
    ("encoded-question-mark", "/a%3Fb", "/a%3Fb", None),
    ("double-encoding-stays", "/%252e%252e/a", "/%252e%252e/a", None),
    ("parameter", "/a;v=1/b", "/a;v=1/b", None),
    ("parameter-only", "/;x=1/b", "/;x=1/b", None),
    ("merged", "//a///b//", "/a/b/", None),
    ("only-slashes", "///", "/", None),
    ("three-dots", "/.../a..b/..c", "/.../a..b/..c", None),
    ("dot-dot", "/a/../admin", "/admin", "/admin"),
    ("dot-dot-query", "/a/../admin?q=1", "/admin", "/admin?q=1"),
    ("dot-dot-empty-query", "/a/../admin?", "/admin", "/admin?"),
    ("encoded-dots", "/a/%2e%2e/admin", "/admin", "/admin"),
    ("half-encoded-dots", "/a/.%2E/admin", "/admin", "/admin"),
    ("dot", "/a/./b", "/a/b", "/a/b"),
    ("final-dot", "/a/.", "/a/", "/a/"),
    ("final-dot-dot", "/a/b/..", "/a/", "/a/"),
    ("back-to-root", "/a/..", "/", "/"),
    ("dots-and-encoded", "/x/../%2fa", "/%2Fa", "/%2Fa"),
]


@pytest.mark.parametrize(
    ("target", "path", "forwarded"),
    [pytest.param(*row[1:], id=f"case-37-{row[0]}") for row in PATHS],
)
def test_path(target: str, path: str, forwarded: str | None) -> None:
    assert canonical.path(target) == path
    query = target.partition("?")[2]
    assert canonical.resolve(target) == (path, query, target if forwarded is None else forwarded)
    assert canonical.path(path) == path


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(target, id=f"case-37-{name}")
        for name, target in [
            ("empty", ""),
            ("relative", "a/b"),
            ("query-alone", "?x"),
            ("star-and-more", "*x"),
            ("absolute-form", "http://a/b"),
            ("out-of-root", "/../etc/passwd"),
            ("out-of-root-deeper", "/a/../../etc"),
            ("out-of-root-encoded", "/%2e%2e/etc"),
            ("nul", "/a%00b"),
            ("encoded-newline", "/a%0d%0aX"),
            ("encoded-delete", "/a%7f"),
            ("raw-nul", "/a\x00"),
            ("raw-space", "/a b"),
            ("raw-tab", "/a\tb"),
            ("raw-delete", "/a\x7f"),
            ("backslash", "/a\\..\\b"),
            ("encoded-backslash", "/a%5cb"),
            ("encoded-backslash-upper", "/a%5Cb"),
            ("fragment", "/a#b"),
            ("fragment-in-query", "/a?b#c"),
            ("space-in-query", "/a?b c"),
            ("newline-in-query", "/a?b\nc"),
            ("broken-encoding", "/a%zz"),
            ("cut-encoding", "/a%2"),
            ("cut-encoding-end", "/a%"),
            ("overlong-slash", "/a%c0%afb"),
            ("overlong-dot", "/%c0%ae%c0%ae/b"),
            ("overlong-three", "/%e0%80%af"),
            ("overlong-raw", "/a\xc0\xafb"),
            ("surrogate", "/%ed%a0%80"),
            ("cut-utf8", "/a%c3"),
            ("latin-1", "/caf%e9"),
            ("dots-semicolon", "/a/..;/admin"),
            ("dots-parameter", "/a/..;x=1/admin"),
            ("dot-semicolon", "/a/.;/admin"),
            ("dots-encoded-semicolon", "/a/..%3b/admin"),
            ("encoded-dots-semicolon", "/a/%2e%2e;/admin"),
            ("dots-encoded-slash", "/a/..%2fadmin"),
            ("encoded-slash-dots", "/a%2f../admin"),
            ("encoded-slash-dots-slash", "/a%2F..%2Fadmin"),
            ("empty-and-dots", "/a//../b"),
            ("dots-and-empty", "/a/..//b"),
            ("empty-first-and-dots", "//a/../b"),
        ]
    ],
)
def test_path_is_refused(target: str) -> None:
    with pytest.raises(RequestError) as caught:
        canonical.resolve(target)
    assert caught.value.status == 400


def test_options_star() -> None:
    assert canonical.resolve("*") == ("*", "", "*")


TARGET_TEXT = st.text(st.sampled_from("/..;%2eEfFcC30aA5b?x\\~ \xc3\xa9{"), max_size=20).map(
    lambda text: "/" + text
)


@given(TARGET_TEXT | st.text(st.characters(max_codepoint=255), max_size=20))
def test_canonical_path_is_stable_and_resolved(target: str) -> None:
    try:
        path, query, forwarded = canonical.resolve(target)
    except RequestError:
        return
    assert canonical.path(path) == path
    if path == "*":
        return
    segments = path.split("/")
    assert segments[0] == ""
    assert "" not in segments[1:-1]
    assert not {".", ".."} & set(segments)
    assert path.isascii()
    assert "?" not in path
    # What goes upstream is matched as what came in.
    assert canonical.resolve(forwarded)[:2] == (path, query)
    assert forwarded == target or forwarded.startswith(path)


def test_configured_paths() -> None:
    assert canonical.configured("/café au lait") == "/caf%C3%A9%20au%20lait"
    assert canonical.configured("/a//b/") == "/a/b/"
    assert canonical.configured("/%7ea") == "/~a"


@pytest.mark.parametrize("text", ["a", "/a?b", "/a#b", "/..", "/a\\b", "/%00", "/a\n", "/%e9"])
def test_configured_path_that_nothing_equals(text: str) -> None:
    with pytest.raises(ValueError):
        canonical.configured(text)
