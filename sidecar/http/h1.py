"""HTTP/1.x: strict parsing of heads, strict decoding of bodies, encoding. Bytes in, values out.

Source: RFC 9112, RFC 9110; spec hardening section 4.3 A.

Anything ambiguous raises RequestError or UpstreamError and is never repaired: two parsers that
disagree about a message's end are how requests are smuggled. A head ends at its first empty line;
it is cut at its line ends, and sidecar.http.lines checks every line. What is accepted is exactly
what is written in these two files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, final

from sidecar.errors import RequestError, UpstreamError
from sidecar.http.headers import UNNOMINATABLE, Field, Headers
from sidecar.http.lines import (
    CLIENT_CERT,
    CODING,
    CONNECTION,
    DROP,
    EXPECT,
    HOST,
    LENGTH,
    TE,
    TOKEN,
    UPGRADE,
    MalformedError,
    VersionError,
    known_first_line,
    known_request_line,
    known_response_line,
    known_status_line,
)
from sidecar.http.spelling import respelt

CHUNKED: Final = -1
"""`length` of a message framed by chunks."""
UNTIL_CLOSE: Final = -2
"""`length` of a response that ends with its connection."""

FIELDS = rb"((?:%s++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n" % TOKEN
_HEAD_END: Final = b"\r\n\r\n"
_BLANK_LINES = re.compile(rb"(?:\r\n)*+")
LONE_CR_OR_LF = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")


def bad_request(message: str, status: int = 400) -> RequestError:
    """A malformed request: answered, and the connection ends, for its framing cannot be trusted."""
    return RequestError(status, "InvalidRequest", message, close=True)


@final
@dataclass(slots=True)
class RequestHead:
    """A request's head. `headers`: without Host, Content-Length is kept, hop-by-hop fields gone.

    `host`: the Host field as received, None when absent. `length`: octets, or CHUNKED.
    `size`: octets of the head in the buffer. `upgrade`: lower-case protocol or "".
    `has_client_cert`: the client wrote a field that it may have no right to (`client_cert`).
    """

    method: str
    target: str
    version: str
    headers: Headers
    host: bytes | None
    length: int
    keep_alive: bool
    upgrade: str
    expects_continue: bool
    wants_trailers: bool
    size: int
    has_client_cert: bool


@final
@dataclass(slots=True)
class ResponseHead:
    """A response's head. `length`: octets, CHUNKED or UNTIL_CLOSE; `declared`: as announced."""

    status: int
    version: str
    headers: Headers
    length: int
    declared: int | None
    keep_alive: bool
    upgrade: str
    size: int


@final
@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds of a head: octets of the first line and of the whole, and how many fields."""

    line_bytes: int = 8 * 1024
    block_bytes: int = 32 * 1024
    count: int = 100


def parse_request(data: bytes, limits: HeadLimits) -> RequestHead | None:
    """The head at the start of `data`, or None when more octets are needed.

    `data` is not empty and starts at the request line (see `skip_blank`).
    Raises RequestError, `close` set.
    """
    end = data.find(_HEAD_END)
    if end < 0 or end + 4 > limits.block_bytes:
        _explain_request(data, limits)
        return None
    lines = data[:end].split(b"\r\n")
    first = lines.pop(0)
    if len(first) > limits.line_bytes:
        _refuse_size(data, limits)
    try:
        method, target, is_11 = known_first_line(first)
        if len(lines) > limits.count:
            raise bad_request("too many header fields", 431)
        fields = list(map(known_request_line, lines))
    except MalformedError:
        raise bad_request("malformed request head") from None
    except VersionError:
        raise bad_request("HTTP version not supported", 505) from None
    return _request_head(method, target, is_11, fields, end + 4)


def _request_head(  # noqa: C901 - one pass, one branch a field; a call each would cost more
    method: str, target: str, is_11: bool, fields: list[tuple[Field, int]], size: int
) -> RequestHead:
    headers = Headers()
    host: bytes | None = None
    length = 0
    has_length = has_coding = expects = trailers = has_client_cert = False
    connection = upgrade = b""
    for field, special in fields:
        if not special:
            headers.append(field)
            continue
        value = field[1]
        if special == DROP:
            continue
        if special == HOST:
            if host is not None:
                raise bad_request("more than one Host field")
            host = value
        elif special == LENGTH:
            if has_length:
                raise bad_request("more than one Content-Length field")
            length = parse_length(value)
            has_length = True
            headers.append(field)
        elif special == CODING:
            if has_coding:
                raise bad_request("more than one Transfer-Encoding field")
            has_coding = True
            if value.lower() != b"chunked":
                raise bad_request("transfer coding not supported", 501)
        elif special == CONNECTION:
            connection = connection + b"," + value.lower() if connection else value.lower()
        elif special == UPGRADE:
            upgrade = value.lower()
        elif special == EXPECT:
            if value.lower() != b"100-continue":
                raise bad_request("expectation failed", 417)
            expects = True
        elif special == TE:
            trailers = b"trailers" in value.lower()
        elif special == CLIENT_CERT:
            has_client_cert = True
            headers.append(field)
    if has_coding:
        if not is_11:
            raise bad_request("Transfer-Encoding in an HTTP/1.0 request")
        if has_length:
            raise bad_request("both Content-Length and Transfer-Encoding")
        length = CHUNKED
    if host is None and is_11:
        raise bad_request("missing Host field")
    keep_alive = is_11
    wanted = ""
    if connection == b"keep-alive":
        keep_alive = True
    elif connection:
        options = {option.strip() for option in connection.split(b",")}
        keep_alive = b"close" not in options and (is_11 or b"keep-alive" in options)
        # Bytes behind an upgrade request belong to the new protocol only after the 101; a body
        # makes that border ambiguous, so such a request is served without its upgrade.
        if upgrade and b"upgrade" in options and is_11 and not length and upgrade != b"h2c":
            wanted = upgrade.decode("latin-1")
        drop_nominated(headers, options)
    return RequestHead(
        method,
        target,
        "HTTP/1.1" if is_11 else "HTTP/1.0",
        headers,
        host,
        length,
        keep_alive,
        wanted,
        expects and is_11,
        trailers,
        size,
        has_client_cert,
    )


def drop_nominated(headers: Headers, options: set[bytes]) -> None:
    """Remove the fields that `Connection` names, but never those a later check relies on."""
    nominated = options - UNNOMINATABLE - {b"close", b"keep-alive", b"upgrade", b"te", b""}
    if nominated:
        headers.remove_any(nominated)


def parse_length(value: bytes) -> int:
    """A Content-Length: 1 to 18 digits and nothing else. Raises RequestError.

    A leading zero is refused: a parser that took it for octal would see another body.
    """
    if (
        not value.isdigit()  # ASCII alone, of octets
        or len(value) > 18
        or (value[0] == 0x30 and len(value) > 1)
    ):
        raise bad_request("invalid Content-Length")
    return int(value)


CRUMBS_BYTES: Final = 1024
"""Up to so much of an incomplete section is parsed anew whenever more of it comes."""


def is_crumb(data: bytes, size: int, limits: HeadLimits) -> bool:
    """Whether octets just added to an incomplete section of now `size` octets change nothing."""
    return size <= limits.block_bytes and b"\n" not in data and b"\r" not in data


def skip_blank(data: bytes) -> bytes:
    """`data` without the empty lines a client may send before a request line (RFC 9112 2.2)."""
    # Fast path: hardly anybody sends one.
    if data[0] != 0x0D:
        return data
    blank = _BLANK_LINES.match(data)
    assert blank is not None
    return data[blank.end() :]


def _refuse_size(data: bytes, limits: HeadLimits) -> None:
    line_end = data.find(b"\r\n")
    if (line_end if line_end >= 0 else len(data)) > limits.line_bytes:
        raise bad_request("request line too long", 414)
    raise bad_request("request header fields too large", 431)


def _explain_request(data: bytes, limits: HeadLimits) -> None:
    """The head did not match: raise for what is wrong, or return when it is only incomplete."""
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[: end + 4]
    line_end = head.find(b"\r\n")
    if (line_end if line_end >= 0 else len(head)) > limits.line_bytes or len(
        head
    ) > limits.block_bytes:
        _refuse_size(head, limits)
    if end >= 0 or LONE_CR_OR_LF.search(head):
        raise bad_request("malformed request head")
    if line_end < 0:
        # A lone CR may become an empty line, which is skipped.
        if head != b"\r" and not _PARTIAL_LINE.fullmatch(head):
            raise bad_request("malformed request line")
        return
    if head.count(b"\r\n") > limits.count + 2:
        raise bad_request("too many header fields", 431)
    if not _PARTIAL.fullmatch(head):
        raise bad_request("malformed request head")


_PARTIAL_LINE = re.compile(rb"%s*+(?: (?:[\x21-\x7e]*+(?: [HTP/0-9.]*+\r?)?)?)?" % TOKEN)
_PARTIAL = re.compile(
    rb"%s++ [\x21-\x7e]++ HTTP/\d\.\d\r\n(?:%s++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+"
    rb"(?:%s++(?::[\t\x20-\x7e\x80-\xff]*+\r?)?|\r)?" % (TOKEN, TOKEN, TOKEN)
)


def bad_response(message: str) -> UpstreamError:
    """A response that cannot be trusted: 502, and its connection is never used again."""
    return UpstreamError(502, "UpstreamFailure", f"upstream call failed: {message}")


def parse_response(data: bytes, is_head: bool, limits: HeadLimits) -> ResponseHead | None:
    """The response head at the start of `data`, None while incomplete. Raises UpstreamError."""
    end = data.find(_HEAD_END)
    if end < 0:
        if len(data) > limits.block_bytes:
            raise bad_response("response head too large")
        if LONE_CR_OR_LF.search(data) or not data.startswith(b"HTTP/1"[: len(data)]):
            raise bad_response("malformed response head")
        return None
    if end + 4 > limits.block_bytes:
        raise bad_response("response head too large")
    lines = data[:end].split(b"\r\n")
    if len(lines) > limits.count + 1:
        raise bad_response("too many header fields")
    try:
        status, is_11 = known_status_line(lines.pop(0))
        fields = list(map(known_response_line, lines))
    except MalformedError:
        raise bad_response("malformed response head") from None
    except VersionError:
        raise bad_response("unexpected HTTP version") from None
    if status < 100:
        raise bad_response("invalid status")
    return _response_head(status, is_11, fields, is_head, end + 4)


def _response_head(  # noqa: C901 - as _request_head
    status: int, is_11: bool, fields: list[tuple[Field, int]], is_head: bool, size: int
) -> ResponseHead:
    headers = Headers()
    declared: int | None = None
    coded = False
    connection = upgrade = b""
    for field, special in fields:
        if not special:
            headers.append(field)
            continue
        value = field[1]
        if special == DROP:
            continue
        if special == LENGTH:
            length = _response_length(value)
            if declared is not None and declared != length:
                raise bad_response("conflicting Content-Length fields")
            declared = length
        elif special == CODING:
            if coded or value.lower() != b"chunked":
                raise bad_response("transfer coding not supported")
            coded = True
        elif special == CONNECTION:
            connection = connection + b"," + value.lower() if connection else value.lower()
        elif special == UPGRADE:
            upgrade = value.lower()
    keep_alive = is_11
    if connection == b"keep-alive":
        keep_alive = True
    elif connection:
        options = {option.strip() for option in connection.split(b",")}
        keep_alive = b"close" not in options and (is_11 or b"keep-alive" in options)
        drop_nominated(headers, options)
    if coded and declared is not None:
        raise bad_response("both Content-Length and Transfer-Encoding")
    if status < 200 or status in (204, 304) or is_head:
        if status == 204 or status < 200:
            # It speaks of a body there cannot be: should one follow, it is not the next answer.
            if status == 204 and (coded or declared):
                keep_alive = False
            declared = None
        length = 0
    elif coded:
        if not is_11:
            raise bad_response("Transfer-Encoding in an HTTP/1.0 response")
        length = CHUNKED
    elif declared is not None:
        length = declared
    else:
        length = UNTIL_CLOSE
    return ResponseHead(
        status,
        "HTTP/1.1" if is_11 else "HTTP/1.0",
        headers,
        length,
        declared,
        keep_alive and length != UNTIL_CLOSE,
        upgrade.decode("latin-1"),
        size,
    )


def _response_length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise bad_response("invalid Content-Length")
    return int(value)


_SKIP: Final = frozenset((b"content-length", b"transfer-encoding", b"connection", b"keep-alive"))
_REASONS: Final = {
    100: b"Continue", 101: b"Switching Protocols", 102: b"Processing", 103: b"Early Hints",
    200: b"OK", 201: b"Created", 202: b"Accepted", 204: b"No Content", 206: b"Partial Content",
    301: b"Moved Permanently", 302: b"Found", 303: b"See Other", 304: b"Not Modified",
    307: b"Temporary Redirect", 308: b"Permanent Redirect", 400: b"Bad Request",
    401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    408: b"Request Timeout", 409: b"Conflict", 413: b"Content Too Large", 414: b"URI Too Long",
    415: b"Unsupported Media Type", 417: b"Expectation Failed", 421: b"Misdirected Request",
    422: b"Unprocessable Content", 426: b"Upgrade Required", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error",
    501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable",
    504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}  # fmt: skip
_STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %s\r\n" % (status, reason) for status, reason in _REASONS.items()
}


def status_line(status: int) -> bytes:
    """`HTTP/1.1 <status> <reason>CRLF`; an unknown status has an empty reason."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def encode_fields(headers: list[Field], spelling: object = None) -> bytes:
    """Header lines without the ones that frame a message, which the sender writes itself.

    `spelling`: see `sidecar.http.spelling`.
    """
    # Fast path: spelling hardly ever matters to anybody.
    if spelling is None:
        lines = [b": ".join(field) for field in headers if field[0] not in _SKIP]
    else:
        kept = respelt((field for field in headers if field[0] not in _SKIP), spelling)
        lines = [b": ".join(field) for field in kept]
    lines.append(b"")
    return b"\r\n".join(lines)
