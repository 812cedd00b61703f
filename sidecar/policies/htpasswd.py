"""Files of names and hashed passwords, as Apache's htpasswd writes them.

Source: Apache HTTP Server, "Password Formats"; Poul-Henning Kamp's MD5 crypt, of which `apr1` is a
variant; Provos and Mazières, "A Future-Adaptable Password Scheme" (bcrypt).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping
from hashlib import md5, sha1
from typing import Final, NamedTuple

import bcrypt

_MAX_LINES: Final = 20_000
_MAX_COST: Final = 17
"""Seconds a password; a higher one is a mistake, or an attack by whoever may write the file."""
_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_BCRYPT_BYTES: Final = 72
"""What bcrypt reads of a password."""
_APR1: Final = re.compile(r"\$apr1\$([^$]{1,8})\$([./0-9A-Za-z]{22})")
_SHA: Final = re.compile(r"\{SHA\}([A-Za-z0-9+/]{27}=)")
_ALPHABET: Final = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ROUNDS: Final = 1000


class HtpasswdError(ValueError):
    """A file that cannot be used. Names the line, and nothing of what it holds."""


class Password(NamedTuple):
    """A hash made ready."""

    is_right: Callable[[bytes], bool]
    """Whether this is the password; the same time for any that is not."""
    cost: int
    """Comparable effort: 0 is next to nothing, 1 a millisecond, above that tens and more."""


def parse(text: str) -> Mapping[bytes, Password]:
    """Name (UTF-8) to password. Raises: HtpasswdError."""
    lines = text.splitlines()
    if len(lines) > _MAX_LINES:
        raise HtpasswdError(f"more than {_MAX_LINES} lines")
    made: dict[bytes, Password] = {}
    for number, line in enumerate(lines, 1):
        plain = line.strip()
        if not plain or plain.startswith("#"):
            continue
        name, colon, hashed = plain.partition(":")
        password = _password(hashed)
        if not colon or not name or password is None:
            raise HtpasswdError(f"line {number}: expected name:hash, by bcrypt, apr1 or {{SHA}}")
        if name.encode() in made:
            raise HtpasswdError(f"line {number}: the name stands there twice")
        made[name.encode()] = password
    return made


def _password(hashed: str) -> Password | None:
    """None for a form that is not known; plain text and DES are none."""
    if found := _BCRYPT.fullmatch(hashed):
        cost = int(found[1])
        # The library knows the same scheme by two of its three names.
        return _bcrypt("$2b$" + hashed[4:], cost) if 4 <= cost <= _MAX_COST else None
    if found := _APR1.fullmatch(hashed):
        return _apr1(found[1].encode(), found[2])
    if found := _SHA.fullmatch(hashed):
        return _sha(found[1])
    return None


def _bcrypt(hashed: str, cost: int) -> Password:
    expected = hashed.encode()

    def is_right(password: bytes) -> bool:
        try:
            return bcrypt.checkpw(password[:_BCRYPT_BYTES], expected)
        except ValueError:
            # A salt with bits too many: nothing is right.
            return False

    return Password(is_right, cost)


def _sha(text: str) -> Password | None:
    try:
        expected = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None

    def is_right(password: bytes) -> bool:
        return hmac.compare_digest(sha1(password, usedforsecurity=False).digest(), expected)

    return Password(is_right, 0)


def _apr1(salt: bytes, hashed: str) -> Password:
    def is_right(password: bytes) -> bool:
        return hmac.compare_digest(apr1(password, salt), hashed)

    return Password(is_right, 1)


def apr1(password: bytes, salt: bytes) -> str:
    """The 22 characters behind `$apr1$salt$`."""
    inner = _md5(password + salt + password)
    mixed = password + b"$apr1$" + salt
    mixed += (inner * (len(password) // 16 + 1))[: len(password)]
    length = len(password)
    while length:
        mixed += b"\0" if length & 1 else password[:1]
        length >>= 1
    digest = _md5(mixed)
    for round_number in range(_ROUNDS):
        step = password if round_number & 1 else digest
        if round_number % 3:
            step += salt
        if round_number % 7:
            step += password
        digest = _md5(step + (digest if round_number & 1 else password))
    return _characters(digest)


def _md5(octets: bytes) -> bytes:
    return md5(octets, usedforsecurity=False).digest()


def _characters(digest: bytes) -> str:
    """Three octets make four characters, in an order of their own."""
    made = ""
    for first, second, third in ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)):
        value = digest[first] << 16 | digest[second] << 8 | digest[third]
        made += _letters(value, 4)
    return made + _letters(digest[11], 2)


def _letters(value: int, count: int) -> str:
    return "".join(_ALPHABET[value >> shift & 63] for shift in range(0, 6 * count, 6))
