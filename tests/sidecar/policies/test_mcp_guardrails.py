"""What guards of MCP messages are asked, what their answers mean, which settings are refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from sidecar.cel.engine import Engine
from sidecar.config.local import Source
from sidecar.config.problems import InvalidConfigError
from sidecar.errors import ConfigError, UpstreamError
from sidecar.gateway.loading import Loader
from sidecar.http.message import FixedBody, Response
from sidecar.jsonrpc import JsonRpcError
from sidecar.policies import ext_mcp, mcp_webhook
from sidecar.policies._pb import ext_mcp_pb2 as pb
from sidecar.policies.base import Services
from sidecar.policies.ext_mcp import BadVerdictError
from sidecar.policies.mcp_guardrails import Config, McpGuardrails
from sidecar.policies.schema import parse
from sidecar.telemetry.bodies import STATE, Bodies, Recorder, Room
from tests.support.callouts import Service
from tests.support.clock import HeldClock
from tests.support.compiled import ask_for

ONE = {"kind": "remote", "host": "localhost:1", "methods": {"tools/call": "full"}}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"kind": "local"}, "processors[0].kind"),
    "no kind": ({"kind": None}, "processors[0].kind"),
    "no destination": ({"host": None}, "processors[0]"),
    "two destinations": ({"backend": "b"}, "processors[0]"),
    "phase": ({"methods": {"tools/call": "both"}}, "processors[0].methods.tools/call"),
    "method": ({"methods": {"tools/cal": "full"}}, "processors[0].methods.tools/cal"),
    "failure mode": ({"failureMode": "open"}, "processors[0].failureMode"),
    "expression": ({"metadata": {"a": "1 +"}}, "processors[0].metadata.a"),
    "response": ({"metadata": {"a": "response.code"}}, "processors[0].metadata.a"),
    "header": (
        {"requestHeaders": {"allowed": ["x", "a b"]}},
        "processors[0].requestHeaders.allowed[1]",
    ),
    "path of gRPC": ({"path": "/x"}, "processors[0]"),
    "path": ({"kind": "webhook", "path": "x"}, "processors[0]"),
    "split path": ({"kind": "webhook", "path": "/a b"}, "processors[0]"),
    "key": ({"timeout": "1s"}, "processors[0].timeout"),
}


def services() -> Services:
    return Services(HeldClock(), Engine())


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    given, path = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        McpGuardrails(parse(Config, {"processors": [{**ONE, **given}]}), services())
    assert caught.value.path == path


DOCUMENT = """
binds:
- port: 3000
  listeners:
  - routes:
    - policies: {mcpGuardrails: {processors: [%s]}}
      backends:
      - mcp: {targets: [{name: t, mcp: {host: "http://localhost:1/mcp"}}]}
        policies: {mcpGuardrails: {processors: [%s]}}
backends: [{name: named, host: "localhost:2"}]
policies:
- name: {name: p, namespace: default}
  target: {backend: {backend: {name: named, namespace: ""}}}
  policy: {mcpGuardrails: {processors: [%s]}}
"""
GOOD = '{kind: webhook, backend: named, path: /x, methods: {"*": full}}'
BAD = '{kind: remote, host: "a:1", methods: {tools/cal: full}}'


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ((GOOD, GOOD, GOOD), ""),
        ((BAD, GOOD, GOOD), "binds[0].listeners[0].routes[0].policies.mcpGuardrails"),
        ((GOOD, BAD, GOOD), "binds[0].listeners[0].routes[0].backends[0].policies.mcpGuardrails"),
        ((GOOD, GOOD, BAD), "policies[0].policy.mcpGuardrails"),
    ],
)
def test_every_level_is_checked(given: tuple[str, str, str], path: str) -> None:
    loader = Loader(Source("test", content=DOCUMENT % given), {})
    if not path:
        loader.load()
        return
    with pytest.raises(InvalidConfigError) as caught:
        loader.load()
    assert f"{path}.processors[0].methods.tools/cal: there is no such method" in str(caught.value)


def test_what_is_looked_at() -> None:
    both = [ONE, {**ONE, "methods": {"*/list": "response"}, "failureMode": "FailOpen"}]
    made = McpGuardrails(parse(Config, {"processors": both}), services())
    assert made.requests == {"tools/call"}
    assert {"tools/call", "tools/list", "prompts/list"} < made.responses


def test_question() -> None:
    metadata = {"a": "x", "b": [1, True, None, {"c": 2.5}]}
    raw = ext_mcp.request(("t",), "tools/call", metadata, {"name": "n"}, [(b"x-a", b"\xff")])
    made = pb.Request.FromString(raw)
    assert (list(made.service_names), made.method) == (["t"], "tools/call")
    assert made.mcp_request == b'{"name":"n"}'
    assert (made.headers[0].key, made.headers[0].value) == ("x-a", b"\xff")
    assert made.metadata_context["b"][3]["c"] == 2.5
    assert not pb.Request.FromString(ext_mcp.request((), "m", {}, {}, ())).HasField(
        "metadata_context"
    )


def verdict(**more: Any) -> bytes:
    return bytes(pb.RequestVerdict(**more).SerializeToString())


def test_pass_with_headers_and_metadata() -> None:
    made = pb.RequestVerdict(unchanged=pb.Pass())
    made.header_mutation.set.add(key="X-A", value=b" v ")
    made.header_mutation.remove.append("X-B")
    made.metadata.update({"n": 3, "deep": {"list": [1, None]}})
    found = ext_mcp.request_verdict(made.SerializeToString())
    assert found.changed is None
    assert found.set_fields == ((b"x-a", b"v"),)
    assert found.remove_fields == {b"x-b"}
    assert found.metadata == {"n": 3, "deep": {"list": [1, None]}}


@pytest.mark.parametrize("raw", [b"", b"\xff", b"\x0a", verdict(metadata={"a": None})])
def test_answers_that_decide_nothing(raw: bytes) -> None:
    for read in (ext_mcp.request_verdict, ext_mcp.response_verdict):
        with pytest.raises(UpstreamError):
            read(raw)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"1", b'{"a":' * 200 + b"1" + b"}" * 200])
def test_changes_that_are_none(raw: bytes) -> None:
    with pytest.raises(BadVerdictError):
        ext_mcp.request_verdict(verdict(mutated=raw))
    with pytest.raises(BadVerdictError):
        ext_mcp.response_verdict(pb.ResponseVerdict(mutated=raw).SerializeToString())


@pytest.mark.parametrize(
    "name",
    [
        *("content-length", "Transfer-Encoding", "connection", "host", "authorization", "cookie"),
        *("mcp-session-id", "Mcp-Param-X", ":path", "", "a b", "a\n", "content-type", "\u00e9"),
    ],
)
def test_headers_of_the_gateway(name: str) -> None:
    field = pb.Field(key=name, value=b"x")
    for mutation in (pb.Fields(set=[field]), pb.Fields(remove=[name])):
        with pytest.raises(BadVerdictError):
            ext_mcp.request_verdict(verdict(unchanged=pb.Pass(), header_mutation=mutation))


ERRORS: dict[str, tuple[bytes | None, tuple[int, str, Any]]] = {
    "none": (None, (-32001, "why", None)),
    "own": (b'{"code": -5, "message": "m", "data": [1]}', (-5, "m", [1])),
    "without words": (b'{"code": 7}', (7, "why", None)),
    "code is text": (b'{"code": "7", "message": "m"}', (-32001, "why", None)),
    "code is true": (b'{"code": true}', (-32001, "why", None)),
    "huge code": (b'{"code": 99999999999}', (-32001, "why", None)),
    "not JSON": (b"{", (-32001, "why", None)),
    "list": (b"[]", (-32001, "why", None)),
}


@pytest.mark.parametrize("name", ERRORS)
def test_refusals(name: str) -> None:
    raw, wanted = ERRORS[name]
    given = pb.Refusal(code=pb.Refusal.PERMISSION_DENIED, reason="why", mcp_error=raw)
    for found in (
        ext_mcp.request_verdict(verdict(error=given)).refusal,
        ext_mcp.response_verdict(pb.ResponseVerdict(error=given).SerializeToString()).refusal,
    ):
        assert found is not None
        assert (found.code, found.message, found.data) == wanted
        assert found.status == 200


def test_an_unknown_code_refuses() -> None:
    found = ext_mcp.request_verdict(verdict(error=pb.Refusal(code=99))).refusal  # type: ignore[arg-type]
    assert found is not None
    assert (found.code, found.message) == (-32603, "Refused by a guardrail")


def test_webhook_question() -> None:
    headers = [(b"x-a", b"1"), (b"x-a", b"2"), (b"x-b", b"\xff")]
    raw = mcp_webhook.question("request", ("a", "b"), "tools/list", {"k": 1}, {}, headers)
    assert json.loads(raw) == {
        "phase": "request",
        "method": "tools/list",
        "target": None,
        "targets": ["a", "b"],
        "metadata": {"k": 1},
        "params": {},
        "headers": {"x-a": "1, 2", "x-b": "\ufffd"},
    }


def test_webhook_answers() -> None:
    raw = b'{"action":"mutate","result":{"a":1}}'
    assert mcp_webhook.verdict("response", raw).changed == {"a": 1}
    raw = b'{"action":"pass","headers":{"X-A":"1"},"metadata":{"k":2}}'
    found = mcp_webhook.verdict("request", raw)
    assert (found.set_fields, found.metadata) == (((b"x-a", b"1"),), {"k": 2})
    raw = b'{"action":"reject","code":"INVALID","error":{"code":1,"message":"m"}}'
    refusal = mcp_webhook.verdict("response", raw).refusal
    assert refusal is not None
    assert (refusal.code, refusal.message) == (1, "m")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"action":"mutate","params":{}}',
        b'{"action":"mutate","result":[]}',
        b'{"action":"pass","headers":{}}',
        b'{"action":"pass","metadata":{}}',
        b'{"action":"pass","method":"ping"}',
        b'{"action":"reject","code":["INVALID"]}',
    ],
)
def test_what_a_webhook_cannot_say_of_results(raw: bytes) -> None:
    with pytest.raises(BadVerdictError):
        mcp_webhook.verdict("response", raw)


@pytest.mark.parametrize(
    ("method", "said", "fate"),
    [
        ("tools/call", b'{"action":"pass"}', "whole"),
        ("tools/call", b'{"action":"mutate","params":{}}', "withheld"),
        ("tools/call", b'{"action":"reject"}', "withheld"),
        ("tools/call", b"no verdict", "withheld"),
        # What a server is told by the client is the client's word, too; a result is the server's.
        ("sampling/createMessage", b'{"action":"mutate","result":{}}', "withheld"),
        ("tools/list", b'{"action":"mutate","result":{}}', "whole"),
    ],
)
async def test_what_logs_get_of_the_clients_words(method: str, said: bytes, fate: str) -> None:
    service = Service(http=lambda _: Response(200, body=FixedBody(said)))
    webhook = {"kind": "webhook", "host": "localhost:1", "methods": {"*": "full"}}
    world = Services(HeldClock(), Engine(), callouts=service)
    guard = McpGuardrails(parse(Config, {"processors": [webhook]}), world)
    asked = ask_for("/mcp", "POST", body=b"words")
    bodies = asked.state[STATE] = Bodies()
    assert isinstance(bodies, Bodies)
    recorder = Recorder(99, Room(), wants_request=True, wants_response=False)
    _, bodies.request = recorder.recorded(asked.body)
    ask = guard.request(method, ("t",), {}, asked.headers, asked)
    if b"result" in said:
        ask.close()
        await guard.response(method, ("t",), {}, asked)
    else:
        with suppress(JsonRpcError):
            await ask
    assert bodies.request.fate == fate
