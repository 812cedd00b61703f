"""Header fields of HTTP/2 messages: checked and mapped in one pass, both ways.

Source: RFC 9113 sections 8.1 to 8.5, RFC 8441; spec hardening section 4.3 A 18, B 27.

This replaces python-h2's own validation, which costs 16 µs a request (per-octet loops) and can only
end the connection, where a malformed message is a stream error. Nothing python-h2 refuses passes
here: tests/sidecar/http/test_h2.py compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, final

from sidecar.errors import RequestError, SidecarError
from sidecar.http.h2_hpack import Block
from sidecar.http.headers import HOP_BY_HOP, Field, Headers

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]++").fullmatch
_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?").fullmatch
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++").fullmatch
_PATH = re.compile(rb'/[!"$-~]*+').fullmatch
_LENGTH = re.compile(rb"[0-9]{1,18}").fullmatch

_HOST, _LENGTH_FIELD, _COOKIE, _TE, _EXPECT, _CONNECTION, _DROP = range(1, 8)
_SPECIAL: Final = {
    b"host": _HOST,
    b"content-length": _LENGTH_FIELD,
    b"cookie": _COOKIE,
    b"te": _TE,
    b"expect": _EXPECT,
    b"connection": _CONNECTION,
    b"proxy-connection": _CONNECTION,
    b"keep-alive": _CONNECTION,
    b"transfer-encoding": _CONNECTION,
    b"upgrade": _CONNECTION,
    b"trailer": _DROP,
    b"proxy-authenticate": _DROP,
}
_RESPONSE_SPECIAL: Final = {
    name: kind for name, kind in _SPECIAL.items() if kind in (_LENGTH_FIELD, _CONNECTION)
} | {b"trailer": _DROP}
_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_NOT_SENT: Final = HOP_BY_HOP | {b"host"}
_NOT_IN_TRAILERS: Final = HOP_BY_HOP | {
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"host",
    b"proxy-authorization",
    b"range",
    b"set-cookie",
    b"www-authenticate",
    b"x-forwarded-client-cert",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
}
"""Fields that frame, route or authenticate, which cannot come after a body (hardening case 14)."""


class MessageError(SidecarError):
    """A message that breaks RFC 9113 section 8: its stream is reset with PROTOCOL_ERROR."""


@final
@dataclass(frozen=True, slots=True)
class FieldRules:
    """What a request head may be. `check_authority(raw) -> canonical`, raises RequestError."""

    check_authority: Callable[[str], str]
    header_count: int = 100
    allows_extended_connect: bool = False


@final
@dataclass(slots=True)
class RequestHead:
    """A mapped request; `headers` without Host and hop-by-hop fields. `length` is Content-Length.

    `target` is `:path`, or the authority for plain CONNECT; `protocol` that of an extended CONNECT.
    """

    method: str
    authority: str
    target: str
    headers: Headers
    length: int | None
    protocol: str
    wants_trailers: bool
    expects_continue: bool


@final
@dataclass(slots=True)
class ResponseHead:
    """A mapped response, informational or final."""

    status: int
    headers: Headers
    length: int | None


def request_head(block: Block, rules: FieldRules) -> RequestHead:
    """Map a request's block. Raises MessageError (reset) and RequestError (an answer: 4xx)."""
    fields = block.fields
    if block.is_oversized or len(fields) > rules.header_count + len(_REQUEST_PSEUDO):
        raise RequestError(431, "InvalidRequest", "request header fields too large")
    pseudo, start = _pseudo(fields)
    head = _request_fields(fields, start)
    if len(fields) - start > rules.header_count:
        raise RequestError(431, "InvalidRequest", "too many header fields")
    method, target, protocol = _request_line(pseudo, rules)
    head.method = method.decode("ascii")
    head.target = target.decode("ascii")
    head.protocol = protocol
    _set_authority(head, pseudo.get(b":authority"), rules)
    if method == b"CONNECT" and not protocol:
        head.target = head.authority
    return head


def _pseudo(fields: list[Field]) -> tuple[dict[bytes, bytes], int]:
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] != b":":
            break
        if name not in _REQUEST_PSEUDO or name in found:
            raise MessageError("unknown or repeated pseudo-header field")
        if not _VALUE(value):
            raise MessageError("illegal pseudo-header field value")
        found[name] = value
    return found, len(found)


def _request_line(pseudo: dict[bytes, bytes], rules: FieldRules) -> tuple[bytes, bytes, str]:
    method = pseudo.get(b":method", b"")
    if not _METHOD(method):
        raise MessageError("missing or illegal :method")
    protocol = pseudo.get(b":protocol")
    if method == b"CONNECT" and protocol is None:
        if b":path" in pseudo or b":scheme" in pseudo or not pseudo.get(b":authority"):
            raise MessageError("CONNECT takes an :authority alone")
        return method, b"", ""
    if protocol is not None and not (
        rules.allows_extended_connect and method == b"CONNECT" and _METHOD(protocol)
    ):
        raise MessageError("extended CONNECT is not enabled")
    if pseudo.get(b":scheme") not in (b"http", b"https"):
        raise MessageError("missing or unknown :scheme")
    path = pseudo.get(b":path", b"")
    if not _PATH(path) and not (path == b"*" and method == b"OPTIONS"):
        raise MessageError("missing or illegal :path")
    return method, path, "" if protocol is None else protocol.decode("ascii").lower()


def _request_fields(fields: list[Field], start: int) -> RequestHead:
    head = RequestHead("", "", "", Headers(), None, "", False, False)
    headers = head.headers
    cookies: list[bytes] = []
    special = _SPECIAL.get
    for field in fields[start:] if start else fields:
        name, value = field
        if not _NAME(name) or not _VALUE(value):
            raise MessageError("illegal header field")
        kind = special(name)
        # Fast path: most fields mean nothing here.
        if kind is None:
            # As http.h1 does: an underscore twin of a field we set would be the same variable to
            # a CGI-like upstream (hardening case 38).
            if b"_" not in name:
                headers.append(field)
        elif kind == _COOKIE:
            cookies.append(value)
        else:
            _request_special(head, kind, value)
    if cookies:
        # RFC 9113 section 8.2.3: crumbs are one field for whoever reads them next.
        headers.append((b"cookie", b"; ".join(cookies)))
    return head


def _request_special(head: RequestHead, kind: int, value: bytes) -> None:
    if kind == _LENGTH_FIELD:
        _set_length(head, value)
    elif kind == _TE:
        if value.lower() != b"trailers":
            raise MessageError("te may only be trailers")
        head.wants_trailers = True
    elif kind == _HOST:
        if head.authority:
            raise MessageError("repeated host")
        # Kept raw until `_set_authority` compares it; a space cannot come from a valid value.
        head.authority = " " + value.decode("latin-1")
    elif kind == _EXPECT:
        if value.lower() != b"100-continue":
            raise RequestError(417, "InvalidRequest", "expectation failed")
        head.expects_continue = True
    elif kind == _CONNECTION:
        raise MessageError("connection-specific header field")


def _set_authority(head: RequestHead, authority: bytes | None, rules: FieldRules) -> None:
    host = head.authority[1:] if head.authority else None
    if authority is None:
        if host is None:
            raise RequestError(400, "InvalidRequest", "missing :authority")
        raw = host
    else:
        raw = authority.decode("latin-1")
        if host is not None and host.lower() != raw.lower():
            raise RequestError(400, "InvalidRequest", "Host differs from :authority")
    head.authority = rules.check_authority(raw)


def _set_length(head: RequestHead | ResponseHead, value: bytes) -> None:
    if not _LENGTH(value):
        raise MessageError("illegal content-length")
    length = int(value)
    if head.length is None:
        head.length = length
        head.headers.append((b"content-length", value))
    elif head.length != length:
        raise MessageError("conflicting content-length")


def response_head(block: Block, header_count: int) -> ResponseHead:
    """Map a response's block. Raises MessageError."""
    fields = block.fields
    if block.is_oversized or len(fields) > header_count + 1:
        raise MessageError("response header fields too large")
    if not fields or fields[0][0] != b":status":
        raise MessageError("missing :status")
    status = fields[0][1]
    if len(status) != 3 or not status.isdigit() or status < b"100" or status == b"101":
        raise MessageError("illegal :status")
    head = ResponseHead(int(status), Headers(), None)
    special = _RESPONSE_SPECIAL.get
    for field in fields[1:]:
        name, value = field
        if not _NAME(name) or not _VALUE(value):
            raise MessageError("illegal header field")
        kind = special(name)
        if kind is None:
            head.headers.append(field)
        elif kind == _LENGTH_FIELD:
            _set_length(head, value)
        elif kind == _CONNECTION:
            raise MessageError("connection-specific header field")
    return head


def trailers(block: Block, header_count: int, *, from_client: bool = False) -> Headers:
    """A trailer section; fields that may not come so late are dropped, and from a client those
    with an underscore as well. Raises MessageError."""
    fields = block.fields
    if block.is_oversized or len(fields) > header_count:
        raise MessageError("trailer section too large")
    for name, value in fields:
        if not _NAME(name) or not _VALUE(value):
            raise MessageError("illegal trailer field")
    if from_client:
        fields = [field for field in fields if b"_" not in field[0]]
    return Headers(field for field in fields if field[0] not in _NOT_IN_TRAILERS)


def outgoing(fields: Iterable[Field]) -> list[Field]:
    """Fields as they may go out: hop-by-hop ones and Host left out.

    Raises MessageError on a name or value that would be malformed on the wire: whoever made it
    (a policy, an HTTP/1.1 upstream) must not be able to break the peer's parser.
    """
    sent = []
    for field in fields:
        name, value = field
        if name in _NOT_SENT:
            continue
        if not _NAME(name) or not _VALUE(value):
            stripped = value.strip(b" \t")
            if not _NAME(name) or not _VALUE(stripped):
                raise MessageError("a header field cannot be sent")
            sent.append((name, stripped))
            continue
        sent.append(field)
    return sent
