"""Files of passwords: which forms are read, and what they let in."""

from __future__ import annotations

import bcrypt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.policies.htpasswd import HtpasswdError, apr1, parse

HASHED = bcrypt.hashpw(b"secret", b"$2b$04$abcdefghijklmnopqrstuu").decode()

# By `openssl passwd -apr1 -salt …`.
APR1 = [
    (b"secret", "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/"),
    (b"", "$apr1$ab$S8K6Sgp3W8c9Jb6LxgywZ."),
    (b"x" * 100, "$apr1$12345678$yiFoyfrrVNwrIepED8sjv0"),
]


@pytest.mark.parametrize(("password", "hashed"), APR1)
def test_apr1(password: bytes, hashed: str) -> None:
    (made,) = parse(f"ada:{hashed}").values()
    assert made.is_right(password)
    assert not made.is_right(password + b"x")
    assert made.cost == 1


@pytest.mark.parametrize("name", ["$2a$", "$2b$", "$2y$"])
def test_bcrypt(name: str) -> None:
    (made,) = parse(f"ada:{name}{HASHED[4:]}").values()
    assert made.is_right(b"secret")
    assert not made.is_right(b"Secret")
    assert not made.is_right(b"")
    assert made.cost == 4


def test_bcrypt_reads_72_octets() -> None:
    hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    (made,) = parse(f"ada:{hashed}").values()
    assert made.is_right(b"x" * 80)
    assert not made.is_right(b"x" * 71)


def test_a_salt_with_bits_too_many_lets_nobody_in() -> None:
    (made,) = parse(f"ada:$2b$04${'z' * 53}").values()
    assert not made.is_right(b"secret")


def test_sha() -> None:
    (made,) = parse("ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=").values()
    assert made.is_right(b"password")
    assert not made.is_right(b"Password")
    assert made.cost == 0


def test_lines() -> None:
    text = f"# names\n\n  ada:{HASHED}  \r\nb\u00f6b:{APR1[0][1]}\n#eve:x\n"
    assert list(parse(text)) == [b"ada", "böb".encode()]
    assert parse("") == {}


@pytest.mark.parametrize(
    "line",
    [
        *("ada", "ada:", ":x", f":{HASHED}", "ada:secret", "ada:rqXexS6ZhobKA"),
        "ada:$1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/",
        *("ada:{SSHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "ada:{SHA}W6ph5Mm5Pz8Ggi="),
        *(f"ada:{HASHED}x", f"ada:{HASHED[:-1]}"),
        *(f"ada:$2y$18${HASHED[7:]}", f"ada:$2y$03${HASHED[7:]}"),
        *("ada:$apr1$$h9FWgUz3n9YxylKLlR5SQ/", "ada:$apr1$abcdefghi$h9FWgUz3n9YxylKLlR5SQ/"),
        f"ada:{HASHED}\nada:{HASHED}",
        "\n" * 20_001,
    ],
)
def test_files_that_are_refused(line: str) -> None:
    with pytest.raises(HtpasswdError) as caught:
        parse(f"first:{HASHED}\n{line}")
    assert "ada" not in str(caught.value)
    assert HASHED not in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_another_password_has_another_hash(first: bytes, second: bytes) -> None:
    assert (apr1(first, b"salt") == apr1(second, b"salt")) == (first == second)
