"""Tokens at a real gateway, and an identity provider over TLS that is right, slow, gone or lying.

Source: spec/config.md sections 3.6 and 10.1.
"""

from __future__ import annotations

import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.authority import Authority
from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config
from tests.support.issuer import ISSUER, claims, jwks, token
from tests.support.upstream import Answer, Seen, Upstream

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy/examples/traffic-jwt.yaml"
UNAVAILABLE = b"authentication failure: the keys of the issuer cannot be had now"
ROUTES = (
    "plain",
    "steady",
    "rotated",
    "down",
    "slow",
    "huge",
    "liar",
    "moved",
    "stranger",
    "optional",
)


def fresh(**changes: Any) -> str:
    key = changes.pop("key", "rsa")
    alg = {"rsa": "RS256", "p256": "ES256"}[key]
    return token(
        claims(**{"exp": time.time() + 600, "iat": time.time(), **changes}), key=key, alg=alg
    )


def ask(port: int, path: str, text: str | None, **more: Any) -> Got:
    headers = {} if text is None else {"authorization": f"Bearer {text}"}
    return fetch(port, path, headers=headers, **more)


class Idp:
    """Serves a set of keys at `/<name>`, as bad as the name says."""

    def __init__(self, folder: Path) -> None:
        authority = Authority()
        pair = authority.issue(["127.0.0.1"])
        (folder / "idp.pem").write_bytes(pair.any())
        (folder / "root.pem").write_text(authority.root)
        self.root = str(folder / "root.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "idp.pem")
        self.keys = jwks("rsa")
        self.is_up = False
        self.released = threading.Event()
        self.upstream = Upstream(self.answer, tls=context)

    def asked(self, target: str) -> int:
        return sum(seen.target == target for seen in self.upstream.seen)

    def answer(self, seen: Seen) -> Answer:
        name = seen.target.strip("/")
        body = self.keys.encode() if name == "rotated" else jwks("rsa").encode()
        if name == "down" and not self.is_up:
            return Answer(drop=True)
        if name == "slow":
            assert self.released.wait(20)
        if name == "huge":
            return Answer(200, [], (b" " * 65536 for _ in range(64)))
        if name == "liar":
            return Answer(200, [("content-length", "99999999999")], body)
        if name == "moved":
            return Answer(302, [("location", "/steady")])
        return Answer(200, [("content-type", "application/json")], body)


def document(port: int, idp: str, upstream: str) -> dict[str, Any]:
    routes = []
    for name in ROUTES:
        # The certificate is for the address.
        host = idp.replace("127.0.0.1", "localhost") if name == "stranger" else idp
        auth = {
            "mode": "optional" if name == "optional" else "strict",
            "issuer": ISSUER,
            "jwks": {"url": f"https://{host}/{'steady' if name == 'optional' else name}"},
        }
        policies: dict[str, Any] = {"jwtAuth": auth}
        if name != "plain":
            policies["transformations"] = {"request": {"set": {"x-user": "default(jwt.sub, '-')"}}}
        routes.append(
            {
                "name": name,
                "matches": [{"path": {"pathPrefix": f"/{name}"}}],
                "policies": policies,
                "backends": [{"host": upstream}],
            }
        )
    return {"binds": [{"port": port, "listeners": [{"routes": routes}]}]}


class Running:
    def __init__(self, port: int, idp: Idp, upstream: Upstream, gateway: GatewayProcess) -> None:
        self.port = port
        self.idp = idp
        self.upstream = upstream
        self.gateway = gateway


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    (port,) = free_ports(1)
    upstream = Upstream(lambda seen: Answer(200, [], b"ok"))
    with tempfile.TemporaryDirectory() as name:
        idp = Idp(Path(name))
        with idp.upstream, upstream:
            config = document(port, idp.upstream.address, upstream.address)
            env = {"SSL_CERT_FILE": idp.root}
            with GatewayProcess(config, workers=1, env=env) as gateway:
                yield Running(port, idp, upstream, gateway)
            idp.released.set()


def test_a_token_lets_in_and_goes_no_further(running: Running) -> None:
    running.upstream.take()
    for _ in range(2):
        assert ask(running.port, "/steady", fresh()).status == 200
    for seen in running.upstream.take():
        assert seen.get("authorization") is None
        assert seen.get("x-user") == "ada"
    got = ask(running.port, "/steady", None)
    assert (got.status, got.text) == (401, "authentication failure: no bearer token found")
    assert got.get("www-authenticate") == "Bearer"
    got = ask(running.port, "/steady", fresh(exp=1))
    assert got.text == "authentication failure: the token is invalid or malformed: ExpiredSignature"
    assert got.get("www-authenticate") == 'Bearer error="invalid_token"'
    assert running.upstream.take() == []
    assert ask(running.port, "/optional", None).status == 200
    assert running.upstream.take()[0].get("x-user") == "-"
    assert ask(running.port, "/optional", "x").status == 401
    running.gateway.wait_metric(
        "agentgateway_requests_total", 2, status="401", reason="JwtAuth", route="default/steady"
    )
    running.gateway.wait_line("jwt.sub=ada")


def test_the_direct_way_and_the_long_way_agree(running: Running) -> None:
    """Without other policies, a kept connection to the backend makes later requests direct ones."""
    running.upstream.take()
    for _ in range(4):
        assert ask(running.port, "/plain", fresh()).status == 200
        assert ask(running.port, "/plain", fresh(exp=1)).status == 401
        assert ask(running.port, "/plain", None).status == 401
        # A key that is not known takes a fetch, and so the long way.
        assert ask(running.port, "/plain", fresh(key="p256")).status == 401
    seen = running.upstream.take()
    assert len(seen) == 4
    assert all(one.get("authorization") is None for one in seen)


def test_rotated_keys_are_fetched_when_they_are_first_used(running: Running) -> None:
    assert ask(running.port, "/rotated", fresh()).status == 200
    running.idp.keys = jwks("p256")
    assert ask(running.port, "/rotated", fresh(key="p256")).status == 200
    got = ask(running.port, "/rotated", fresh())
    assert (got.status, got.text) == (
        401,
        'authentication failure: token uses the unknown key "rsa"',
    )
    before = running.idp.asked("/rotated")
    for number in range(20):
        text = token(claims(), head={"kid": f"made-up-{number}"})
        assert ask(running.port, "/rotated", text).status == 401
    assert running.idp.asked("/rotated") == before


def test_a_provider_that_is_down_and_comes_up(running: Running) -> None:
    got = ask(running.port, "/down", fresh())
    assert (got.status, got.body) == (503, UNAVAILABLE)
    assert ask(running.port, "/down", None).status == 401
    running.idp.is_up = True
    until = time.monotonic() + 20
    # Asked again at most once a second.
    while ask(running.port, "/down", fresh()).status != 200:
        assert time.monotonic() < until


def test_a_slow_provider_delays_only_those_it_is_needed_for(running: Running) -> None:
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, running.port, "/slow", fresh()) for _ in range(4)]
        assert ask(running.port, "/steady", fresh()).status == 200
        running.idp.released.set()
        # Those that had waited for too long were told to come again.
        assert {one.result().status for one in waiting} <= {200, 503}
    until = time.monotonic() + 20
    while ask(running.port, "/slow", fresh()).status != 200:
        assert time.monotonic() < until


@pytest.mark.parametrize("name", ["huge", "liar", "moved", "stranger"])
def test_answers_that_are_not_believed(running: Running, name: str) -> None:
    assert ask(running.port, f"/{name}", fresh()).status == 503
    assert ask(running.port, "/steady", fresh()).status == 200


def test_no_token_in_the_log(running: Running) -> None:
    text = fresh()
    ask(running.port, "/steady", text)
    ask(running.port, "/steady", text[:-8])
    assert text.rpartition(".")[2][:20] not in running.gateway.log()


def test_a_file_is_read_again(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    keys = tmp_path / "jwks.json"
    keys.write_text(jwks("rsa"))
    auth = {"mode": "strict", "issuer": ISSUER, "jwks": {"file": str(keys)}}
    upstream = Upstream(lambda seen: Answer(200, [], b"ok"))
    config = proxy_config(port, upstream.address, policies={"jwtAuth": auth})
    # In the gateway phase too, with a place of its own.
    config["binds"][0]["listeners"][0]["policies"] = {
        "jwtAuth": {**auth, "mode": "optional", "location": {"header": {"name": "x-outer"}}},
        "authorization": {"rules": [{"deny": "jwt.sub == 'eve'"}]},
    }
    with upstream, GatewayProcess(config, workers=2) as gateway:
        assert ask(port, "/", fresh()).status == 200
        assert fetch(port, "/", headers={"x-outer": fresh(sub="eve")}).status == 403
        revision = gateway.dump()["revision"]
        (tmp_path / "new").write_text(jwks("p256"))
        (tmp_path / "new").replace(keys)
        gateway.wait_applied(revision + 1)
        assert ask(port, "/", fresh()).status == 401
        for _ in range(6):
            assert ask(port, "/", fresh(key="p256")).status == 200


def test_the_example(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    idp = Idp(tmp_path)
    upstream = Upstream(lambda seen: Answer(200, [], b"ok"))
    config = yaml.safe_load(EXAMPLE.read_text())
    config["gateways"]["default"]["port"] = port
    route = config["routes"][0]
    route["backends"][0]["host"] = upstream.address
    route["policies"]["jwtAuth"]["issuer"] = ISSUER
    route["policies"]["jwtAuth"]["jwks"]["url"] = f"https://{idp.upstream.address}/steady"
    env = {"SSL_CERT_FILE": idp.root}
    with idp.upstream, upstream, GatewayProcess(config, env=env):
        assert ask(port, "/api", fresh(groups=["dev"])).status == 200
        assert upstream.take()[0].get("x-user") == "ada"
        assert ask(port, "/api", fresh(groups=["dev"]), method="POST").status == 403
        assert ask(port, "/api", fresh(groups=["admin"]), method="POST").status == 200
        assert ask(port, "/api", fresh(sub=None, groups=["admin"])).status == 401
