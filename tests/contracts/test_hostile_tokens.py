"""Every policy that takes tokens, against every token that must be refused."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from sidecar.errors import RequestError
from sidecar.http.message import Request, Response
from sidecar.policies.order import make
from tests.support.clock import HeldClock
from tests.support.hostile_tokens import GOOD, HOSTILE
from tests.support.issuer import AUDIENCE, ISSUER, NOW, jwks
from tests.support.messages import request, services

CLOCK = HeldClock()
CLOCK.pass_seconds(NOW - CLOCK.time_ns() / 1e9)
_COMMON = {
    "issuer": ISSUER,
    "audiences": [AUDIENCE],
    "jwks": jwks("rsa", "p256", "p384", "ed25519"),
}
PAYLOADS: dict[str, dict[str, Any]] = {
    "jwtAuth": _COMMON,
    "mcpAuthentication": {**_COMMON, "resourceMetadata": {}},
}
MODES = ("strict", "optional", "permissive")
POLICIES: dict[tuple[str, str], Any] = {
    (key, mode): make(key, {**payload, "mode": mode}, services(clock=CLOCK))
    for key, payload in PAYLOADS.items()
    for mode in MODES
}


def carrying(token: str | bytes) -> Request:
    made = request()
    octets = token if isinstance(token, bytes) else token.encode("latin-1")
    made.headers.append((b"authorization", b"Bearer " + octets))
    return made


async def refused_with(policy: Any, asked: Request) -> int:
    """The status; 0 when the request passes."""
    try:
        answer = policy.on_request(asked)
        if inspect.isawaitable(answer):
            answer = await answer
    except RequestError as refusal:
        return refusal.status
    return answer.status if isinstance(answer, Response) else 0


@pytest.mark.parametrize("key", PAYLOADS)
@pytest.mark.parametrize("name", HOSTILE)
async def test_no_policy_takes_it(key: str, name: str) -> None:
    token, _ = HOSTILE[name]
    is_there = token not in ("", b"")
    for mode in MODES:
        asked = carrying(token)
        status = await refused_with(POLICIES[key, mode], asked)
        expected = mode == "strict" or (mode == "optional" and is_there)
        assert status == (401 if expected else 0)
        assert "jwt" not in asked.state
        assert "jwt.rawToken" not in asked.state
        assert asked.headers.has(b"authorization")


@pytest.mark.parametrize("key", PAYLOADS)
@pytest.mark.parametrize("mode", MODES)
async def test_every_policy_takes_a_good_one(key: str, mode: str) -> None:
    asked = carrying(GOOD)
    assert await refused_with(POLICIES[key, mode], asked) == 0
    assert asked.state["jwt"]["sub"] == "ada"  # type: ignore[index]
    assert not asked.headers.has(b"authorization")
