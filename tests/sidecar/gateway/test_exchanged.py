"""Tokens had in exchange: for whom, until when, and what becomes of the client's own."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.cel.engine import Engine
from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.gateway.credentials import credentials_of
from sidecar.gateway.exchanged import Brought, Exchanged, Passthrough
from sidecar.gateway.mcp_credentials import passes_credentials, without_passthrough
from sidecar.http.headers import Headers
from sidecar.http.message import Request
from sidecar.llm.credentials.base import Outgoing
from sidecar.llm.credentials.oauth import Issued
from sidecar.llm.credentials.shared import SharedTokens
from sidecar.policies.base import Services
from tests.support.clock import HeldClock
from tests.support.issuer import private_key
from tests.support.messages import request

ENDPOINT = {"host": "https://idp.test"}
AUTH = {"clientId": "c", "clientSecret": "s"}


class Idp:
    """The calls of an exchange, without a network."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.seconds: float | None = 3600.0
        self.problem: Exception | None = None

    async def __call__(self, brought: Brought, client: Request) -> Issued:
        self.asked.append(brought.subject)
        if self.problem is not None:
            raise self.problem
        return Issued(f"for-{brought.subject}-{len(self.asked)}", self.seconds)


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def services(clock: HeldClock) -> Services:
    return Services(clock, Engine("", frozenset()))


@pytest.fixture
def tokens(clock: HeldClock) -> SharedTokens:
    return SharedTokens(None, clock)


@pytest.fixture
def idp() -> Idp:
    return Idp()


def made(idp: Idp, services: Services, tokens: SharedTokens, **payload: Any) -> Exchanged:
    return Exchanged(payload, idp, 1, services, tokens)


def asking(subject: str, *more: tuple[str, str], target: str = "/") -> Outgoing:
    client = request(target=target, headers=[("authorization", f"Bearer {subject}"), *more])
    return Outgoing("GET", "https", "h", target, client.headers, b"", client)


async def shown(credential: Exchanged, subject: str) -> str:
    outgoing = asking(subject)
    if not credential.apply_nowait(outgoing):
        await credential.apply(outgoing)
    return (outgoing.headers.get(b"authorization") or b"").decode()


def token(payload: dict[str, Any]) -> str:
    return f"e30.{base64.urlsafe_b64encode(orjson.dumps(payload)).rstrip(b'=').decode()}.c2ln"


async def test_each_client_has_its_own(idp: Idp, services: Services, tokens: SharedTokens) -> None:
    credential = made(idp, services, tokens)
    assert [await shown(credential, name) for name in ("a", "b", "a", "b")] == [
        "Bearer for-a-1",
        "Bearer for-b-2",
        "Bearer for-a-1",
        "Bearer for-b-2",
    ]
    # Another configuration is another exchange, whoever asks.
    assert await shown(made(idp, services, tokens, scopes=["x"]), "a") == "Bearer for-a-3"


async def test_a_token_is_renewed_before_its_end(
    idp: Idp, services: Services, tokens: SharedTokens, clock: HeldClock
) -> None:
    credential = made(idp, services, tokens)
    assert await shown(credential, "a") == "Bearer for-a-1"
    clock.pass_seconds(3600 - 15 - 60 - 1)
    assert await shown(credential, "a") == "Bearer for-a-1"
    await asyncio.sleep(0)
    assert len(idp.asked) == 1
    clock.pass_seconds(1)
    # This one still gets the old one; the next one is asked for beside it.
    assert await shown(credential, "a") == "Bearer for-a-1"
    await asyncio.gather(*credential._renewals)
    assert await shown(credential, "a") == "Bearer for-a-2"
    assert len(idp.asked) == 2


async def test_a_renewal_that_fails_is_tried_again(
    idp: Idp, services: Services, tokens: SharedTokens, clock: HeldClock
) -> None:
    credential = made(idp, services, tokens)
    await shown(credential, "a")
    clock.pass_seconds(3530)
    idp.problem = UpstreamError(500, "UpstreamFailure", "down")
    for _ in range(3):
        assert await shown(credential, "a") == "Bearer for-a-1"
        await asyncio.gather(*credential._renewals, return_exceptions=True)
    assert len(idp.asked) == 2
    clock.pass_seconds(1)
    idp.problem = None
    assert await shown(credential, "a") == "Bearer for-a-1"
    await asyncio.gather(*credential._renewals)
    assert await shown(credential, "a") == "Bearer for-a-3"
    clock.pass_seconds(3600 - 15)
    idp.problem = UpstreamError(500, "UpstreamFailure", "down")
    with pytest.raises(UpstreamError):
        await shown(credential, "a")


@pytest.mark.parametrize(
    ("seconds", "ttl", "left", "lives"),
    [
        (3600, None, None, 3585),
        (3600, None, 100, 85),
        (None, None, None, 285),
        (None, "40s", None, 25),
        (None, "0s", None, 285),
        (10, None, None, 0),
        (3600, None, 10, 0),
        (3600, None, -10, 0),
    ],
)
async def test_how_long_a_token_is_shown(
    idp: Idp,
    services: Services,
    tokens: SharedTokens,
    clock: HeldClock,
    seconds: float | None,
    ttl: str | None,
    left: float | None,
    lives: float,
) -> None:
    idp.seconds = seconds
    credential = made(idp, services, tokens, cache={} if ttl is None else {"defaultTtl": ttl})
    until = clock.time_ns() / 1e9 + (left or 0)
    subject = "opaque" if left is None else token({"exp": until})
    await shown(credential, subject)
    if lives:
        clock.pass_seconds(lives - 0.5)
        idp.problem = UpstreamError(500, "UpstreamFailure", "no other one")
        assert credential.apply_nowait(asking(subject))
        await asyncio.gather(*credential._renewals, return_exceptions=True)
    clock.pass_seconds(1)
    assert not credential.apply_nowait(asking(subject))


async def test_without_a_cache(idp: Idp, services: Services, tokens: SharedTokens) -> None:
    credential = made(idp, services, tokens, cache={"maxEntries": 0})
    assert [await shown(credential, "a") for _ in range(2)] == ["Bearer for-a-1", "Bearer for-a-2"]


async def test_as_many_as_may_be_held(idp: Idp, services: Services, tokens: SharedTokens) -> None:
    credential = made(idp, services, tokens, cache={"maxEntries": 1})
    for name in ("a", "b", "b", "a"):
        await shown(credential, name)
    assert idp.asked == ["a", "b", "a"]


async def test_what_was_exchanged_goes_no_further(
    idp: Idp, services: Services, tokens: SharedTokens
) -> None:
    credential = made(
        idp,
        services,
        tokens,
        subjectToken={"source": {"queryParameter": {"name": "t"}}},
        actorToken={"source": {"cookie": {"name": "actor"}}},
        authorizationLocation={"header": {"name": "x-token"}},
    )
    outgoing = asking("kept", ("cookie", "a=1; actor=act"), target="/p?t=sub&q=1")
    assert not credential.apply_nowait(outgoing)
    await credential.apply(outgoing)
    assert outgoing.target == "/p?q=1"
    assert outgoing.headers == [
        (b"authorization", b"Bearer kept"),
        (b"cookie", b"a=1"),
        (b"x-token", b"for-sub-1"),
    ]
    outgoing = asking("kept", ("cookie", "actor=act"), target="/p?t=sub")
    assert credential.apply_nowait(outgoing)
    assert outgoing.target == "/p"
    assert outgoing.headers.get(b"cookie") is None


async def test_nobody_asks(idp: Idp, services: Services, tokens: SharedTokens) -> None:
    outgoing = Outgoing("GET", "https", "h", "/", Headers())
    credential = made(idp, services, tokens)
    with pytest.raises(UpstreamError):
        credential.apply_nowait(outgoing)
    with pytest.raises(UpstreamError):
        await credential.apply(outgoing)
    assert Passthrough({}).apply_nowait(outgoing)
    assert outgoing.headers == []


@pytest.mark.parametrize("subject", ["", " ", "x" * 16385, "a\tb"])
async def test_a_subject_that_is_none(
    idp: Idp, services: Services, tokens: SharedTokens, subject: str
) -> None:
    with pytest.raises(RequestError) as caught:
        await shown(made(idp, services, tokens), subject)
    assert caught.value.status == 400
    assert idp.asked == []


def test_what_the_client_brought_is_shown_again() -> None:
    client = request(headers={"authorization": "Bearer raw", "x-api-key": "k"})
    outgoing = Outgoing("GET", "https", "h", "/", Headers(), b"", client)
    # Nobody verified anything: what the client sent, as it sent it.
    assert Passthrough({}).apply_nowait(outgoing)
    assert outgoing.headers == client.headers
    client.state["jwt.rawToken"] = "verified"
    located = {"location": {"header": {"name": "x-user"}}}
    outgoing = Outgoing("GET", "https", "h", "/", Headers(), b"", client)
    assert Passthrough(located).apply_nowait(outgoing)
    assert outgoing.headers == [(b"x-user", b"verified")]


PEM = private_key("rsa").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no destination": ({"oauthTokenExchange": {"path": "/t"}}, "oauthTokenExchange"),
    "a path": ({"oauthTokenExchange": {**ENDPOINT, "path": "t"}}, "oauthTokenExchange.path"),
    "a path that splits": (
        {"oauthTokenExchange": {**ENDPOINT, "path": "/t\r\nx: y"}},
        "oauthTokenExchange.path",
    ),
    "clear text": ({"oauthTokenExchange": {"host": "idp.test:80"}}, "oauthTokenExchange.host"),
    "clear text to an address": (
        {"oauthTokenExchange": {"host": "http://10.0.0.1"}},
        "oauthTokenExchange.host",
    ),
    "clear text of a name that looks local": (
        {"oauthTokenExchange": {"host": "http://localhost.evil.test"}},
        "oauthTokenExchange.host",
    ),
    "a type to ask for": (
        {"oauthTokenExchange": {**ENDPOINT, "requestedTokenType": "urn:x"}},
        "oauthTokenExchange.requestedTokenType",
    ),
    "a type with an assertion": (
        {
            "oauthTokenExchange": {
                **ENDPOINT,
                "grantType": "jwtBearer",
                "requestedTokenType": "urn:ietf:params:oauth:token-type:jwt",
            }
        },
        "oauthTokenExchange.requestedTokenType",
    ),
    "an actor that cannot be read": (
        {
            "oauthTokenExchange": {
                **ENDPOINT,
                "actorToken": {"source": {"header": {"name": "a"}}, "enforceMayAct": True},
            }
        },
        "oauthTokenExchange.actorToken.enforceMayAct",
    ),
    "a reserved parameter": (
        {"oauthTokenExchange": {**ENDPOINT, "additionalParams": {"Client_ID": "'a'"}}},
        "oauthTokenExchange.additionalParams.Client_ID",
    ),
    "the body": (
        {"oauthTokenExchange": {**ENDPOINT, "additionalParams": {"a": "request.body"}}},
        "oauthTokenExchange.additionalParams.a",
    ),
    "the body as a token": (
        {
            "oauthTokenExchange": {
                **ENDPOINT,
                "subjectToken": {"source": {"expression": "string(request.body)"}},
            }
        },
        "oauthTokenExchange.subjectToken.source",
    ),
    "a place that cannot be written": (
        {"oauthTokenExchange": {**ENDPOINT, "authorizationLocation": {"expression": "x"}}},
        "oauthTokenExchange.authorizationLocation",
    ),
    "passthrough to an expression": (
        {"passthrough": {"location": {"expression": "x"}}},
        "passthrough.location",
    ),
    "no audience": ({"crossAppAccess": {"audience": ""}}, "crossAppAccess.audience"),
    "no client": (
        {"crossAppAccess": {"audience": "a", "identityProvider": ENDPOINT}},
        "crossAppAccess.identityProvider.clientAuth",
    ),
    "clear text of the second": (
        {
            "crossAppAccess": {
                "audience": "a",
                "identityProvider": {**ENDPOINT, "clientAuth": AUTH},
                "resourceAuthorizationServer": {"host": "http://idp.test", "clientAuth": AUTH},
            }
        },
        "crossAppAccess.resourceAuthorizationServer.host",
    ),
    "a claim of the signer's": (
        {"jwtSign": {"signingKey": PEM, "claimExpressions": {"exp": "1"}}},
        "jwtSign.claimExpressions.exp",
    ),
    "a claim twice": (
        {"jwtSign": {"signingKey": PEM, "claims": {"a": 1}, "claimExpressions": {"a": "1"}}},
        "jwtSign.claimExpressions.a",
    ),
    "a claim of the body": (
        {"jwtSign": {"signingKey": PEM, "claimExpressions": {"a": "string(request.body)"}}},
        "jwtSign.claimExpressions.a",
    ),
    "a claim to an expression": (
        {"jwtSign": {"signingKey": PEM, "claimExpressions": {"a": "1"},
                     "location": {"expression": "x"}}},
        "jwtSign.location",
    ),
    "a value and its expression": (
        {"aws": {"region": "r", "serviceName": "s", "assumeRole": {
            "roleArn": "r", "tags": [{"key": "a", "value": "b", "expression": "x"}],
        }}},
        "aws.assumeRole.tags[0]",
    ),
    "a tag twice": (
        {"aws": {"region": "r", "serviceName": "s", "assumeRole": {
            "roleArn": "r",
            "tags": [{"key": "a", "value": "b"}, {"key": "a", "expression": "jwt.sub"}],
        }}},
        "aws.assumeRole.tags[1]",
    ),
    "a tag of AWS's own": (
        {"aws": {"region": "r", "serviceName": "s", "assumeRole": {
            "roleArn": "r", "tags": [{"key": "aws:x", "expression": "jwt.sub"}],
        }}},
        "aws.assumeRole.tags",
    ),
    "explicit credentials and a session": (
        {"aws": {"accessKeyId": "a", "secretAccessKey": "b", "region": "r", "serviceName": "s",
                 "assumeRole": {"roleArn": "r", "sessionName": {"expression": "jwt.sub"}}}},
        "aws.assumeRole",
    ),
}  # fmt: skip


async def test_a_token_for_who_asks_serves_for_half_its_life(
    services: Services, clock: HeldClock
) -> None:
    payload = {"signingKey": PEM, "claimExpressions": {"sub": "request.headers['x-who']"}}
    (signed,) = credentials_of({"jwtSign": {**payload, "ttl": "60s"}}, services)

    def ask(who: str) -> bytes | None:
        outgoing = asking("s", ("x-who", who))
        assert signed.apply_nowait(outgoing)
        return outgoing.headers.get(b"authorization")

    first = ask("a")
    assert ask("b") != first
    clock.pass_seconds(29)
    assert ask("a") == first
    clock.pass_seconds(1)
    assert ask("a") != first
    for who in ("", "x" * 9000):
        outgoing = asking("s", *([("x-who", who)] if who else []))
        with pytest.raises(RequestError):
            await signed.apply(outgoing)
    with pytest.raises(UpstreamError):
        signed.apply_nowait(Outgoing("GET", "https", "h", "/", Headers()))
    signed.close()


@pytest.mark.parametrize("name", BAD)
def test_configuration_that_is_refused(services: Services, name: str) -> None:
    payload, path = BAD[name]
    with pytest.raises(ConfigError) as caught:
        credentials_of(payload, services)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "more",
    [
        {"host": "http://127.0.0.1:1"},
        {"host": "[::1]:80"},
        {"host": "localhost:80"},
        {"host": "unix:/run/idp"},
        {"host": "idp.test:443", "policies": {"backendTLS": {}}},
        {"host": "http://idp.test", "allowPlaintext": True},
        {"service": {"name": "ns/idp.test", "port": 80}},
        {"backend": "idp"},
    ],
)
def test_where_tokens_may_go(services: Services, more: dict[str, Any]) -> None:
    (credential,) = credentials_of({"oauthTokenExchange": more}, services)
    assert isinstance(credential, Exchanged)


def test_what_a_server_of_mcp_is_called_with(services: Services) -> None:
    exchange = {"oauthTokenExchange": ENDPOINT}
    verified = {"source": {"expression": "jwt.rawToken.unredacted()"}}
    assert passes_credentials({"passthrough": {}}, services)
    assert passes_credentials("passthrough", services)
    assert passes_credentials(exchange, services)
    assert passes_credentials({"crossAppAccess": {}}, services)
    assert not passes_credentials(
        {"oauthTokenExchange": {**ENDPOINT, "subjectToken": verified}}, services
    )
    assert not passes_credentials({"key": "k"}, services)
    assert not passes_credentials(None, services)
    assert without_passthrough({"backendAuth": exchange}) == {"backendAuth": exchange}
    assert without_passthrough({"backendAuth": {"passthrough": {}}, "http": {}}) == {"http": {}}


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"subjectToken": {"source": {"header": {"name": "x"}}}}, "subjectToken.source"),
        (
            {"subjectToken": {"source": {"expression": "request.headers['x']"}}},
            "subjectToken.source.expression",
        ),
        ({"actorToken": {"source": {"header": {"name": "Authorization"}}}}, "actorToken.source"),
        ({"additionalParams": {"a": "request.path"}}, "additionalParams.a"),
    ],
)
def test_what_could_make_two_clients_of_mcp_one(
    services: Services, more: dict[str, Any], path: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        passes_credentials({"oauthTokenExchange": {**ENDPOINT, **more}}, services)
    assert caught.value.path == f"backendAuth.oauthTokenExchange.{path}"


@pytest.mark.parametrize(
    ("auth", "path"),
    [
        (
            {"jwtSign": {"claimExpressions": {"a": "request.path"}}},
            "jwtSign.claimExpressions.a",
        ),
        (
            {"aws": {"assumeRole": {"sessionName": {"expression": "request.path"}}}},
            "aws.assumeRole.sessionName",
        ),
        (
            {"aws": {"assumeRole": {"tags": [{"key": "a", "expression": "source.address"}]}}},
            "aws.assumeRole.tags[0]",
        ),
    ],
)
def test_what_is_computed_for_a_server_of_mcp(
    services: Services, auth: dict[str, Any], path: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        passes_credentials(auth, services)
    assert caught.value.path == f"backendAuth.{path}"
    assert not passes_credentials({"jwtSign": {"claimExpressions": {"sub": "jwt.sub"}}}, services)
