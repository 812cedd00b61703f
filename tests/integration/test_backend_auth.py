"""Credentials for backends at a real gateway of two workers, and token endpoints over TLS that are
right, slow, gone or lying.

Source: spec/config.md sections 3.12 and 11.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.issuer import ISSUER, claims, jwks, private_key, token
from tests.support.mcp_server import McpClient, McpServer
from tests.support.token_endpoint import ID_JAG, TokenEndpoint, form_of
from tests.support.upstream import Answer, Seen, Upstream

GRANT = "urn:ietf:params:oauth:grant-type:"
TYPE = "urn:ietf:params:oauth:token-type:"
SECRET = "cl!ent secret"
EXAMPLES = Path(__file__).resolve().parents[2] / "deploy/examples"
FAULTS = {
    "400": 400,
    "401": 500,
    "403": 500,
    "429": 500,
    "503": 500,
    "mac": 500,
    "long": 500,
    "split": 500,
    "text": 500,
    "moved": 500,
    "huge": 500,
    "liar": 500,
    "down": 500,
}
"""What a token endpoint does, and what the client gets."""
Route = dict[str, Any]


def pem(name: str) -> str:
    key = private_key(name)
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def fresh(**changes: Any) -> str:
    return token(claims(**{"exp": time.time() + 600, "iat": time.time(), **changes}))


def answer(seen: Seen) -> Answer:
    """What came, for the client to tell."""
    told = {"target": seen.target, "headers": [list(field) for field in seen.headers]}
    return Answer(200, [("content-type", "application/json")], orjson.dumps(told))


def shown(got: Got) -> dict[str, str]:
    """Headers that the backend saw."""
    assert got.status == 200, got
    return dict(orjson.loads(got.body)["headers"])


def exchange(url: str, path: str, **more: Any) -> Route:
    made = {
        "host": url,
        "path": path,
        "clientAuth": {"clientId": "gate way", "clientSecret": SECRET},
        **more,
    }
    return {"oauthTokenExchange": made}


def route(name: str, auth: Route, upstream: str, **policies: Any) -> Route:
    return {
        "name": name,
        "matches": [{"path": {"pathPrefix": f"/{name}"}}],
        "policies": {"backendAuth": auth, **policies},
        "backends": [{"host": upstream}],
    }


def document(port: int, url: str, up: str) -> dict[str, Any]:
    verified = {"mode": "strict", "issuer": ISSUER, "jwks": jwks("rsa")}
    raw = {"source": {"expression": "jwt.rawToken.unredacted()"}}
    private = {
        "method": "privateKeyJwt",
        "clientId": "gateway",
        "signingKey": pem("p256"),
        "alg": "ES256",
        "kid": "one",
        "assertionAudience": "https://idp/token",
    }
    post = {"method": "clientSecretPost", "clientId": "gateway", "clientSecret": SECRET}
    signing = {
        "signingKey": pem("rsa"),
        "kid": "k",
        "claims": {"iss": "me", "roles": ["a", 1]},
        "ttl": "60s",
    }
    actor = {"source": {"header": {"name": "x-actor"}}, "tokenType": f"{TYPE}jwt"}
    routes = [
        route("signed", {"jwtSign": signing}, up),
        route(
            "signed-for",
            {"jwtSign": {**signing, "claimExpressions": {"sub": "jwt.sub", "on": "jwt.roles"}}},
            up,
            jwtAuth={**verified, "mode": "optional"},
        ),
        route("passed", {"passthrough": {}}, up, jwtAuth=verified),
        route("placed", {"passthrough": {"location": {"cookie": {"name": "t"}}}}, up,
              jwtAuth=verified),
        route("plain", exchange(url, "/good/plain", audiences=["a", "b"], scopes=["r", "w"],
                                resources=["https://api"]), up),
        route("verified", exchange(url, "/good/verified", subjectToken=raw), up, jwtAuth=verified),
        route("bearer", exchange(url, "/good/bearer", grantType="jwtBearer", clientAuth=post,
                                 additionalParams={"requested_token_use": "'on_behalf_of'",
                                                   "agent": "request.headers['x-agent']"},
                                 authorizationLocation={"header": {"name": "x-token"}}), up),
        route("private", exchange(url, "/good/private", clientAuth=private), up),
        route("acting", exchange(url, "/good/acting",
                                 actorToken={**actor, "enforceMayAct": True}), up),
        route("shared", exchange(url, "/good/shared"), up),
        route("uncached", exchange(url, "/good/uncached", cache={"maxEntries": 0}), up),
        route("brief", exchange(url, "/brief"), up),
        route("held", exchange(url, "/held"), up),
        route("slow", exchange(url, "/held/slow", policies={"http": {"requestTimeout": "200ms"}}),
              up),
        route("nobody", exchange(f"127.0.0.1:{free_ports(1)[0]}", "/"), up),
        route("crossed", {
            "crossAppAccess": {
                "identityProvider": {"host": url, "path": "/jag/idp", "clientAuth": post},
                "resourceAuthorizationServer": {
                    "host": url, "path": "/good/crossed", "clientAuth": private,
                },
                "audience": "https://other",
                "scopes": ["todo"],
                "resources": ["https://api.other"],
            }
        }, up),
        route("uncrossed", {
            "crossAppAccess": {
                "identityProvider": {"host": url, "path": "/good/uncrossed", "clientAuth": post},
                "resourceAuthorizationServer": {
                    "host": url, "path": "/good/never", "clientAuth": post,
                },
                "audience": "https://other",
            }
        }, up),
        *(route(f"fault-{name}", exchange(url, f"/{name}"), up) for name in FAULTS),
        {
            "name": "moved",
            "matches": [{"path": {"pathPrefix": "/moved"}}],
            "backends": [{"host": up, "policies": {
                "backendAuth": {"key": "k"},
                "authorization": {"rules": [{"deny": "'authorization' in request.headers"}]},
                "transformations": {"request": {
                    "set": {"x-moved": "request.headers.authorization"},
                    "remove": ["authorization"],
                }},
            }}],
        },
        {
            "name": "served",
            "matches": [{"path": {"pathPrefix": "/served"}}],
            "policies": {"backendAuth": exchange(url, "/good/model")},
            "backends": [{"ai": {"name": "m", "provider": {"anthropic": {}}, "hostOverride": up}}],
        },
        {
            "name": "model",
            "matches": [{"path": {"pathPrefix": "/v1"}}],
            "policies": {"backendAuth": exchange(url, "/400/model")},
            "backends": [{"ai": {"name": "m", "provider": {"openAI": {}}, "hostOverride": up}}],
        },
    ]  # fmt: skip
    return {"binds": [{"port": port, "listeners": [{"routes": routes}]}]}


class Running:
    def __init__(
        self, port: int, endpoint: TokenEndpoint, upstream: Upstream, gateway: GatewayProcess
    ) -> None:
        self.port = port
        self.endpoint = endpoint
        self.upstream = upstream
        self.gateway = gateway


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    (port,) = free_ports(1)
    with (
        tempfile.TemporaryDirectory() as name,
        TokenEndpoint(Path(name)) as endpoint,
        Upstream(answer) as upstream,
    ):
        config = document(port, endpoint.url, upstream.address)
        env = {"SSL_CERT_FILE": endpoint.root}
        with GatewayProcess(config, workers=2, env=env) as gateway:
            yield Running(port, endpoint, upstream, gateway)


def test_a_token_that_the_gateway_signs(running: Running) -> None:
    headers = shown(fetch(running.port, "/signed", headers=bearer("the client's")))
    text = headers["authorization"].removeprefix("Bearer ")
    found = jwt.decode(text, private_key("rsa").public_key(), ["RS256"])
    assert jwt.get_unverified_header(text) == {"alg": "RS256", "kid": "k", "typ": "JWT"}
    assert (found["iss"], found["roles"]) == ("me", ["a", 1])
    assert found["exp"] - found["iat"] == 70


def test_a_token_that_tells_who_asks(running: Running) -> None:
    def ask(text: str) -> str:
        headers = shown(fetch(running.port, "/signed-for", headers=bearer(text)))
        return headers["authorization"].removeprefix("Bearer ")

    ada, eve = (ask(fresh(sub=name, roles=["r", {"n": 1}])) for name in ("ada", "eve"))
    for name, text in (("ada", ada), ("eve", eve)):
        found = jwt.decode(text, private_key("rsa").public_key(), ["RS256"])
        assert (found["iss"], found["sub"], found["on"]) == ("me", name, ["r", {"n": 1}])
    got = fetch(running.port, "/signed-for")
    assert (got.status, got.text) == (
        400,
        "backend authentication failed: the claim on cannot be computed",
    )


def test_the_clients_own_token_is_shown_again(running: Running) -> None:
    text = fresh()
    assert shown(fetch(running.port, "/passed", headers=bearer(text))) == shown(
        fetch(running.port, "/passed", headers=bearer(text))
    )
    headers = shown(fetch(running.port, "/passed", headers=bearer(text)))
    assert headers["authorization"] == f"Bearer {text}"
    headers = shown(fetch(running.port, "/placed", headers=bearer(text)))
    assert headers["cookie"] == f"t={text}"
    assert "authorization" not in headers


def test_an_exchange(running: Running) -> None:
    headers = shown(fetch(running.port, "/plain", headers=bearer("subject-plain")))
    assert headers["authorization"].startswith("Bearer issued-")
    (asked,) = running.endpoint.asked("/good/plain")
    assert asked.method == "POST"
    assert asked.get("content-type") == "application/x-www-form-urlencoded"
    pair = base64.b64encode(b"gate+way:cl%21ent+secret").decode()
    assert asked.get("authorization") == f"Basic {pair}"
    assert form_of(asked) == {
        "grant_type": f"{GRANT}token-exchange",
        "subject_token": "subject-plain",
        "subject_token_type": f"{TYPE}access_token",
        "audience": "a b",
        "scope": "r w",
        "resource": "https://api",
    }


def test_a_token_that_was_verified_is_exchanged(running: Running) -> None:
    text = fresh()
    assert (
        "issued" in shown(fetch(running.port, "/verified", headers=bearer(text)))["authorization"]
    )
    assert form_of(running.endpoint.asked("/good/verified")[0])["subject_token"] == text
    assert fetch(running.port, "/verified", headers=bearer("x.y.z")).status == 401


def test_an_assertion(running: Running) -> None:
    headers = {**bearer("subject"), "x-agent": "ada"}
    seen = shown(fetch(running.port, "/bearer", headers=headers))
    assert seen["x-token"].startswith("issued-")
    assert "authorization" not in seen
    assert form_of(running.endpoint.asked("/good/bearer")[0]) == {
        "grant_type": f"{GRANT}jwt-bearer",
        "assertion": "subject",
        "requested_token_use": "on_behalf_of",
        "agent": "ada",
        "client_id": "gateway",
        "client_secret": SECRET,
    }
    # A parameter that cannot be computed is a request that cannot be served.
    got = fetch(running.port, "/bearer", headers=bearer("subject"))
    assert (got.status, got.text) == (
        400,
        "backend authentication failed: the parameter agent cannot be computed",
    )


def test_a_client_that_signs(running: Running) -> None:
    shown(fetch(running.port, "/private", headers=bearer("s")))
    form = form_of(running.endpoint.asked("/good/private")[0])
    assert form["client_id"] == "gateway"
    assert form["client_assertion_type"].endswith(":client-assertion-type:jwt-bearer")
    key = private_key("p256").public_key()
    found = jwt.decode(form["client_assertion"], key, ["ES256"], audience="https://idp/token")
    assert (found["iss"], found["sub"]) == ("gateway", "gateway")
    assert found["jti"]


def test_an_actor_acts_only_for_who_lets_it(running: Running) -> None:
    subject = fresh(may_act={"sub": "agent", "iss": ["a", ISSUER]})
    actor = fresh(sub="agent")
    seen = shown(fetch(running.port, "/acting", headers={**bearer(subject), "x-actor": actor}))
    assert "x-actor" not in seen
    form = form_of(running.endpoint.asked("/good/acting")[0])
    assert (form["actor_token"], form["actor_token_type"]) == (actor, f"{TYPE}jwt")
    for other, unlucky in ((subject, fresh(sub="eve")), (fresh(), actor), ("opaque", actor)):
        got = fetch(running.port, "/acting", headers={**bearer(other), "x-actor": unlucky})
        assert got.status == 403
    assert fetch(running.port, "/acting", headers=bearer(subject)).status == 400
    assert len(running.endpoint.asked("/good/acting")) == 1


def test_all_workers_use_one_token_and_nobody_elses(running: Running) -> None:
    def ask(who: int) -> str:
        return shown(fetch(running.port, "/shared", headers=bearer(f"s{who}")))["authorization"]

    first = [ask(1) for _ in range(12)]
    second = [ask(2) for _ in range(12)]
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]
    assert len(running.endpoint.asked("/good/shared")) == 2


def test_without_a_cache_each_request_asks(running: Running) -> None:
    found = {
        shown(fetch(running.port, "/uncached", headers=bearer("s")))["authorization"]
        for _ in range(3)
    }
    assert len(found) == 3


def test_a_token_about_to_end_is_used_once(running: Running) -> None:
    one, other = (
        shown(fetch(running.port, "/brief", headers=bearer("s")))["authorization"] for _ in range(2)
    )
    assert one != other


def test_one_flight_for_all_that_wait(running: Running) -> None:
    with ThreadPoolExecutor(12) as pool:
        waiting = [
            pool.submit(fetch, running.port, "/held", headers=bearer("s")) for _ in range(12)
        ]
        running.endpoint.wait_asked("/held")
        got = fetch(running.port, "/slow", headers=bearer("s"))
        running.endpoint.released.set()
        assert len({shown(one.result())["authorization"] for one in waiting}) == 1
    assert len(running.endpoint.asked("/held")) == 1
    # In between: one that does not answer in time.
    assert (got.status, got.text) == (
        500,
        "backend authentication failed: the token endpoint cannot be asked",
    )


def test_an_identity_assertion_buys_a_token(running: Running) -> None:
    seen = shown(fetch(running.port, "/crossed", headers=bearer("an id token")))
    (first,) = running.endpoint.asked("/jag/idp")
    (second,) = running.endpoint.asked("/good/crossed")
    assert form_of(first) == {
        "grant_type": f"{GRANT}token-exchange",
        "requested_token_type": ID_JAG,
        "subject_token": "an id token",
        "subject_token_type": f"{TYPE}id_token",
        "audience": "https://other",
        "scope": "todo",
        "resource": "https://api.other",
        "client_id": "gateway",
        "client_secret": SECRET,
    }
    form = form_of(second)
    assert form["grant_type"] == f"{GRANT}jwt-bearer"
    assert form["assertion"].startswith("issued-")
    assert form["scope"] == "todo"
    assert "resource" not in form
    assert SECRET not in second.body.decode()
    assert seen["authorization"] != f"Bearer {form['assertion']}"


def test_another_token_than_an_identity_assertion_goes_nowhere(running: Running) -> None:
    got = fetch(running.port, "/uncrossed", headers=bearer("id"))
    assert got.status == 500
    assert running.endpoint.asked("/good/never") == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_token_endpoint_that_fails(running: Running, name: str) -> None:
    got = fetch(running.port, f"/fault-{name}", headers=bearer("the-clients-token"))
    assert got.status == FAULTS[name], got
    assert got.text.startswith("backend authentication failed: ")
    for secret in ("the-clients-token", SECRET, "SECRET-DESCRIPTION", "issued-"):
        assert secret not in got.text
    assert not any(seen.target == f"/fault-{name}" for seen in running.upstream.seen)
    assert running.endpoint.asked("/good/moved") == []


def test_a_token_endpoint_that_is_not_there(running: Running) -> None:
    got = fetch(running.port, "/nobody", headers=bearer("s"))
    assert got.status == 500


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Basic eDp5"},
        {"authorization": "Bearer "},
        [("authorization", "Bearer a"), ("authorization", "Bearer b")],
        {"authorization": "Bearer t\u00f6ken"},
    ],
)
def test_a_request_without_a_token_to_exchange(running: Running, headers: Any) -> None:
    before = len(running.endpoint.asked("/good/plain"))
    assert fetch(running.port, "/plain", headers=headers).status == 400
    assert len(running.endpoint.asked("/good/plain")) == before


def test_what_judges_does_not_see_it_and_what_transforms_does(running: Running) -> None:
    headers = shown(fetch(running.port, "/moved"))
    assert headers["x-moved"] == "Bearer k"
    assert "authorization" not in headers
    assert fetch(running.port, "/moved", headers=bearer("client")).status == 403


def test_a_provider_of_models_gets_the_exchanged_token(running: Running) -> None:
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    for _ in range(3):
        fetch(
            running.port,
            "/served/v1/chat/completions",
            "POST",
            headers={**bearer("user-of-models"), "x-api-key": "client's"},
            body=body,
        )
    seen = [one for one in running.upstream.seen if one.target.startswith("/served/")]
    assert len(seen) == 3
    # Where the exchange says, not where the provider has its keys.
    assert {(one.get("authorization") or "")[:14] for one in seen} == {"Bearer issued-"}
    assert not any(one.get("x-api-key") for one in seen)
    assert len(running.endpoint.asked("/good/model")) == 1


def test_a_models_client_learns_it_in_its_format(running: Running) -> None:
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    got = fetch(
        running.port,
        "/v1/chat/completions",
        "POST",
        headers={**bearer("s"), "content-type": "application/json"},
        body=body,
    )
    assert got.status == 400
    assert orjson.loads(got.body)["error"]["message"] == (
        "backend authentication failed: the token was not accepted (invalid_grant)"
    )
    assert form_of(running.endpoint.asked("/400/model")[0])["subject_token"] == "s"


@pytest.mark.parametrize("is_read_out", [False, True])
def test_a_server_of_mcp_gets_the_exchanged_token(running: Running, is_read_out: bool) -> None:
    """And never the client's own, wherever the gateway reads that from."""
    (port,) = free_ports(1)
    place = {"authorizationLocation": {"header": {"name": "x-token"}}}
    source = {"subjectToken": {"source": {"expression": "jwt.rawToken.unredacted()"}}}
    auth = exchange(running.endpoint.url, "/good/mcp", **place, **(source if is_read_out else {}))
    server = McpServer()
    with Upstream(server) as upstream:
        target = {
            "name": "one",
            "mcp": {"host": f"http://{upstream.address}/mcp"},
            "policies": {"backendAuth": auth},
        }
        verified = {"mode": "strict", "issuer": ISSUER, "jwks": jwks("rsa")}
        config = {"mcp": {"port": port, "policies": {"jwtAuth": verified}, "targets": [target]}}
        env = {"SSL_CERT_FILE": running.endpoint.root}
        with GatewayProcess(config, workers=1, env=env):
            text = fresh(jti=str(is_read_out))
            client = McpClient(port, headers=bearer(text))
            client.initialize()
            assert client.text("auth") == "None"
            seen = upstream.seen
    assert len({one.get("x-token") for one in seen}) == 1
    assert all((one.get("x-token") or "").startswith("issued-") for one in seen)
    assert not any(text in value for one in seen for _, value in one.headers)
    assert form_of(running.endpoint.asked("/good/mcp")[-1])["subject_token"] == text


def test_a_worker_that_is_killed_while_it_asks(tmp_path: Path) -> None:
    """Its lease is nobody's: another one asks."""
    (port,) = free_ports(1)
    with TokenEndpoint(tmp_path) as endpoint, Upstream(answer) as upstream:
        one = route("held", exchange(endpoint.url, "/held"), upstream.address)
        config = {"binds": [{"port": port, "listeners": [{"routes": [one]}]}]}
        env = {"SSL_CERT_FILE": endpoint.root}
        with ThreadPoolExecutor(1) as pool, GatewayProcess(config, workers=2, env=env) as gateway:
            asking = pool.submit(fetch, port, "/held", headers=bearer("s"))
            endpoint.wait_asked("/held")
            pids = gateway.worker_pids()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            assert asking.exception(20) is not None
            endpoint.released.set()
            gateway.wait_replaced(pids)
            shown(fetch(port, "/held", headers=bearer("s")))
            assert len(endpoint.asked("/held")) == 2


def example(name: str, port: int, up: str, endpoint: TokenEndpoint) -> dict[str, Any]:
    """An example as it stands, with servers of this test in the place of its own."""
    text = (EXAMPLES / f"traffic-{name}.yaml").read_text()
    text = re.sub(r"(?<= host: )https://[\w.]+", endpoint.url, text)
    text = re.sub(r"[\w.-]+\.internal:8080", up, text)
    text = re.sub(r"(issuer:) .*", rf"\1 {ISSUER}", text)
    config: dict[str, Any] = yaml.safe_load(text)
    config["gateways"]["default"]["port"] = port
    for one in config["routes"]:
        if "jwtAuth" in one["policies"]:
            one["policies"]["jwtAuth"]["jwks"] = jwks("rsa")
    return config


def test_the_example_of_tokens_that_are_signed(running: Running, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = example("jwt-sign", port, running.upstream.address, running.endpoint)
    (tmp_path / "tls.key").write_text(pem("p256"))
    with GatewayProcess(config, env={"TLS_DIR": str(tmp_path)}):
        assert fetch(port, "/").status == 401
        headers = shown(fetch(port, "/", headers=bearer("change-me")))
    text = headers["authorization"].removeprefix("Bearer ")
    key = private_key("p256").public_key()
    assert jwt.decode(text, key, ["ES256"], audience="warehouse")["sub"] == "reporting"


def test_the_example_of_exchanges(running: Running) -> None:
    (port,) = free_ports(1)
    config = example("token-exchange", port, running.upstream.address, running.endpoint)
    for one, path in zip(config["routes"], ("orders", "mail"), strict=True):
        one["policies"]["backendAuth"]["oauthTokenExchange"]["path"] = f"/good/{path}"
    text = fresh(aud="gateway")
    with GatewayProcess(config, env={"SSL_CERT_FILE": running.endpoint.root}):
        assert "issued" in shown(fetch(port, "/orders", headers=bearer(text)))["authorization"]
        assert "issued" in shown(fetch(port, "/mail", headers=bearer("user")))["authorization"]
    form = form_of(running.endpoint.asked("/good/orders")[0])
    assert (form["subject_token"], form["audience"]) == (text, "orders")
    form = form_of(running.endpoint.asked("/good/mail")[0])
    assert (form["assertion"], form["requested_token_use"]) == ("user", "on_behalf_of")


def test_the_example_of_cross_app_access(running: Running) -> None:
    (port,) = free_ports(1)
    config = example("cross-app-access", port, running.upstream.address, running.endpoint)
    access = config["routes"][0]["policies"]["backendAuth"]["crossAppAccess"]
    access["identityProvider"]["path"] = "/jag/todos"
    access["resourceAuthorizationServer"]["path"] = "/good/todos"
    with GatewayProcess(config, env={"SSL_CERT_FILE": running.endpoint.root}):
        seen = shown(fetch(port, "/", headers=bearer(fresh(aud="agent"))))
    assert seen["authorization"].startswith("Bearer issued-")
    form = form_of(running.endpoint.asked("/jag/todos")[0])
    assert form["audience"] == "https://auth.todos.example.com"
    assert form_of(running.endpoint.asked("/good/todos")[0])["client_id"] == "agent-at-todos"


def test_secrets_are_nowhere_to_be_read(running: Running) -> None:
    """Last: what all of the above left behind."""
    dump = orjson.dumps(running.gateway.dump()).decode()
    for place in (running.gateway.log(), dump, running.gateway.metrics()):
        assert SECRET not in place
        assert "PRIVATE KEY" not in place
        assert "SECRET-DESCRIPTION" not in place
        assert "issued-" not in place
        assert "the-clients-token" not in place
