"""The policy `oidc` against ID tokens that must be refused, and cookies that are nobody's."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from sidecar.errors import RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Response
from tests.sidecar.policies.test_oidc import World
from tests.support.hostile_tokens import GOOD, HOSTILE
from tests.support.issuer import AUDIENCE, jwks

KEYS = jwks("rsa", "p256", "p384", "ed25519")


async def outcome(token: str | bytes) -> tuple[int, dict[str, str]]:
    """Status of a callback to which the provider gives this ID token, and the browser's cookies."""
    world = World(None, clientId=AUDIENCE, jwks=KEYS)
    sent = await world.ask(is_data=False)
    assert sent is not None
    query = parse_qs(urlsplit((sent.headers.get(b"location") or b"").decode()).query)
    text = token if isinstance(token, str) else token.decode("latin-1")
    body = orjson.dumps({"id_token": text, "refresh_token": "r"})
    world.endpoint.answers.append(Response(200, Headers(), FixedBody(body)))
    try:
        await world.ask(f"/oauth/callback?code=c&state={query['state'][0]}")
    except RequestError as refusal:
        return refusal.status, world.cookies
    return 0, world.cookies


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_login_with_it(name: str) -> None:
    token, _ = HOSTILE[name]
    assert isinstance(token, str | bytes)
    assert await outcome(token) == (500, {})


async def test_a_good_one_of_another_login_is_a_replay() -> None:
    # Right in all but the nonce, which it lacks.
    assert await outcome(GOOD) == (400, {})


COOKIES = {
    "empty": "",
    "short": "AAAA",
    "no base64url": "a+b/c==",
    "octets": "\xff" * 40,
    "many parts": "4." + "A" * 60,
    "too many parts": "9." + "A" * 60,
    "no parts": "0." + "A" * 60,
    "long": "A" * 60_000,
    "json": '{"t":"x"}',
    "a token": GOOD,
}


@pytest.mark.parametrize("name", COOKIES)
@pytest.mark.parametrize("purpose", ["s", "r", "t"])
async def test_cookies_that_are_nobodys(name: str, purpose: str) -> None:
    world = World(None)
    await world.log_in("r1")
    for own in list(world.cookies):
        if own.startswith(f"agw_oidc_{purpose}"):
            world.cookies[own] = COOKIES[name]
    world.cookies[f"agw_oidc_{purpose}_0123456789abcdef"] = COOKIES[name]
    # Only the session's own cookie lets in.
    assert await world.status() == (401 if purpose == "s" else 200)
    assert len(world.endpoint.forms) == 1
