"""jwtAuth: who comes in by which token, where it stands, and what is known then."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.http.message import Request
from sidecar.policies.base import Services
from sidecar.policies.bearer import KeysPendingError
from sidecar.policies.expressions import Expression
from sidecar.policies.kept import KeptKeys
from sidecar.policies.order import make
from tests.sidecar.policies.test_remote_keys import Background, Provider, answer
from tests.support.clock import HeldClock
from tests.support.issuer import AUDIENCE, ISSUER, NOW, claims, jwk, jwks, token
from tests.support.messages import request, services

MISSING = "authentication failure: no bearer token found"


def clock() -> HeldClock:
    made = HeldClock()
    made.pass_seconds(NOW - made.time_ns() / 1e9)
    return made


CLOCK = clock()
SERVICES = services(clock=CLOCK)
SINGLE = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": jwks("rsa", "p256")}


def policy(**more: Any) -> Any:
    return make("jwtAuth", {**SINGLE, **more}, SERVICES)


def bearer(*values: str) -> Request:
    return request(headers=[("authorization", f"Bearer {value}") for value in values])


def told(made: Any, asked: Request) -> str:
    """The refusal, or whose token it was ("-": nobody's)."""
    try:
        assert made.on_request(asked) is None
    except RequestError as refusal:
        is_ours = (refusal.status, refusal.code) == (401, "JwtAuth")
        return refusal.message if is_ours else repr(refusal)
    known = asked.state.get("jwt")
    return known["sub"] if isinstance(known, dict) else "-"


GOOD = token()


@pytest.mark.parametrize(
    ("mode", "absent", "bad"),
    [
        ("strict", MISSING, "auth"),
        ("optional", "-", "auth"),
        ("permissive", "-", "-"),
        (None, "-", "auth"),
    ],
)
def test_modes(mode: str | None, absent: str, bad: str) -> None:
    made = policy() if mode is None else policy(mode=mode)
    assert told(made, bearer(GOOD)) == "ada"
    assert told(made, request()) == absent
    assert told(made, request(headers={"authorization": "Basic YTpi"})) == absent
    for values in (("x",), (GOOD + "x",), (GOOD, GOOD), (GOOD, "x"), (f"{GOOD}, Bearer {GOOD}",)):
        asked = bearer(*values)
        assert told(made, asked).startswith(bad)
        # What was not recognised is not taken away.
        assert len(asked.headers.get_all(b"authorization")) == len(values)


def test_the_token_goes_no_further() -> None:
    asked = request(headers={"authorization": f"bearer {GOOD}", "x": "1"})
    assert told(policy(), asked) == "ada"
    assert list(asked.headers) == [(b"x", b"1")]


@pytest.mark.parametrize(
    ("location", "target", "headers", "left"),
    [
        ({"header": {"name": "X-Token"}}, "/", {"x-token": GOOD}, ("/", [])),
        ({"queryParameter": {"name": "t"}}, f"/?a=b&t={GOOD}", {}, ("/?a=b", [])),
        ({"cookie": {"name": "t"}}, "/", {"cookie": f"t={GOOD}"}, ("/", [])),
        (
            {"expression": 'request.headers["x-token"]'},
            "/",
            {"x-token": GOOD},
            ("/", [(b"x-token", GOOD.encode())]),
        ),
    ],
    ids=["header", "query", "cookie", "expression"],
)
def test_places(location: Any, target: str, headers: dict[str, str], left: Any) -> None:
    asked = request("GET", target, headers)
    assert told(policy(location=location), asked) == "ada"
    assert (asked.target, list(asked.headers)) == left


def test_the_challenge() -> None:
    made = policy(mode="strict")
    for asked, value in ((request(), b"Bearer"), (bearer("x"), b'Bearer error="invalid_token"')):
        with pytest.raises(RequestError) as caught:
            made.on_request(asked)
        assert caught.value.headers == ((b"www-authenticate", value),)


def test_what_expressions_see() -> None:
    asked = bearer(token(claims(nested={"key": ["v"]}, rawToken="forged")))
    policy().on_request(asked)
    assert Expression("jwt.nested.key[0]", SERVICES, "x").value(asked) == "v"
    assert Expression("jwt.aud", SERVICES, "x").value(asked) == AUDIENCE
    raw = Expression("jwt.rawToken.unredacted()", SERVICES, "x").value(asked)
    assert isinstance(raw, str)
    assert raw.count(".") == 2
    assert Expression("jwt.rawToken", SERVICES, "x").value(asked) == "<redacted>"


def test_an_inner_policy_finds_no_token_that_an_outer_one_took() -> None:
    asked = bearer(GOOD)
    assert told(policy(), asked) == "ada"
    assert told(policy(mode="strict"), asked) == MISSING


def test_several_providers() -> None:
    two = {"issuer": "https://two.example", "jwks": jwks(jwk("rsa/two", "rsa"))}
    made = make("jwtAuth", {"mode": "strict", "providers": [SINGLE, two]}, SERVICES)
    theirs = claims(iss="https://two.example", aud="any", sub="bob")
    assert told(made, bearer(GOOD)) == "ada"
    assert told(made, bearer(token(theirs, key="rsa/two", head={"kid": "rsa"}))) == "bob"
    assert told(made, bearer(token(theirs))).startswith("authentication failure: the token is inv")
    assert told(made, bearer(token(key="p384", alg="ES384"))) == (
        'authentication failure: token uses the unknown key "p384"'
    )


def test_the_keys_as_text_or_structure() -> None:
    made = policy(jwks=orjson.loads(jwks("rsa")))
    assert told(made, bearer(GOOD)) == "ada"
    assert told(policy(jwks='{"keys":[]}'), bearer(GOOD)).endswith('unknown key "rsa"')


def test_guards() -> None:
    assert policy().is_guard
    assert policy(location={"cookie": {"name": "t"}}).is_guard
    assert not policy(location={"queryParameter": {"name": "t"}}).is_guard
    assert policy(location={"expression": "request.body"}).needs_request_body


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, ""),
        ({"issuer": ISSUER}, ""),
        ({"jwks": "{}"}, ""),
        ({"issuer": "", "jwks": "{}"}, "issuer"),
        ({"issuer": ISSUER, "jwks": "{}"}, "jwks"),
        ({"issuer": ISSUER, "jwks": {"url": "https://a:b@idp.example"}}, "jwks.url"),
        ({"issuer": ISSUER, "jwks": {"url": 7}}, "jwks"),
        ({"providers": []}, "providers"),
        ({"providers": [SINGLE], "issuer": ISSUER}, ""),
        ({"providers": [{**SINGLE, "jwks": "x"}]}, "providers[0].jwks"),
        ({**SINGLE, "mode": "Strict"}, "mode"),
        ({**SINGLE, "location": {"header": {"name": "a b"}}}, "location.header.name"),
        ({**SINGLE, "location": {}}, "location"),
        ({**SINGLE, "audiences": "api"}, "audiences"),
        ({**SINGLE, "jwtValidationOptions": {"requiredClaims": [1]}}, "jwtValidationOptions.requi"),
    ],
)
def test_refused_configurations(payload: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make("jwtAuth", payload, SERVICES)
    assert caught.value.path.startswith(f"jwtAuth.{path}".rstrip("."))


# --- keys that are fetched ----------------------------------------------------------------------


class Reached:
    """Callouts with one provider behind any reference."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.references: list[Any] = []

    def resolve(self, reference: Any, policies: Any, subtype: Any) -> Provider:
        self.references.append((dict(reference), dict(policies), subtype))
        return self.provider


class Fetching:
    def __init__(self, *answers: Any, **more: Any) -> None:
        self.clock = clock()
        self.background = Background()
        self.callouts = Reached(Provider(*answers))
        self.kept = KeptKeys(self.background.start)
        self.services: Services = replace(
            services(clock=self.clock), callouts=self.callouts, keys=self.kept
        )
        payload = {"issuer": ISSUER, "jwks": {"url": "https://idp.example:444/k?a=b"}, **more}
        self.policy: Any = make("jwtAuth", payload, self.services)

    async def told(self, *values: str) -> str:
        asked = bearer(*values)
        try:
            assert await self.policy.on_request(asked) is None
        except RequestError as refusal:
            return f"{refusal.status} {refusal.message}"
        known = asked.state.get("jwt")
        return known["sub"] if isinstance(known, dict) else "-"


UNAVAILABLE = "503 authentication failure: the keys of the issuer cannot be had now"
DOWN = UpstreamError(503, "UpstreamFailure", "connection refused")


async def test_the_first_request_waits_for_the_keys() -> None:
    made = Fetching(answer(jwks("rsa")))
    assert made.callouts.references == [({"host": "https://idp.example:444"}, {}, "Oidc")]
    with pytest.raises(KeysPendingError):
        made.policy.guard(bearer(GOOD))
    assert await made.told(GOOD) == "ada"
    assert made.policy.guard(bearer(GOOD)) is None
    assert made.callouts.provider.asked[0].target == "/k?a=b"
    made.kept.close()


@pytest.mark.parametrize(("mode", "outcome"), [("optional", UNAVAILABLE), ("permissive", "-")])
async def test_a_provider_that_is_down(mode: str, outcome: str) -> None:
    made = Fetching(DOWN, answer(jwks("rsa")), mode=mode)
    assert await made.told(GOOD) == outcome
    assert await made.told(GOOD) == outcome
    made.clock.pass_seconds(1)
    assert await made.told(GOOD) == "ada"
    made.kept.close()


async def test_an_issuer_whose_keys_are_not_here_yet_may_use_the_same_kid() -> None:
    made = Fetching(answer(jwks(jwk("rsa/two", "rsa"))))
    two = {"issuer": "https://two.example", "jwks": {"url": "https://idp.example:444/k?a=b"}}
    made.policy = make("jwtAuth", {"providers": [SINGLE, two]}, made.services)
    theirs = token(claims(iss="https://two.example", sub="bob"), key="rsa/two", head={"kid": "rsa"})
    # What is wrong with a token of the first is known at once.
    assert (await made.told(token(claims(exp=1)))).endswith("ExpiredSignature")
    assert made.callouts.provider.asked == []
    assert await made.told(theirs) == "bob"
    made.kept.close()


async def test_rotation() -> None:
    made = Fetching(answer(jwks("rsa")), answer(jwks("p256")))
    assert await made.told(GOOD) == "ada"
    fresh = token(key="p256", alg="ES256")
    assert await asyncio.gather(*(made.told(fresh) for _ in range(5))) == ["ada"] * 5
    # The old key is gone, also for a token that had passed.
    assert await made.told(GOOD) == '401 authentication failure: token uses the unknown key "rsa"'
    assert len(made.callouts.provider.asked) == 2
    made.kept.close()


async def test_a_slow_provider_delays_only_what_needs_it() -> None:
    made = Fetching(answer(jwks("rsa")), answer(jwks("rsa", "p256")))
    assert await made.told(GOOD) == "ada"
    made.callouts.provider.held = asyncio.Event()
    waiting = asyncio.ensure_future(made.told(token(key="p256", alg="ES256")))
    await asyncio.sleep(0)
    assert await made.told(GOOD) == "ada"
    assert await made.told() == "-"
    assert not waiting.done()
    made.callouts.provider.held.set()
    assert await waiting == "ada"
    made.kept.close()
