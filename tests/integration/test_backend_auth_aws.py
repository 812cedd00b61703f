"""Roles of AWS at a real gateway of two workers, and a real STS (moto).

Source: spec/config.md section 3.12; AWS STS documentation.
"""

from __future__ import annotations

import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import yaml

from sidecar.http.headers import Headers
from sidecar.llm.credentials.base import Outgoing
from tests.sidecar.llm.credentials.test_aws import KEY, SECRET, expected
from tests.support.authority import Authority
from tests.support.client import Got, fetch
from tests.support.connect_proxy import ConnectProxy
from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.mcp_server import McpClient, McpServer
from tests.support.upstream import Answer, Script, Seen, Upstream

ROLE = "arn:aws:iam::123456789012:role/gateway"
_SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\w+)/\d{8}/eu-central-1/execute-api/aws4_request"
)


def answer(seen: Seen) -> Answer:
    return Answer(200, [], orjson.dumps([list(field) for field in seen.headers]))


def shown(got: Got) -> dict[str, str]:
    assert got.status == 200, got
    return dict(orjson.loads(got.body))


def key_of(got: Got) -> str:
    """The access key that signed; temporary ones come with a session token."""
    headers = shown(got)
    assert headers["x-amz-security-token"]
    found = _SIGNED.match(headers["authorization"])
    assert found is not None, headers
    return found[1]


def route(name: str, role: dict[str, Any] | None, upstream: str) -> dict[str, Any]:
    aws: dict[str, Any] = {"region": "eu-central-1", "serviceName": "execute-api"}
    if role is not None:
        aws["assumeRole"] = {"roleArn": ROLE, **role}
    return {
        "name": name,
        "matches": [{"path": {"pathPrefix": f"/{name}"}}],
        "policies": {"backendAuth": {"aws": aws}},
        "backends": [{"host": upstream}],
    }


@pytest.fixture(scope="module")
def sts() -> Iterator[str]:
    # Here: it takes a second to load.
    pytest.importorskip("flask_cors", reason="needs moto with flask and flask-cors")
    pytest.importorskip("moto", reason="needs moto")
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}"
    made.stop()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(answer) as made:
        yield made


def document(port: int, upstream: str) -> dict[str, Any]:
    computed = {
        "sessionName": {"expression": "request.headers['x-team']"},
        "tags": [
            {"key": "team", "expression": "request.headers['x-team']"},
            {"key": "by", "value": "gateway"},
        ],
    }
    static = {"sessionName": "fixed", "tags": [{"key": "team", "value": "a"}]}
    routes = [
        route("static", static, upstream),
        route("computed", computed, upstream),
        route("own", None, upstream),
    ]
    return {"binds": [{"port": port, "listeners": [{"routes": routes}]}]}


@pytest.fixture(scope="module")
def port(sts: str, upstream: Upstream) -> Iterator[int]:
    (port,) = free_ports(1)
    env = {
        "AWS_ENDPOINT_URL_STS": sts,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    with GatewayProcess(document(port, upstream.address), workers=2, env=env):
        yield port


def test_workers_share_a_roles_credentials(port: int) -> None:
    assert len({key_of(fetch(port, "/static")) for _ in range(12)}) == 1


def test_each_session_has_its_own(port: int) -> None:
    def ask(team: str) -> set[str]:
        asked = (fetch(port, "/computed", headers={"x-team": team}) for _ in range(8))
        return {key_of(one) for one in asked}

    red, blue = ask("red"), ask("blue")
    assert len(red) == len(blue) == 1
    assert red != blue


@pytest.mark.parametrize("team", [None, "", "a b", "x" * 65, "a/b"])
def test_a_session_that_cannot_be_named(port: int, team: str | None) -> None:
    got = fetch(port, "/computed", headers={} if team is None else {"x-team": team})
    assert (got.status, got.text) == (
        400,
        "backend authentication failed: the session of the role cannot be computed",
    )


def test_a_workload_identity(sts: str, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        token = Path(folder) / "token"
        token.write_text("a.signed.statement\n")
        env = {
            "AWS_ENDPOINT_URL_STS": sts,
            "AWS_ROLE_ARN": ROLE,
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        }
        config = document(port, upstream.address)
        with GatewayProcess(config, workers=2, env=env):
            assert len({key_of(fetch(port, "/own")) for _ in range(8)}) == 1


def test_the_example(sts: str, upstream: Upstream) -> None:
    (port,) = free_ports(1)
    text = (ROOT / "deploy/examples/traffic-backend-auth.yaml").read_text()
    config = yaml.safe_load(re.sub(r"[\w.-]+\.internal:8080", upstream.address, text))
    config["gateways"]["default"]["port"] = port
    env = {
        "AWS_ENDPOINT_URL_STS": sts,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    with GatewayProcess(config, env=env):
        headers = shown(fetch(port, "/keys"))
        assert headers["authorization"] == "Bearer change-me"
        assert headers["x-application-key"] == "change-me"
        red, blue = (
            key_of(fetch(port, "/aws", headers={"authorization": f"Bearer {team}-change-me"}))
            for team in ("red", "blue")
        )
        assert red != blue


CORE = "bedrock-agentcore.us-west-2.amazonaws.com"
ARN = "arn:aws:bedrock-agentcore:us-west-2:606469916935:runtime/agent-4r"


@contextmanager
def agent_core(script: Script) -> Iterator[tuple[Upstream, dict[str, Any], dict[str, str]]]:
    """AgentCore under its own name, also as `abc.test:8443`; the policies that lead there, by a
    proxy, and the environment for them."""
    authority = Authority()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "root.pem").write_text(authority.root)
        (folder / "core.pem").write_bytes(authority.issue([CORE, "abc.test"]).any())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "core.pem")
        env = {
            "SSL_CERT_FILE": str(folder / "root.pem"),
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        with (
            Upstream(script, tls=context) as core,
            ConnectProxy({f"{CORE}:443": core.address, "abc.test:8443": core.address}) as proxy,
        ):
            yield core, {"backendTunnel": {"proxy": {"host": proxy.address}}}, env


def test_a_runtime_of_agent_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature is that of what arrives."""
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    (port,) = free_ports(1)
    with agent_core(answer) as (core, tunnel, env):
        more = {"requestHeaderModifier": {"set": {"x-amzn-user": "ada"}}}
        named = {"aws": {"region": "us-west-2", "serviceName": "execute-api"}}
        routes = [
            {
                "matches": [{"path": {"pathPrefix": "/agent"}}],
                "backends": [
                    {
                        "aws": {"agentCore": {"agentRuntimeArn": ARN, "qualifier": "a b"}},
                        "policies": {**tunnel, **more},
                    }
                ],
            },
            {
                "matches": [{"path": {"pathPrefix": "/"}}],
                "policies": {"backendAuth": named, "backendTLS": {}, **tunnel},
                "backends": [{"host": "abc.test:8443"}],
            },
        ]
        config = {"binds": [{"port": port, "listeners": [{"routes": routes}]}]}
        with GatewayProcess(config, env=env):
            body: Any = {"headers": {"content-type": "application/json"}, "body": b'{"a": 1}'}
            assert fetch(port, "/agent/x?y=1", "POST", **body).status == 200
            assert fetch(port, "/orders/a%20b?y=1&x=2", host="h.test").status == 200
        seen, plain = core.seen
    assert seen.target == f"/runtimes/{quote(ARN, safe='')}/invocations?qualifier=a%20b"
    assert seen.get("host") == CORE
    assert seen.get("x-amzn-user") == "ada"
    assert seen.get("authorization") == signature(seen, "bedrock-agentcore")
    assert plain.get("host") == "abc.test:8443"
    assert plain.get("authorization") == signature(plain, "execute-api")


def test_a_runtime_of_agent_core_that_is_an_mcp_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the target of an `mcp` backend, both of them in the top-level list."""
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    (port,) = free_ports(1)
    with agent_core(McpServer()) as (core, tunnel, env):
        target = {"backend": "/aws-agent-core-mcp-target", "path": "/mcp"}
        routes = [{"backends": [{"backend": "/shared-mcp"}]}]
        config = {
            "binds": [{"port": port, "listeners": [{"routes": routes}]}],
            "backends": [
                {"name": "shared-mcp", "mcp": {"targets": [{"name": "default", "mcp": target}]}},
                {
                    "name": "aws-agent-core-mcp-target",
                    "aws": {"agentCore": {"agentRuntimeArn": ARN}},
                    "policies": {"backendAuth": {"aws": {}}, **tunnel},
                },
            ],
        }
        with GatewayProcess(config, env=env):
            client = McpClient(port)
            assert client.initialize()["serverInfo"]["name"] == "one"
            assert client.text("echo", a=1) == 'one: echo {"a": 1}'
        posts = [one for one in core.seen if one.method == "POST"]
    assert len(posts) >= 3
    for seen in posts:
        assert seen.target == f"/runtimes/{quote(ARN, safe='')}/invocations"
        assert seen.get("host") == CORE
        assert seen.get("authorization") == signature(seen, "bedrock-agentcore")


def signature(seen: Seen, service: str) -> str:
    """What AWS would calculate of a request as it arrived."""
    covered = ("content-type", "x-amz-date")
    headers = Headers(
        (name.encode(), value.encode()) for name, value in seen.headers if name in covered
    )
    host = seen.get("host") or ""
    request = Outgoing(seen.method, "https", host, seen.target, headers, seen.body)
    return expected(request, service, "us-west-2")


def test_sts_that_is_not_there(upstream: Upstream) -> None:
    port, nobody = free_ports(2)
    env = {
        "AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{nobody}",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
    }
    with GatewayProcess(document(port, upstream.address), env=env) as gateway:
        got = fetch(port, "/static")
        assert (got.status, got.text) == (500, "backend authentication failed")
        assert "very-secret" not in gateway.log()
        gateway.wait_line("no credential for aws: AWS role: EndpointConnectionError")
