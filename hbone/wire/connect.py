"""CONNECT and its answer: which fields they have, and what is said to one that breaks the rules.

Source: RFC 9113 sections 8.1.1, 8.2, 8.3 and 8.5; spec istio 1.3 to 1.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

from hbone.errors import HboneError
from hbone.wire.authority import Authority, BadAuthorityError, parse_authority

Field = tuple[bytes, bytes]
"""Lower-case name, value."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]++").fullmatch
_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?").fullmatch
_REQUEST_PSEUDO: Final = frozenset((b":method", b":authority", b":scheme", b":path", b":protocol"))
_CONNECTION: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_LENGTH: Final = b"content-length"
_MAX_FIELDS: Final = 100

BAD_REQUEST: Final = 400
DENIED: Final = 401
UNAVAILABLE: Final = 503
TOO_LARGE: Final = 431


@final
class MalformedError(HboneError):
    """A message that RFC 9113 calls malformed: its stream is reset with PROTOCOL_ERROR."""


@final
class BadConnectError(HboneError):
    """A request that is answered with `status` and an end."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@final
@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """`headers`: the regular fields in wire order, Host left out."""

    authority: Authority
    headers: tuple[Field, ...]

    def values(self, name: bytes) -> list[bytes]:
        """Each line of that field, in order."""
        return [value for field, value in self.headers if field == name]


@final
@dataclass(frozen=True, slots=True)
class ConnectAnswer:
    """`status` as sent: 200 alone opens the tunnel."""

    status: int
    headers: tuple[Field, ...]


def read_request(fields: list[Field]) -> ConnectRequest:
    """Raises: MalformedError, BadConnectError."""
    pseudo, start = _pseudo(fields)
    regular = _regular(fields, start)
    if pseudo.get(b":method") is None:
        raise MalformedError("no :method")
    if pseudo[b":method"] != b"CONNECT":
        raise BadConnectError(BAD_REQUEST, "the method is not CONNECT")
    if len(pseudo) != 2 or b":authority" not in pseudo:
        raise BadConnectError(BAD_REQUEST, "CONNECT has :method and :authority, no more, no less")
    try:
        authority = parse_authority(pseudo[b":authority"])
    except BadAuthorityError as error:
        raise BadConnectError(BAD_REQUEST, str(error)) from error
    headers = []
    for field in regular:
        if field[0] == _LENGTH:
            raise BadConnectError(BAD_REQUEST, "CONNECT with a length")
        if field[0] != b"host":
            headers.append(field)
        elif field[1].lower() != pseudo[b":authority"].lower():
            raise BadConnectError(BAD_REQUEST, "Host differs from :authority")
    return ConnectRequest(authority, tuple(headers))


def read_answer(fields: list[Field]) -> ConnectAnswer:
    """A final or informational answer. Raises: MalformedError."""
    if not fields or fields[0][0] != b":status":
        raise MalformedError("no :status")
    status = fields[0][1]
    if len(status) != 3 or not status.isdigit() or status < b"100" or status == b"101":
        raise MalformedError("illegal :status")
    return ConnectAnswer(int(status), tuple(_regular(fields, 1)))


def request_fields(authority: Authority, headers: Iterable[Field]) -> list[Field]:
    """Raises: MalformedError for a field that could not be sent."""
    opening = [(b":method", b"CONNECT"), (b":authority", str(authority).encode())]
    return opening + _sendable(headers)


def answer_fields(status: int, headers: Iterable[Field]) -> list[Field]:
    """Raises: MalformedError for a field that could not be sent."""
    assert 200 <= status < 600
    return [(b":status", b"%d" % status), *_sendable(headers)]


def _sendable(headers: Iterable[Field]) -> list[Field]:
    fields = _regular(list(headers), 0)
    if any(name == _LENGTH for name, _ in fields):
        raise MalformedError("a tunnel has no length")
    return fields


def _pseudo(fields: list[Field]) -> tuple[dict[bytes, bytes], int]:
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] != b":":
            break
        if name not in _REQUEST_PSEUDO or name in found or not _VALUE(value):
            raise MalformedError("unknown, repeated or illegal pseudo-header field")
        found[name] = value
    return found, len(found)


def _regular(fields: list[Field], start: int) -> list[Field]:
    if len(fields) - start > _MAX_FIELDS:
        raise BadConnectError(TOO_LARGE, "too many header fields")
    regular = fields[start:]
    for name, value in regular:
        if not _NAME(name) or not _VALUE(value):
            raise MalformedError("illegal header field")
        if name in _CONNECTION or (name == b"te" and value != b"trailers"):
            raise MalformedError("connection-specific header field")
    return regular
