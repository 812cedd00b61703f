"""The policy `a2a` around calls: hostile cards, webhooks, versions, where it may be set."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from a2a.client.card_resolver import parse_agent_card
from a2a.utils.signing import create_signature_verifier
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sidecar.a2a.webhook import Refused
from sidecar.config.problems import InvalidConfigError
from sidecar.gateway.a2a_lookup import Lookup
from sidecar.http.message import Response
from tests.support.compiled import InProcess
from tests.support.gateway import proxy_config
from tests.support.messages import request
from tests.support.upstream import Answer, Seen, Upstream

WELL_KNOWN = "/.well-known/agent-card.json"
JSON = {"content-type": "application/json"}
CARD = orjson.dumps({"name": "a", "url": "http://10.0.0.1:9999/rpc"})


class Agent:
    """Answers as the test says."""

    def __init__(self) -> None:
        self.answer = Answer(200, [("content-type", "application/json")], CARD)
        self.seen: list[Seen] = []

    def __call__(self, seen: Seen) -> Answer:
        self.seen.append(seen)
        return self.answer


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def upstream(agent: Agent) -> Iterator[str]:
    with Upstream(agent) as up:
        yield up.address


def one(upstream: str, policy: dict[str, Any] | None = None, **policies: Any) -> dict[str, Any]:
    return proxy_config(8080, upstream, policies={"a2a": policy or {}, **policies})


async def whole(response: Response) -> bytes:
    body = b""
    while piece := await response.body.read():
        body += piece
    assert response.on_done is not None
    response.on_done(len(body), "")
    return body


async def post(gateway: InProcess, body: Any, target: str = "/", **headers: str) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    status, text = await gateway.text(request("POST", target, {**JSON, **headers}, body=raw))
    return status, orjson.loads(text) if text.startswith("{") else text


def call(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


HOSTILE = {
    "not JSON": b"<html>",
    "empty": b"",
    "no url": b"{}",
    "a list": b"[]",
    "wrong types": b'{"supportedInterfaces":{"url":1}}',
    "deep": b'{"url":"http://a/","x":' + b"[" * 9999 + b"]" * 9999 + b"}",
    "huge": b'{"url":"http://a/","x":"' + b"x" * 1_100_000 + b'"}',
    "another protocol": b'{"url":"mqtt://a/"}',
}


async def test_hostile_cards(agent: Agent, upstream: str) -> None:
    async with InProcess(one(upstream)) as gateway:
        for name, body in HOSTILE.items():
            agent.answer.body = body
            status, text = await gateway.text(request("GET", WELL_KNOWN))
            assert status == 502, name
            error = orjson.loads(text)["error"]
            assert error["details"][0]["reason"] == "INVALID_AGENT_RESPONSE"
            assert error["message"].startswith("the agent's card cannot be served: ")
            assert len(text) < 400


async def test_compressed_cards(agent: Agent, upstream: str) -> None:
    fields = [("content-type", "application/json"), ("content-encoding", "gzip")]
    async with InProcess(one(upstream)) as gateway:
        agent.answer = Answer(200, fields, gzip.compress(CARD))
        got = await gateway.ask(request("GET", WELL_KNOWN, {"accept-encoding": "gzip"}))
        assert orjson.loads(await whole(got))["url"] == "http://shop.example/rpc"
        assert not got.headers.has(b"content-encoding")
        assert agent.seen[-1].get("accept-encoding") == "identity"
        bomb = b'{"url":"http://a/","x":"' + b"x" * 3_000_000 + b'"}'
        for body in (gzip.compress(bomb), b"damaged"):
            agent.answer = Answer(200, fields, body)
            assert (await gateway.text(request("GET", WELL_KNOWN)))[0] == 502


async def test_agents_without_a_card(agent: Agent, upstream: str) -> None:
    async with InProcess(one(upstream)) as gateway:
        agent.answer = Answer(404, [], b"none here")
        assert await gateway.text(request("GET", WELL_KNOWN)) == (404, "none here")


async def test_caching_fields(agent: Agent, upstream: str) -> None:
    told = [("etag", '"theirs"'), ("last-modified", "x"), ("digest", "x"), ("accept-ranges", "x")]
    agent.answer.headers += told
    async with InProcess(one(upstream)) as gateway:
        conditions = {"if-none-match": '"theirs"', "range": "bytes=0-1", "if-modified-since": "x"}
        got = await gateway.ask(request("GET", WELL_KNOWN, conditions))
        assert got.status == 200
        assert got.headers.get(b"etag") not in (None, b'"theirs"')
        for name in (b"last-modified", b"digest", b"accept-ranges"):
            assert not got.headers.has(name)
        assert got.headers.get(b"cache-control") == b"no-cache"
        assert got.headers.get(b"vary") == b"x-forwarded-proto"
        assert not {name for name, _ in agent.seen[-1].headers} & conditions.keys()
        await whole(got)


async def test_public_names(agent: Agent, upstream: str) -> None:
    interfaces = [{"url": "http://a:1/x"}, {"url": "a:2", "protocolBinding": "GRPC"}]
    agent.answer.body = orjson.dumps({"supportedInterfaces": interfaces})
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({}, "http://shop.example/x", "shop.example:80"),
        (
            {"publicUrl": "https://p.test/base/", "cacheControl": "max-age=9"},
            *("https://p.test/base/x", "p.test:443"),
        ),
        ({"grpcAuthority": "g.test:7443"}, "http://shop.example/x", "g.test:7443"),
        ({"trustForwardedHost": True}, "http://fwd.test:81/x", "fwd.test:81"),
    ]
    for card, url, authority in cases:
        async with InProcess(one(upstream, {"card": card})) as gateway:
            fields = {"x-forwarded-host": "fwd.test:81, other"}
            _, text = await gateway.text(request("GET", WELL_KNOWN, fields))
            made = [one["url"] for one in orjson.loads(text)["supportedInterfaces"]]
            assert made == [url, authority]


async def test_signing(agent: Agent, upstream: str, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    signing = {"key": {"file": str(tmp_path / "key.pem")}, "keyId": "k1"}
    interface = {"protocolBinding": "JSONRPC", "protocolVersion": "1.0", "url": "http://a/"}
    agent.answer.body = orjson.dumps({"name": "a", "supportedInterfaces": [interface]})
    async with InProcess(one(upstream, {"card": {"signing": signing}})) as gateway:
        got = await gateway.ask(request("GET", WELL_KNOWN))
        tag = (got.headers.get(b"etag") or b"").decode()
        made = parse_agent_card(orjson.loads(await whole(got)))
        assert made.supported_interfaces[0].url == "http://shop.example/"
        create_signature_verifier(lambda kid, _: public, ["ES256"])(made)
        known = await gateway.ask(request("GET", WELL_KNOWN, {"if-none-match": tag}))
        assert (known.status, await whole(known)) == (304, b"")
    with pytest.raises(InvalidConfigError) as caught:
        async with InProcess(one(upstream, {"card": {"signing": {"key": "s3cret", "keyId": "k"}}})):
            pass
    assert "a2a.card.signing: must be a PEM private key" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_webhooks_by_configuration(agent: Agent, upstream: str) -> None:
    def hook(url: str) -> dict[str, Any]:
        return call("CreateTaskPushNotificationConfig", taskId="t", url=url)

    inside, outside = hook("http://10.1.2.3/"), hook("https://93.184.216.34/")
    cases: list[tuple[dict[str, Any], bool, bool]] = [
        ({}, False, True),
        ({"mode": "allow"}, True, True),
        ({"mode": "deny"}, False, False),
        ({"allowedNetworks": ["10.1.0.0/16"], "schemes": ["http"]}, True, False),
        ({"allowedHosts": ["10.1.2.3"]}, True, True),
    ]
    for push, is_inside, is_outside in cases:
        async with InProcess(one(upstream, {"pushNotifications": push})) as gateway:
            for body, is_allowed in ((inside, is_inside), (outside, is_outside)):
                agent.seen.clear()
                status, answer = await post(gateway, body)
                assert status == 200
                assert ("error" not in answer) is is_allowed, push
                assert bool(agent.seen) is is_allowed


async def test_what_policies_changed_is_judged_again(agent: Agent, upstream: str) -> None:
    changed = 'request.body.replace("93.184.216.34", "127.0.0.1")'
    body = call("CreateTaskPushNotificationConfig", url="https://93.184.216.34/")
    text = f"string({changed.replace('request.body', 'string(request.body)')})"
    transformed = {"transformations": {"request": {"body": text}}}
    async with InProcess(one(upstream, **transformed)) as gateway:
        status, answer = await post(gateway, body)
        assert (status, answer["error"]["code"]) == (200, -32602)
    rewrite = {"urlRewrite": {"path": {"full": "/tasks/7/pushNotificationConfigs"}}}
    async with InProcess(one(upstream, **rewrite)) as gateway:
        status, answer = await post(gateway, {"url": "http://127.0.0.1/"}, "/own")
        assert (status, answer["error"]["details"][0]["reason"]) == (400, "INVALID_PARAMS")
    assert not agent.seen


async def test_too_many_webhooks(agent: Agent, upstream: str) -> None:
    urls = [{"url": "https://93.184.216.34/"}] * 17
    async with InProcess(one(upstream)) as gateway:
        _, answer = await post(gateway, call("CreateTaskPushNotificationConfig", x=urls))
        assert answer["error"]["code"] == -32602


async def test_other_endpoints_of_an_agent(agent: Agent, upstream: str) -> None:
    agent.answer = Answer(200, [], b"ok")
    async with InProcess(one(upstream)) as gateway:
        assert await gateway.text(request("GET", "/health")) == (200, "ok")
        form = request("POST", "/up", {"content-type": "multipart/form-data"}, body=b"--x")
        assert await gateway.text(form) == (200, "ok")
        assert (await post(gateway, {"any": "thing"}))[0] == 200
        # An agent may not ask for the type.
        sly = orjson.dumps(call("GetTask"))[:-1] + b',"Method":"CancelTask"}'
        plain = request("POST", "/", {"content-type": "text/plain"}, body=sly)
        assert (await gateway.text(plain))[0] == 400


async def test_variables_and_rules(agent: Agent, upstream: str) -> None:
    rule = {"rules": ['a2a.method in ["GetTask"] && a2a.taskId == "7" && !a2a.streaming']}
    async with InProcess(one(upstream, authorization=rule)) as gateway:
        for body in (call("tasks/get", id="7"), call("GetTask", id="7")):
            assert (await post(gateway, body))[0] == 200
        assert (await gateway.text(request("GET", "/v1/tasks/7")))[0] == 200
        for body in (call("tasks/get", id="8"), call("tasks/cancel", id="7"), call("x")):
            status, answer = await post(gateway, body)
            assert (status, answer["id"]) == (403, 1)
        assert (await gateway.text(request("GET", "/elsewhere")))[0] == 403


@pytest.mark.parametrize("fields", [{"a2a-version": "1.0.7"}, {"a2a-version": "0.3"}, {}])
async def test_versions_served(agent: Agent, upstream: str, fields: dict[str, str]) -> None:
    told = {**fields, "a2a-extensions": "https://e.test/x", "x-a2a-extensions": "y"}
    async with InProcess(one(upstream)) as gateway:
        assert "error" not in (await post(gateway, call("GetTask", id="7"), **told))[1]
    assert told.items() <= dict(agent.seen[-1].headers).items()


async def test_versions_not_served(agent: Agent, upstream: str) -> None:
    async with InProcess(one(upstream)) as gateway:
        for target, fields in (
            ("/", {"a2a-version": "2.0"}),
            ("/", {"a2a-version": "one"}),
            ("/?A2A-Version=9.9", {}),
        ):
            _, answer = await post(gateway, call("GetTask", id="7"), target, **fields)
            assert answer["error"]["code"] == -32009
        double = [*JSON.items(), ("a2a-version", "1.0"), ("a2a-version", "0.3")]
        body = orjson.dumps(call("GetTask", id="7"))
        _, text = await gateway.text(request("POST", "/", double, body=body))
        assert orjson.loads(text)["error"]["code"] == -32009
    assert not agent.seen


async def test_each_attempt_sends_all_of_it(agent: Agent) -> None:
    answers = [Answer(503, [], b""), Answer(200, [("content-type", "application/json")], CARD)] * 2

    def script(seen: Seen) -> Answer:
        agent.seen.append(seen)
        return answers[len(agent.seen) - 1]

    retry = {"retry": {"attempts": 2, "codes": [503]}}
    with Upstream(script) as up:
        async with InProcess(one(up.address, **retry)) as gateway:
            assert (await post(gateway, call("GetTask", id="7")))[0] == 200
            first, second, *_ = agent.seen
            assert first.body == second.body != b""
            _, text = await gateway.text(request("GET", WELL_KNOWN))
    assert orjson.loads(text)["url"] == "http://shop.example/rpc"


# --- where it may be set ------------------------------------------------------------------------


def places(upstream: str) -> dict[str, dict[str, Any]]:
    inline = proxy_config(8080, upstream)
    inline["binds"][0]["listeners"][0]["routes"][0]["backends"][0]["policies"] = {"a2a": {}}
    named = proxy_config(8080, upstream)
    named["binds"][0]["listeners"][0]["routes"][0]["backends"] = [{"backend": "agent"}]
    named["backends"] = [{"name": "agent", "host": upstream, "policies": {"a2a": {}}}]
    service = proxy_config(8080, upstream)
    reference = {"service": {"name": "default/agent.test", "port": 80}}
    service["binds"][0]["listeners"][0]["routes"][0]["backends"] = [reference]
    host, _, port = upstream.rpartition(":")
    service["services"] = [
        {
            "name": "agent",
            "namespace": "default",
            "hostname": "agent.test",
            "vips": [],
            "ports": {"80": int(port)},
            "appProtocols": {"80": "agentgateway.dev/a2a"},
        }
    ]
    service["workloads"] = [
        {
            "uid": "w",
            "name": "w",
            "namespace": "default",
            "workloadIps": [host],
            "services": {"default/agent.test": {"80": int(port)}},
        }
    ]
    return {"route": one(upstream), "inline": inline, "named": named, "service": service}


@pytest.mark.parametrize("place", ["route", "inline", "named", "service"])
async def test_places(agent: Agent, upstream: str, place: str) -> None:
    async with InProcess(places(upstream)[place]) as gateway:
        _, text = await gateway.text(request("GET", WELL_KNOWN))
        assert orjson.loads(text)["url"] == "http://shop.example/rpc"
        assert gateway.count("agentgateway_a2a_requests_total") == 1


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"a2a": {"cards": {}}}, "a2a.cards: unknown field"),
    "no URL": ({"a2a": {"card": {"publicUrl": "gw.test"}}}, "a2a.card.publicUrl"),
    "no port": ({"a2a": {"card": {"grpcAuthority": "gw.test"}}}, "a2a.card.grpcAuthority"),
    "no network": (
        {"a2a": {"pushNotifications": {"allowedNetworks": ["10.0.0.1/8"]}}},
        "a2a.pushNotifications.allowedNetworks",
    ),
    "no host": (
        {"a2a": {"pushNotifications": {"allowedHosts": ["a*"]}}},
        "a2a.pushNotifications.allowedHosts",
    ),
    "no version": ({"a2a": {"versions": ["1"]}}, "a2a.versions"),
    "a line": ({"a2a": {"card": {"cacheControl": "a\nb"}}}, "a2a.card.cacheControl"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
async def test_configuration_refused(case: tuple[dict[str, Any], str]) -> None:
    policies, where = case
    with pytest.raises(InvalidConfigError) as caught:
        async with InProcess(proxy_config(8080, "127.0.0.1:1", policies=policies)):
            pass
    assert where in str(caught.value)


async def test_models_are_no_agents() -> None:
    config = one("127.0.0.1:1")
    target = {"mcp": {"targets": [{"name": "m", "mcp": {"host": "127.0.0.1:1"}}]}}
    config["binds"][0]["listeners"][0]["routes"][0]["backends"] = [target]
    with pytest.raises(InvalidConfigError, match="no A2A agents"):
        async with InProcess(config):
            pass


async def test_rules_before_a_route_is_chosen_cannot_ask() -> None:
    config = one("127.0.0.1:1")
    deny = {"authorization": {"rules": [{"deny": 'a2a.method == "GetTask"'}]}}
    config["binds"][0]["listeners"][0]["policies"] = deny
    with pytest.raises(InvalidConfigError, match="a2a"):
        async with InProcess(config):
            pass


# --- names ---------------------------------------------------------------------------------------


async def test_every_address_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(host: str, *_: object, **__: object) -> list[Any]:
        if host == "gone.test":
            raise socket.gaierror
        if host == "none.test":
            return []
        return [(0, 0, 0, "", ("10.0.0.1", 0)), (0, 0, 0, "", ("fe80::1%eth0", 0, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    lookup = Lookup()
    assert {str(one) for one in await lookup.addresses("a.test")} == {"10.0.0.1", "fe80::1"}
    for host in ("gone.test", "none.test"):
        with pytest.raises(Refused):
            await lookup.addresses(host)


async def test_a_name_that_leads_inside(
    monkeypatch: pytest.MonkeyPatch, agent: Agent, upstream: str
) -> None:
    def found(host: str, *_: object, **__: object) -> list[Any]:
        inside = [] if host == "good.test" else [(0, 0, 0, "", ("10.0.0.1", 0))]
        return [(0, 0, 0, "", ("93.184.216.34", 0)), *inside]

    async with InProcess(one(upstream)) as gateway:
        monkeypatch.setattr(socket, "getaddrinfo", found)
        for host, is_allowed in (("good.test", True), ("rebound.test", False)):
            body = call("CreateTaskPushNotificationConfig", url=f"https://{host}/")
            _, answer = await post(gateway, body)
            assert ("error" not in answer) is is_allowed
