"""basicAuth: who comes in, what is remembered, and that strangers cost no more than allowed."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import bcrypt
import pytest

from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request
from sidecar.policies.basic_auth import NotVerifiedError
from sidecar.policies.expressions import Expression
from sidecar.policies.htpasswd import Password
from sidecar.policies.order import make
from tests.support.messages import request, services

FILE = "\n".join(
    (
        f"ada:{bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}",
        "bob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "eve:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/",
        f"böb:{bcrypt.hashpw('schlüssel'.encode(), bcrypt.gensalt(4)).decode()}",
    )
)
INVALID = "401 basic authentication failure: invalid credentials"
MISSING = "401 basic authentication failure: no basic authentication credentials found"


def policy(**more: Any) -> Any:
    return make("basicAuth", {"htpasswd": FILE, **more}, services())


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def basic(*values: str) -> Request:
    return request(headers=[("authorization", value) for value in values])


async def told(made: Any, asked: Request) -> str:
    """The refusal, or who it is ("-": nobody)."""
    try:
        assert await made.on_request(asked) is None
    except RequestError as refusal:
        return f"{refusal.status} {refusal.message}"
    known = asked.state.get("basicAuth")
    return known["username"] if isinstance(known, dict) else "-"


ADA = f"Basic {encoded('ada:secret')}"


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([ADA], "ada"),
        ([f"basic {encoded('bob:password')}"], "bob"),
        ([f"Basic {encoded('eve:secret')}"], "eve"),
        ([f"Basic {encoded('böb:schlüssel')}"], "böb"),
        ([f"Basic {encoded('ada:Secret')}"], INVALID),
        ([f"Basic {encoded('Ada:secret')}"], INVALID),
        ([f"Basic {encoded('ada:')}"], INVALID),
        ([f"Basic {encoded(':secret')}"], INVALID),
        ([f"Basic {encoded('ada')}"], INVALID),
        ([f"Basic {encoded('mallory:secret')}"], INVALID),
        ([f"Basic {encoded('ada:secret:more')}"], INVALID),
        ([f"Basic {encoded('ada:secret' + chr(0))}"], INVALID),
        ([f"Basic {encoded('ada:secret' + chr(0) + 'x')}"], INVALID),
        ([f"Basic {encoded('ada:' + 'x' * 2000)}"], INVALID),
        (["Basic ada:secret"], INVALID),
        (["Basic \xff\xfe"], INVALID),
        ([f"Basic {base64.b64encode(bytes([0xFF, 0x3A, 0x61])).decode()}"], INVALID),
        ([f"{ADA} "], INVALID),
        ([f"{ADA}\n"], INVALID),
        ([ADA, ADA], INVALID),
        ([f"Bearer {encoded('ada:secret')}"], MISSING),
        (["Basic"], MISSING),
        (["Basic "], MISSING),
        ([], MISSING),
    ],
)
async def test_credentials(values: list[str], outcome: str) -> None:
    for mode in ("strict", "optional"):
        made = policy(mode=mode)
        expected = "-" if mode == "optional" and outcome == MISSING else outcome
        # The second time it is remembered.
        for _ in range(2):
            asked = basic(*values)
            assert await told(made, asked) == expected
            is_known = expected[:3] not in ("401", "-")
            assert len(asked.headers.get_all(b"authorization")) == (0 if is_known else len(values))


async def test_optional_is_the_default() -> None:
    assert await told(policy(), request()) == "-"
    assert await told(policy(htpasswd=""), basic(ADA)) == INVALID


async def test_what_expressions_see() -> None:
    asked = basic(ADA)
    await policy().on_request(asked)
    assert Expression("basicAuth.username", services(), "x").value(asked) == "ada"


@pytest.mark.parametrize(
    ("more", "status", "header"),
    [
        ({}, 401, (b"www-authenticate", b'Basic realm="Restricted"')),
        ({"realm": 'a "b" \\'}, 401, (b"www-authenticate", b'Basic realm="a \\"b\\" \\\\"')),
        (
            {"authorizationLocation": {"header": {"name": "Proxy-Authorization"}}},
            407,
            (b"proxy-authenticate", b'Basic realm="Restricted"'),
        ),
    ],
)
async def test_the_challenge(more: Any, status: int, header: tuple[bytes, bytes]) -> None:
    with pytest.raises(RequestError) as caught:
        await policy(mode="strict", **more).on_request(request())
    assert (caught.value.status, caught.value.headers) == (status, (header,))


def counting(made: Any, name: bytes = b"ada") -> list[bytes]:
    """The passwords that are tested from now on."""
    tested: list[bytes] = []
    real = made._passwords[name]

    def is_right(password: bytes) -> bool:
        tested.append(password)
        return bool(real.is_right(password))

    counted = Password(is_right, real.cost)
    made._passwords = {**made._passwords, name: counted}
    made._decoy = counted
    return tested


async def test_remembered_right_or_wrong() -> None:
    made = policy()
    tested = counting(made)
    for _ in range(3):
        assert await told(made, basic(ADA)) == "ada"
        assert await told(made, basic(f"Basic {encoded('ada:wrong')}")) == INVALID
    assert tested == [b"secret", b"wrong"]


async def test_a_name_that_is_not_there_costs_as_much() -> None:
    made = policy()
    tested = counting(made)
    assert await told(made, basic(f"Basic {encoded('mallory:secret')}")) == INVALID
    assert tested == [b"secret"]


async def test_what_is_remembered_is_bounded() -> None:
    made = policy()
    assert await told(made, basic(f"Basic {encoded('bob:password')}")) == "bob"
    for number in range(1100):
        given = encoded(f"bob:{number}").encode()
        made._verdicts.put(made._verdicts.digest(given), "")
    assert len(made._verdicts._known[False]) == 1024
    assert made.guard(basic(f"Basic {encoded('bob:password')}")) is None


async def test_the_direct_way_knows_only_what_was_verified() -> None:
    made = policy()
    assert made.is_guard
    asked = basic(ADA)
    with pytest.raises(NotVerifiedError):
        made.guard(asked)
    assert asked.headers.has(b"authorization")
    assert await told(made, asked) == "ada"
    assert made.guard(basic(ADA)) is None


async def test_a_flood_is_turned_away() -> None:
    made = policy()
    held = threading.Event()

    def slow(password: bytes) -> bool:
        assert held.wait(20)
        return False

    made._passwords, made._decoy = {}, Password(slow, 10)
    given = [basic(f"Basic {encoded(f'x:{number}')}") for number in range(70)]
    flood = [asyncio.ensure_future(told(made, one)) for one in given]
    done, _ = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    assert {one.result() for one in done} == {"503 basic authentication failure: too many at once"}
    held.set()
    outcomes = await asyncio.gather(*flood)
    assert (outcomes.count(INVALID), len(outcomes)) == (64, 70)


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, "htpasswd"),
        ({"htpasswd": "ada:secret"}, "htpasswd"),
        ({"htpasswd": FILE, "realm": "a\nb"}, "realm"),
        ({"htpasswd": FILE, "mode": "permissive"}, "mode"),
        ({"htpasswd": FILE, "authorizationLocation": {}}, "authorizationLocation"),
    ],
)
def test_refused_configurations(payload: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make("basicAuth", payload, services())
    assert caught.value.path == f"basicAuth.{path}"
    assert "secret" not in str(caught.value)
