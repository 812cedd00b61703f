"""HTTP/1 requests that two parsers may read differently, with the answers they must get.

Source: RFC 9112; spec hardening section 4.3 A 1 to 17, D 36 to 38; the numbers begin the names.
"""

from __future__ import annotations

from dataclasses import dataclass

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"
"""What an attacker hopes that somebody takes for a request of its own."""


@dataclass(frozen=True)
class Hostile:
    """`statuses`: the answers that refuse it. The connection always ends after it."""

    name: str
    payload: bytes
    statuses: tuple[int, ...] = (400,)


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a.example") -> bytes:
    """A request head of these lines."""
    lines = [line, host, *fields] if host else [line, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(*fields: bytes, body: bytes = b"") -> bytes:
    """A POST with these fields and this body, framed or not."""
    return get(*fields, line=b"POST / HTTP/1.1") + body


def chunked(body: bytes) -> bytes:
    """A POST whose body is meant to be chunks."""
    return post(b"Transfer-Encoding: chunked", body=body)


def _length(value: bytes) -> bytes:
    return post(b"Content-Length:" + value, body=b"x" * 48)


def _coding(*values: bytes) -> bytes:
    return post(*(b"Transfer-Encoding:" + value for value in values), body=b"0\r\n\r\n")


_LENGTHS = {
    "plus_underscore": b" +1_0",
    "hex": b" 0x10",
    "negative": b" -48",
    "leading_zero": b" 010",
    "empty": b"",
    "letter": b" 1Z",
    "list": b" 5, 5",
    "inner_space": b" 1 0",
    "decimal_point": b" 4.0",
    "huge": b" 99999999999999999999",
    "arabic_digit": b" \xd9\xa1",
}
_CODINGS = {
    "leading_comma": (b" ,chunked",),
    "trailing_comma": (b" chunked,",),
    "xchunked": (b" xchunked",),
    "twice": (b" chunked, chunked",),
    "two_fields": (b" chunked", b" chunked"),
    "no_break_space": (b" \xa0chunked",),
    "vertical_tab": (b" \x0bchunked",),
    "identity": (b" identity",),
    "gzip_chunked": (b" gzip, chunked",),
    "parameter": (b" chunked;q=1",),
    "quoted": (b' "chunked"',),
    "empty": (b"",),
    "chunked_identity": (b" chunked", b" identity"),
}
_SIZES = {
    "underscore": b"0_2e",
    "hex_prefix": b"0x2",
    "plus": b"+2",
    "minus_zero": b"-0",
    "leading_space": b" 2",
    "trailing_space": b"2 ",
    "empty": b"",
    "17_digits": b"0" * 16 + b"2",
    "overflow": b"1" + b"0" * 16,
    "letter": b"g",
    "bare_cr": b"2\r",
    "nul": b"2\x00",
}
_LINE_ENDS = {
    "bare_lf": b"GET / HTTP/1.1\nHost: a.example\n\n",
    "bare_lf_field": b"GET / HTTP/1.1\r\nHost: a.example\nX: 1\r\n\r\n",
    "bare_lf_end": b"GET / HTTP/1.1\r\nHost: a.example\r\n\n",
    "bare_cr": b"GET / HTTP/1.1\rHost: a.example\r\r",
    "bare_cr_field": b"GET / HTTP/1.1\r\nHost: a.example\rX: 1\r\n\r\n",
    "cr_lf_cr_x": b"GET / HTTP/1.1\r\nHost: a.example\r\n\rX" + SMUGGLED,
    "cr_cr_lf": b"GET / HTTP/1.1\r\r\nHost: a.example\r\n\r\n",
    "leading_lf": b"\n" + get(),
    "leading_cr": b"\rX" + get(),
}
_FIELDS = {
    "space_before_colon": b"Content-Length : 5",
    "tab_before_colon": b"Transfer-Encoding\t: chunked",
    "obs_fold": b"X: 1\r\n 2",
    "obs_fold_coding": b"Transfer-Encoding:\r\n chunked",
    "leading_space": b" X: 1",
    "no_colon": b"X",
    "empty_name": b": x",
    "nul_value": b"X: a\x00b",
    "cr_value": b"X: a\rb",
    "lf_value": b"X: a\nb",
    "nul_name": b"X\x00: a",
    "del_value": b"X: a\x7fb",
    "non_ascii_name": b"\xc3\xa9: a",
    "quote_name": b'"x": a',
}
_LINES = {
    "no_version": b"GET /",
    "two_spaces": b"GET  / HTTP/1.1",
    "tab": b"GET\t/ HTTP/1.1",
    "trailing_space": b"GET / HTTP/1.1 ",
    "space_in_target": b"GET /a b HTTP/1.1",
    "lower_case_protocol": b"GET / http/1.1",
    "leading_space": b" GET / HTTP/1.1",
    "bad_method": b"G[T / HTTP/1.1",
    "two_digits": b"GET / HTTP/1.10",
    "nul": b"GET /\x00 HTTP/1.1",
    "non_ascii": b"GET /\xe9 HTTP/1.1",
    "fragment": b"GET /a#b HTTP/1.1",
    "no_slash": b"GET a HTTP/1.1",
    "asterisk_get": b"GET * HTTP/1.1",
    "ftp": b"GET ftp://a.example/ HTTP/1.1",
}
_HOSTS = {
    "fragment_user": b"a.example/#@b.example",
    "query": b"a.example?x",
    "user": b"a.example:80@b.example",
    "empty": b"",
    "slash": b"a.example/x",
    "comma": b"a.example, b.example",
    "space": b"a.example b.example",
    "big_port": b"a.example:65536",
    "empty_port": b"a.example:",
    "percent": b"a%2eexample",
    "non_ascii": b"\xe9.example",
}
_PATHS = {
    "over_root": b"/../admin",
    "encoded_over_root": b"/%2e%2e/admin",
    "parameters": b"/a/..;/admin",
    "encoded_slash_dots": b"/a/..%2fadmin",
    "backslash": b"/a\\admin",
    "encoded_backslash": b"/a%5cadmin",
    "nul": b"/a%00",
    "overlong": b"/a/%c0%ae%c0%ae/admin",
    "broken_escape": b"/a%2",
    "empty_then_dots": b"/a//../admin",
}

CASES: tuple[Hostile, ...] = (
    Hostile(
        "01-length_and_coding",
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    ),
    Hostile(
        "01-coding_and_length",
        post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
    ),
    Hostile("02-two_lengths", post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!")),
    Hostile(
        "03-same_length_twice", post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello")
    ),
    *(Hostile(f"04-length-{name}", _length(value)) for name, value in _LENGTHS.items()),
    *(
        Hostile(f"05-size-{name}", chunked(value + b"\r\nxx\r\n0\r\n\r\n"))
        for name, value in _SIZES.items()
    ),
    *(
        Hostile(f"06-coding-{name}", _coding(*values), (400, 501))
        for name, values in _CODINGS.items()
    ),
    Hostile(
        "07-coding_in_1.0",
        get(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0") + b"0\r\n\r\n",
    ),
    *(Hostile(f"08-line_end-{name}", payload) for name, payload in _LINE_ENDS.items()),
    *(Hostile(f"09-field-{name}", get(field)) for name, field in _FIELDS.items()),
    *(Hostile(f"09-line-{name}", get(line=line), (400, 505)) for name, line in _LINES.items()),
    Hostile("09-version-2", get(line=b"GET / HTTP/2.0"), (505,)),
    Hostile("09-version-0.9", b"GET /\r\n\r\n"),
    Hostile("09-version-1.2", get(line=b"GET / HTTP/1.2"), (505,)),
    Hostile("10-terminator-cr_x", chunked(b"2\r\nxx\rX0\r\n\r\n")),
    Hostile("10-terminator-xx", chunked(b"2\r\nxxXX0\r\n\r\n")),
    Hostile("10-terminator-lf", chunked(b"2\r\nxx\n0\r\n\r\n")),
    Hostile("10-terminator-none", chunked(b"2\r\nxx0\r\n\r\n")),
    Hostile("10-size_line-lf", chunked(b"2\nxx\r\n0\r\n\r\n")),
    Hostile("10-last_line-lf", chunked(b"2\r\nxx\r\n0\n\n")),
    Hostile("11-extension-cr", chunked(b"2;a=\rb\r\nxx\r\n0\r\n\r\n")),
    Hostile("11-extension-lf", chunked(b"2;a=\nb\r\nxx\r\n0\r\n\r\n")),
    Hostile("11-extension-nul", chunked(b"2;a=\x00\r\nxx\r\n0\r\n\r\n")),
    Hostile("14-trailer-fold", chunked(b"2\r\nxx\r\n0\r\nA: 1\r\n 2\r\n\r\n")),
    Hostile("14-trailer-no_colon", chunked(b"2\r\nxx\r\n0\r\nA\r\n\r\n")),
    Hostile("14-trailer-bare_cr", chunked(b"2\r\nxx\r\n0\r\nA: 1\rB: 2\r\n\r\n")),
    Hostile("15-expectation", post(b"Expect: 200-ok", b"Content-Length: 2", body=b"xx"), (417,)),
    *(Hostile(f"36-host-{name}", get(host=b"Host: " + host)) for name, host in _HOSTS.items()),
    Hostile("36-two_hosts", get(b"Host: b.example")),
    Hostile("36-same_host_twice", get(b"Host: a.example")),
    Hostile("36-no_host", get(host=b"", line=b"GET / HTTP/1.1")),
    Hostile("36-absolute_differs", get(line=b"GET http://b.example/ HTTP/1.1")),
    Hostile("36-absolute_user", get(line=b"GET http://a.example@b.example/ HTTP/1.1", host=b"")),
    *(
        Hostile(f"37-path-{name}", get(line=b"GET %b HTTP/1.1" % path))
        for name, path in _PATHS.items()
    ),
)

LARGE: tuple[Hostile, ...] = (
    Hostile("11-extension-16k", chunked(b"2;" + b"a" * 16384 + b"\r\nxx\r\n0\r\n\r\n")),
    Hostile("limit-line", get(line=b"GET /" + b"a" * 9000 + b" HTTP/1.1"), (414,)),
    Hostile("limit-field", get(b"X: " + b"a" * 40000), (431,)),
    Hostile("limit-fields", get(*[b"X: a"] * 120), (431,)),
    Hostile("limit-trailer", chunked(b"0\r\nX: " + b"a" * 40000 + b"\r\n\r\n")),
    Hostile("limit-trailers", chunked(b"0\r\n" + b"X: a\r\n" * 120 + b"\r\n")),
)
"""Those too long to be cut at every octet in a test."""
