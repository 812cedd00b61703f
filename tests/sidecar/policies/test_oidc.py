"""The policy `oidc` without sockets: configuration, time, and renewal while the provider fails.

What a browser sees of it is in tests/integration/test_oidc.py.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from shm.rates import RateTable
from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies.base import Services
from sidecar.policies.kept import KeptKeys
from sidecar.policies.oidc import Oidc
from sidecar.policies.oidc_login import Callback, local_target
from sidecar.policies.order import make
from tests.support.clock import HeldClock
from tests.support.issuer import ISSUER, NOW, claims, jwks, token
from tests.support.messages import request, services

CONFIG: dict[str, Any] = {
    "issuer": ISSUER,
    "authorizationEndpoint": f"{ISSUER}/authorize",
    "tokenEndpoint": f"{ISSUER}/token",
    "jwks": jwks("rsa"),
    "clientId": "web",
    "clientSecret": "secret",
    "redirectURI": "https://shop.example/oauth/callback",
}
DOWN = UpstreamError(503, "UpstreamFailure", "connection refused")


class TokenEndpoint:
    """What answers in the place of a provider, and the only destination there is."""

    label = "idp"

    def __init__(self) -> None:
        self.answers: list[Response | Exception] = []
        self.forms: list[dict[str, str]] = []

    def resolve(self, reference: Mapping[str, Any], policies: object, subtype: str) -> Any:
        assert reference == {"host": "https://idp.example"}
        return self

    async def send(self, asked: Request, timeout_seconds: float, limit_bytes: int = 0) -> Response:
        assert (timeout_seconds, limit_bytes) == (10.0, 65536)
        form = parse_qs((asked.body.read_nowait() or b"").decode())
        self.forms.append({name: values[0] for name, values in form.items()})
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def gives(refresh_token: str = "", status: int = 200, **changes: Any) -> Response:
    made = {"id_token": token(claims(aud="web", **changes))}
    if refresh_token:
        made["refresh_token"] = refresh_token
    return Response(status, Headers(), FixedBody(orjson.dumps(made)))


class World:
    """A policy, its provider and a browser."""

    def __init__(self, rates: RateTable | None, **config: Any) -> None:
        self.clock = HeldClock((NOW - 1_700_000_000) * 10**9)
        self.endpoint = TokenEndpoint()
        self.tasks: list[asyncio.Task[None]] = []
        base = services(clock=self.clock, rates=rates, attachment="route/a")
        self.services = replace(base, callouts=self.endpoint, keys=KeptKeys(self.start))
        self.policy = self.made(config)
        self.cookies: dict[str, str] = {}
        self.state: dict[str, object] = {}

    def made(self, config: dict[str, Any]) -> Oidc:
        found = make("oidc", {**CONFIG, **config}, self.services)
        assert isinstance(found, Oidc)
        return found

    def start(self, run: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        self.tasks.append(asyncio.get_running_loop().create_task(run()))
        return True

    def pass_seconds(self, seconds: int) -> None:
        self.clock.pass_seconds(seconds)

    async def ask(self, target: str = "/a", *, is_data: bool = True) -> Response | None:
        """The policy's answer; the browser keeps what it sets."""
        headers = {"accept": "application/json" if is_data else "text/html"}
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={one}" for name, one in self.cookies.items())
        one = request("GET", target, headers)
        try:
            answer = await self.policy.on_request(one)
        except RequestError as problem:
            self._keep(problem.headers)
            raise
        response = answer or Response(200)
        self.policy.on_response(one, response)
        self._keep(response.headers)
        self.state = one.state
        return answer

    def _keep(self, headers: Any) -> None:
        for name, value in headers:
            if name == b"set-cookie":
                key, _, text = value.decode().partition(";")[0].partition("=")
                self.cookies[key] = text
                if "Max-Age=0;" in value.decode():
                    del self.cookies[key]

    async def log_in(self, refresh_token: str = "", **changes: Any) -> None:
        answer = await self.ask(is_data=False)
        assert answer is not None
        query = parse_qs(urlsplit((answer.headers.get(b"location") or b"").decode()).query)
        self.endpoint.answers.append(gives(refresh_token, nonce=query["nonce"][0], **changes))
        answer = await self.ask(f"/oauth/callback?code=c&state={query['state'][0]}")
        assert answer is not None
        assert answer.headers.get(b"location") == b"/a"

    async def status(self) -> int:
        try:
            answer = await self.ask()
        except RequestError as problem:
            return problem.status
        return 200 if answer is None else answer.status


@pytest.fixture
def rates() -> Iterator[RateTable]:
    table = RateTable.create(f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}", 64)
    yield table
    table.close()


async def test_a_session_ends_with_its_token() -> None:
    world = World(None)
    await world.log_in(exp=NOW + 100)
    assert await world.status() == 200
    assert world.state["jwt"]["sub"] == "ada"  # type: ignore[index]
    assert str(world.state["jwt.rawToken"]).count(".") == 2
    world.pass_seconds(99)
    assert await world.status() == 200
    world.pass_seconds(1)
    assert await world.status() == 401


async def test_a_session_lasts_an_hour_at_most() -> None:
    world = World(None)
    await world.log_in(exp=NOW + 90_000)
    world.pass_seconds(3599)
    assert await world.status() == 200
    world.pass_seconds(1)
    assert await world.status() == 401


async def test_a_login_takes_five_minutes_at_most() -> None:
    world = World(None)
    answer = await world.ask(is_data=False)
    assert answer is not None
    query = parse_qs(urlsplit((answer.headers.get(b"location") or b"").decode()).query)
    world.pass_seconds(300)
    with pytest.raises(RequestError) as caught:
        await world.ask(f"/oauth/callback?code=c&state={query['state'][0]}")
    assert caught.value.message == "oidc failure: invalid transaction"
    assert world.cookies == {}
    assert world.endpoint.forms == []


async def test_logins_that_never_end_do_not_fill_the_jar() -> None:
    world = World(None)
    for _ in range(30):
        assert await world.ask(is_data=False) is not None
        assert len(world.cookies) <= 9


async def test_one_request_renews_before_the_end_and_the_others_go_on(rates: RateTable) -> None:
    world = World(rates)
    await world.log_in("r1", exp=NOW + 400)
    old = dict(world.cookies)
    world.pass_seconds(341)
    world.endpoint.answers.append(gives("r2", exp=NOW + 900))
    assert await world.status() == 200
    assert world.endpoint.forms[1] == {"grant_type": "refresh_token", "refresh_token": "r1"}
    renewed = dict(world.cookies)
    assert renewed.keys() == old.keys()
    assert all(renewed[name] != old[name] for name in old)
    # A request that set out before: another worker would do the same.
    other = World(rates)
    other.cookies, other.policy = dict(old), world.made({})
    assert await other.status() == 200
    assert other.cookies == old
    world.pass_seconds(100)
    assert await world.status() == 200
    assert len(world.endpoint.forms) == 2


async def test_late_requests_get_what_an_earlier_one_was_given() -> None:
    world = World(None)
    await world.log_in("r1", exp=NOW + 400)
    old = dict(world.cookies)
    world.pass_seconds(400)
    world.endpoint.answers.append(gives("r2", exp=NOW + 900))
    assert await world.status() == 200
    renewed, world.cookies = world.cookies, dict(old)
    assert await world.status() == 200
    assert world.cookies == renewed
    world.cookies = dict(old)
    world.pass_seconds(31)
    world.endpoint.answers.append(Response(400, Headers(), FixedBody(b"{}")))
    assert await world.status() == 401
    # A provider that said no is not asked again at once.
    assert await world.status() == 401
    assert len(world.endpoint.forms) == 3


async def test_what_late_requests_are_given_ends_too() -> None:
    world = World(None)
    await world.log_in("r1", exp=NOW + 400)
    old = dict(world.cookies)
    world.pass_seconds(400)
    world.endpoint.answers.append(gives("r2", exp=NOW + 410))
    assert await world.status() == 200
    world.pass_seconds(10)
    world.cookies = old
    assert await world.status() == 401
    assert len(world.endpoint.forms) == 2


async def test_a_provider_that_is_down_ends_no_session_early(rates: RateTable) -> None:
    world = World(rates)
    await world.log_in("r1", exp=NOW + 400)
    world.pass_seconds(350)
    world.endpoint.answers.append(DOWN)
    assert await world.status() == 200
    # One that ended cannot be renewed now, which is not the browser's fault.
    world.pass_seconds(60)
    world.endpoint.answers += [DOWN, gives("r2", exp=NOW + 900)]
    assert await world.status() == 503
    assert await world.status() == 503
    world.pass_seconds(2)
    assert await world.status() == 200
    assert len(world.endpoint.forms) == 4


@pytest.mark.parametrize(
    "answer",
    [
        lambda: gives("r2", sub="eve", exp=NOW + 900),
        lambda: gives("r2", exp=NOW + 1),
        lambda: gives("r2", iss="https://other.example", exp=NOW + 900),
        lambda: Response(200, Headers(), FixedBody(b'{"refresh_token": "r2"}')),
        lambda: Response(401, Headers(), FixedBody(b"{}")),
    ],
    ids=["somebody else", "expired", "another issuer", "no token", "refused"],
)
async def test_answers_that_renew_nothing(answer: Callable[[], Response]) -> None:
    world = World(None)
    await world.log_in("r1", exp=NOW + 400)
    world.pass_seconds(400)
    world.endpoint.answers.append(answer())
    assert await world.status() == 401
    assert "jwt" not in world.state or world.state["jwt"]["sub"] == "ada"  # type: ignore[index]


async def test_a_ticket_renews_nobody_elses_session() -> None:
    world, other = World(None), World(None)
    await world.log_in("r1", exp=NOW + 400)
    await other.log_in("r2", exp=NOW + 400, sub="eve")
    (ticket,) = (name for name in world.cookies if name.startswith("agw_oidc_r"))
    world.cookies[ticket] = other.cookies[ticket]
    world.pass_seconds(400)
    assert await world.status() == 401
    assert len(world.endpoint.forms) == 1


async def test_a_ticket_that_nobody_used_for_an_hour_is_gone() -> None:
    world = World(None)
    await world.log_in("r1", exp=NOW + 400)
    world.pass_seconds(3600)
    assert await world.status() == 401
    assert len(world.endpoint.forms) == 1


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ("/a?b=c#d", "/a?b=c#d"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\\..", "/"),
        ("https://evil.example", "/"),
        ("a", "/"),
        ("", "/"),
        ("*", "/"),
        ("/a\r\nset-cookie: x", "/"),
        ("/a b", "/"),
        ("/\t/evil.example", "/"),
        ("/é", "/"),
        ("/" + "a" * 2047, "/" + "a" * 2047),
        ("/" + "a" * 2048, "/"),
    ],
)
def test_where_it_is_safe_to_come_back_to(target: str, kept: str) -> None:
    assert local_target(target) == kept


def test_what_is_no_callback() -> None:
    assert Callback.of("") is None
    assert Callback.of("state=x") is None
    assert Callback.of("code=x&error=y") is None
    for bad in ("state=x&code=y", "&".join(["state=x&code=y"] * 40), "state=&code="):
        with pytest.raises(RequestError):
            Callback.of(bad)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no client": ({"clientId": ""}, "clientId"),
    "one endpoint": ({"jwks": None}, ""),
    "both ways": ({"discovery": {"url": "https://idp.example/x"}}, ""),
    "relative": ({"redirectURI": "/callback"}, "redirectURI"),
    "root": ({"redirectURI": "https://shop.example/"}, "redirectURI"),
    "no path": ({"redirectURI": "https://shop.example"}, "redirectURI"),
    "query": ({"redirectURI": "https://shop.example/c?x=1"}, "redirectURI"),
    "fragment": ({"redirectURI": "https://shop.example/c#"}, "redirectURI"),
    "user": ({"redirectURI": "https://u@shop.example/c"}, "redirectURI"),
    "dots": ({"redirectURI": "https://shop.example/a/../c"}, "redirectURI"),
    "encoded slash": ({"redirectURI": "https://shop.example/a%2fc"}, "redirectURI"),
    "other scheme": ({"redirectURI": "ftp://shop.example/c"}, "redirectURI"),
    "script": ({"authorizationEndpoint": "javascript:alert(1)"}, "authorizationEndpoint"),
    "line": ({"authorizationEndpoint": "https://a.example/\r\nx: y"}, "authorizationEndpoint"),
    "token": ({"tokenEndpoint": "idp.example/token"}, "tokenEndpoint"),
    "end": ({"endSessionEndpoint": "//evil.example"}, "endSessionEndpoint"),
    "keys": ({"jwks": "{}"}, "jwks"),
    "issuer": ({"issuer": "idp.example"}, "issuer"),
    "scope": ({"scopes": ["email", "a b"]}, "scopes[1]"),
    "auth": ({"tokenEndpointAuth": "none"}, "tokenEndpointAuth"),
    "logout root": ({"logout": {"path": "logout"}}, "logout.path"),
    "logout callback": ({"logout": {"path": "/oauth/callback"}}, "logout.path"),
    "logout away": ({"logout": {"path": "/x", "redirect": "//evil.example"}}, "logout.redirect"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_configuration(name: str) -> None:
    changes, path = BAD[name]
    merged = {key: one for key, one in {**CONFIG, **changes}.items() if one is not None}
    with pytest.raises(ConfigError) as caught:
        make("oidc", merged, services())
    assert caught.value.path == (f"oidc.{path}" if path else "oidc")


DISCOVERY: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/keys",
}
FOUND = {key: CONFIG[key] for key in ("issuer", "clientId", "clientSecret", "redirectURI")}


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": f"{ISSUER}/"},
        {"token_endpoint": None},
        {"token_endpoint": "http://idp.example/token"},
        {"token_endpoint": "https://169.254.169.254/token"},
        {"jwks_uri": "https://[fe80::1]/keys"},
        {"jwks_uri": "https://[::ffff:169.254.169.254]/keys"},
        {"jwks_uri": "https://2852039166/keys"},
        {"jwks_uri": "https://0xa9.0xfe.0xa9.0xfe/keys"},
        {"authorization_endpoint": "https://u:p@idp.example/authorize"},
        {"authorization_endpoint": ["x"]},
        {"end_session_endpoint": "javascript:alert(1)"},
        {"token_endpoint_auth_methods_supported": ["private_key_jwt"]},
    ],
)
def test_documents_that_are_not_believed(changes: dict[str, Any]) -> None:
    make("oidc", {**FOUND, "discovery": DISCOVERY}, services())
    make("oidc", {**FOUND, "discovery": orjson.dumps(DISCOVERY).decode()}, services())
    with pytest.raises(ConfigError) as caught:
        make("oidc", {**FOUND, "discovery": {**DISCOVERY, **changes}}, services())
    assert caught.value.path == "oidc.discovery"


def test_a_secret_is_needed() -> None:
    for secret in ("", "short"):
        lacking: Services = replace(services(), cookie_secret=secret)
        with pytest.raises(ConfigError) as caught:
            make("oidc", CONFIG, lacking)
        assert "OIDC_COOKIE_SECRET" in caught.value.message
    assert "0f0f" not in repr(services())
