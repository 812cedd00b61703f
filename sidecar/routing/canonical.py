"""The one canonical form of authority and path, which the router and every policy look at.

Source: RFC 3986 sections 3.2, 3.3 and 6.2; RFC 9110 section 4.2.3; hardening cases 36 to 38.

Path, as it is matched:
- Percent-encoded unreserved characters are decoded; other octets that a path may not hold raw are
  encoded; the digits of an encoding are upper case.
- Dot segments are resolved, also when written `%2e`. One that would leave the root is refused.
- Runs of `/` count as one.
- `%2F` stays an octet of its segment and is never a separator: npm and GitLab carry whole names in
  one segment, so refusing it would break honest clients. A dot segment that would appear if a
  server behind us decoded it (`..%2Fadmin`) is refused.
- `;x=1` is data. A dot segment with parameters (`..;/`), which some servers resolve, is refused.
- Refused with 400 since servers disagree about them: `\\` raw or encoded, control octets raw or
  encoded (`%00`), octets that do not form UTF-8 (overlong forms), broken encodings, `#`, and dot
  segments beside empty ones (`/a//../b` is `/a/b` to one server and `/b` to another).

Target, as it is forwarded: what was received, byte for byte, unless dot segments were resolved.
Then it is the canonical path, because a server that resolves them differently, or not at all,
would serve another resource than the one that was matched and authorised.

Authority: a DNS-like name, an IPv4 address or a bracketed IPv6 address, with an optional port.
Nothing else of RFC 3986 (user information, sub-delimiters, encodings, non-ASCII) is let in, since
a URL built from it would be parsed in several ways. Lower case; a final dot of the name is dropped
(`a.example.` names what `a.example` names); the port is kept when given.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address

from sidecar.errors import RequestError

# A path that is its own canonical form, then an optional query. A segment begins with at most one
# dot that something else follows. Characters: RFC 3986 pchar but `;` and `%`, which need care.
_PLAIN = r"A-Za-z0-9\-_~!$&'()*+,=:@"
# Possessive, as no other split of the text could match: a third of the time.
_CANONICAL = re.compile(
    rf"((?:/\.?+[{_PLAIN}][{_PLAIN}.]*+)++/?+|/)(?:\?([!\"$-~\x80-\xff]*+))?+"
).fullmatch
_QUERY = re.compile(r"[!\"$-~\x80-\xff]*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\#]")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_TO_ENCODE = re.compile(rf"[^{_PLAIN}.;%/]")
_HIDDEN = re.compile(r"%2F|%3B|;")
_DOTS = frozenset((".", ".."))

_LABELS = re.compile(r"[a-z0-9_\-]{1,63}(?:\.[a-z0-9_\-]{1,63})*")
_MAX_AUTHORITY = 253 + 1 + 6
"""Octets of the longest DNS name, its final dot, and a colon with five digits."""


def _bad(message: str) -> RequestError:
    return RequestError(400, "InvalidRequest", message, close=True)


def authority(raw: str) -> str:
    """The canonical authority of a Host field, `:authority` or absolute-form target.

    `raw` may not be empty; a caller for which an absent Host is lawful (HTTP/1.0) does not ask.
    Raises: RequestError 400.
    """
    # The bound keeps what the cache holds small, whatever is sent.
    if len(raw) > _MAX_AUTHORITY:
        raise _bad("invalid host: too long")
    return _authority(raw)


@lru_cache(maxsize=1024)
def _authority(raw: str) -> str:
    """See `authority`. Refusals are not cached: an exception leaves no entry."""
    if not raw.isascii():
        raise _bad("invalid host: not ASCII")
    text = raw.lower()
    host, colon, port = _split_port(text)
    if text.startswith("["):
        host = _bracketed(host)
    else:
        host = host.removesuffix(".")
        if len(host) > 253 or _LABELS.fullmatch(host) is None:
            raise _bad("invalid host")
    if not colon:
        return host
    if not port.isdecimal() or port[0] == "0" or len(port) > 5 or int(port) > 65535:
        raise _bad("invalid port in host")
    return f"{host}:{port}"


def _split_port(text: str) -> tuple[str, str, str]:
    if text.startswith("["):
        inner, bracket, rest = text.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _bad("invalid host")
        return inner + bracket, rest[:1], rest[1:]
    return text.partition(":")


def _bracketed(host: str) -> str:
    """The shortest form of an IPv6 literal; a zone is a fact of one machine and is refused."""
    try:
        address = IPv6Address(host[1:-1])
    except AddressValueError as exc:
        raise _bad("invalid host") from exc
    if address.scope_id is not None:
        raise _bad("invalid host: an address with a zone")
    return f"[{address.compressed}]"


def host_of(canonical_authority: str) -> str:
    """A canonical authority without its port; brackets of an IPv6 literal stay."""
    if canonical_authority.endswith("]"):
        return canonical_authority
    return canonical_authority.rpartition(":")[0] or canonical_authority


def path(target: str) -> str:
    """The canonical path of a request target in origin form (a query is left out), or `*`.

    Raises: RequestError 400.
    """
    return resolve(target)[0]


def resolve(target: str) -> tuple[str, str, str]:
    """`(canonical path, query, target to forward)`.

    The query comes without its `?`, as received. `target` is in origin form, or `*`.
    Raises: RequestError 400.
    """
    # Fast path: one scan tells that nothing has to change (see tests/bench/routing_bench.py).
    found = _CANONICAL(target)
    if found is not None:
        if found.lastindex == 1:
            return target, "", target
        return found[1], found[2], target
    if target == "*":
        return "*", "", "*"
    raw, mark, query = target.partition("?")
    if not raw.startswith("/") or _FORBIDDEN.search(raw) or not _QUERY.fullmatch(query):
        raise _bad("invalid request target")
    canonical, resolved = _canonical(raw)
    return canonical, query, canonical + mark + query if resolved else target


def configured(text: str) -> str:
    """The canonical form of a path written in configuration, where any Unicode text may stand.

    Raises: ValueError for one that no canonical path can equal.
    """
    try:
        if "?" in text:
            raise _bad("a path holds no query")
        # A space can be written in configuration though it cannot be sent.
        return resolve(text.encode().decode("latin-1").replace(" ", "%20"))[0]
    except RequestError as exc:
        raise ValueError(exc.message) from exc


def _canonical(raw: str) -> tuple[str, bool]:
    """Canonical path, and whether dot segments were resolved. `raw` begins with a slash."""
    text = _TO_ENCODE.sub(_encode, _ESCAPE.sub(_decode, raw))
    if "%" in text:
        _check_utf8(text)
    segments = text.split("/")[1:]
    if any("." in segment and _is_hidden_dot(segment) for segment in segments):
        raise _bad("invalid path: a dot segment in disguise")
    has_dots = not _DOTS.isdisjoint(segments)
    if has_dots:
        if "" in segments[:-1]:
            raise _bad("invalid path: dot segments beside empty ones")
        segments = _without_dots(segments)
    last = segments.pop()
    kept = [segment for segment in segments if segment]
    return "/" + "/".join([*kept, last]), has_dots


def _decode(found: re.Match[str]) -> str:
    digits = found[1]
    if digits is None:
        raise _bad("invalid path: broken percent-encoding")
    octet = int(digits, 16)
    if octet < 0x20 or octet in (0x7F, 0x5C):
        raise _bad("invalid path: encoded control character or backslash")
    return chr(octet) if octet in _UNRESERVED else f"%{octet:02X}"


def _encode(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"


def _check_utf8(text: str) -> None:
    octets = bytearray()
    parts = text.split("%")
    octets += parts[0].encode()
    for part in parts[1:]:
        octets.append(int(part[:2], 16))
        octets += part[2:].encode()
    try:
        octets.decode()
    except UnicodeDecodeError as exc:
        raise _bad("invalid path: not UTF-8") from exc


def _is_hidden_dot(segment: str) -> bool:
    """Whether a server that decodes `%2F` or cuts parameters would see a dot segment here."""
    pieces = _HIDDEN.split(segment)
    return len(pieces) > 1 and not _DOTS.isdisjoint(pieces)


def _without_dots(segments: list[str]) -> list[str]:
    """RFC 3986 section 5.2.4, but a step over the root is refused instead of forgiven."""
    out: list[str] = []
    for segment in segments:
        if segment == "..":
            if not out:
                raise _bad("invalid path: it leaves the root")
            out.pop()
        elif segment != ".":
            out.append(segment)
    if segments[-1] in _DOTS:
        out.append("")
    return out
