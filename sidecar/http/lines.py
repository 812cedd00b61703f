"""Lines of HTTP/1.x heads: checked against the grammar, cut, and remembered.

Source: RFC 9112 sections 3 to 5, RFC 9110 section 5.

Each line, without its line end, is checked by possessive regular expressions (linear time); one
that came before was checked then. What a line means for its message is for sidecar.http.h1 to say.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, final

from sidecar.http.headers import Field

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE = re.compile(rb"(%s++) ([\x21-\x7e]++) HTTP/(\d\.\d)" % TOKEN).fullmatch
_STATUS_LINE = re.compile(rb"HTTP/(\d\.\d) (\d\d\d)(?: [\t\x20-\x7e\x80-\xff]*+)?").fullmatch
_NAME = re.compile(rb"%s++" % TOKEN).fullmatch
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*+").fullmatch
_VERSIONS: Final = frozenset((b"1.0", b"1.1"))

PLAIN, HOST, LENGTH, CODING, CONNECTION, UPGRADE, EXPECT, TE, DROP, CLIENT_CERT = range(10)
"""What a field means to the framing of its message, and CLIENT_CERT: that not everybody may send
it (`client_cert`). PLAIN, the most frequent, is 0: nothing."""


_USUAL: Final = frozenset(
    (
        b"accept", b"accept-encoding", b"accept-language", b"accept-ranges", b"cache-control",
        b"connection", b"content-encoding", b"content-length", b"content-type", b"date", b"etag",
        b"host", b"keep-alive", b"last-modified", b"origin", b"pragma", b"server",
        b"strict-transport-security", b"te", b"transfer-encoding", b"upgrade", b"user-agent",
        b"vary", b"via", b"x-content-type-options",
    )
)  # fmt: skip
"""Fields whose lines come again and again, and hold no secret."""
_LINES_MAX: Final = 1024
_LINE_MAX_BYTES: Final = 256


@final
class MalformedError(Exception):
    """A line of a head does not follow the grammar. Whoever parses the head says whose fault."""


@final
class VersionError(Exception):
    """The first line follows the grammar, of another version than HTTP/1.0 and 1.1."""


@final
class _Lines(dict[bytes, tuple[Field, int]]):
    """Field line → (field with lower-case name, what it means). Looking up raises MalformedError.

    Most lines of most messages are the same as last time: looking one up costs a fifth of checking
    and cutting it. Bounded, for clients choose them; only `_USUAL` ones stay.
    """

    def __init__(self, special: dict[bytes, int], *, drops_underscores: bool) -> None:
        super().__init__()
        self._special = special
        self._drops_underscores = drops_underscores
        self._names: dict[bytes, tuple[bytes, int]] = {}

    def __missing__(self, line: bytes) -> tuple[Field, int]:
        raw, colon, value = line.partition(b":")
        name, meaning = self._names.get(raw) or self._named(raw)
        if not colon or _VALUE(value) is None:
            raise MalformedError
        found = (name, value.strip(b" \t")), meaning
        if name in _USUAL and len(line) <= _LINE_MAX_BYTES:
            if len(self) >= _LINES_MAX:
                self.clear()
            self[line] = found
        return found

    def _named(self, raw: bytes) -> tuple[bytes, int]:
        """A name as received: in lower case, and what it means."""
        if _NAME(raw) is None:
            raise MalformedError
        name = raw.lower()
        meaning = self._special.get(name, PLAIN)
        # An underscore twin of a field we set would be the same variable to a CGI-like
        # upstream (hardening case 38), so such fields are dropped as nginx does.
        if self._drops_underscores and b"_" in name:
            meaning = DROP
        if len(raw) <= _LINE_MAX_BYTES:
            if len(self._names) >= _LINES_MAX:
                self._names.clear()
            self._names[raw] = name, meaning
        return name, meaning


known_request_line: Final = _Lines(
    {
        b"host": HOST,
        b"content-length": LENGTH,
        b"transfer-encoding": CODING,
        b"connection": CONNECTION,
        b"upgrade": UPGRADE,
        b"expect": EXPECT,
        b"te": TE,
        b"proxy-connection": DROP,
        b"keep-alive": DROP,
        b"proxy-authenticate": DROP,
        b"trailer": DROP,
        b"x-forwarded-client-cert": CLIENT_CERT,
    },
    drops_underscores=True,
).__getitem__
known_response_line: Final = _Lines(
    {
        b"content-length": LENGTH,
        b"transfer-encoding": CODING,
        b"connection": CONNECTION,
        b"upgrade": UPGRADE,
        b"proxy-connection": DROP,
        b"keep-alive": DROP,
        b"trailer": DROP,
    },
    drops_underscores=False,
).__getitem__


@final
class _FirstLines(dict[bytes, tuple[str, str, bool]]):
    """Request line → (method, target, whether it is HTTP/1.1).

    Looking up raises MalformedError and VersionError. As _Lines; what has a query hardly comes
    again, and may hold a secret.
    """

    def __missing__(self, line: bytes) -> tuple[str, str, bool]:
        match = _REQUEST_LINE(line)
        if match is None:
            raise MalformedError
        method, target, version = match.groups()
        if version not in _VERSIONS:
            raise VersionError
        found = method.decode("ascii"), target.decode("ascii"), version == b"1.1"
        if b"?" not in target and len(line) <= _LINE_MAX_BYTES:
            if len(self) >= _LINES_MAX:
                self.clear()
            self[line] = found
        return found


known_first_line: Final = _FirstLines().__getitem__


@lru_cache(maxsize=64)
def known_status_line(line: bytes) -> tuple[int, bool]:
    """`(status, whether it is HTTP/1.1)`. Raises MalformedError, VersionError; keeps neither."""
    match = _STATUS_LINE(line)
    if match is None:
        raise MalformedError
    version, status = match.groups()
    if version not in _VERSIONS:
        raise VersionError
    return int(status), version == b"1.1"
