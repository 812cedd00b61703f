from __future__ import annotations

import dataclasses
import json
import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.telemetry.access import AccessEntry, AccessLog
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.fields import TAIL_FIELDS
from sidecar.telemetry.sink import LogSink
from sidecar.telemetry.w3c import TraceContext
from tests.sidecar.telemetry.entries import ROUTE, TLS, compiler, connection, entry, request


@pytest.fixture(autouse=True)
def info_level():
    logger = logging.getLogger("request")
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(logging.NOTSET)


class Lines:
    """A log over a pipe, and what came out of it."""

    def __init__(self, policy=None, fmt="text") -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.sink = LogSink(writer)
        os.close(writer)
        self.log = AccessLog(policy, fmt, compiler(), sink=self.sink, clock=SystemClock())

    def of(self, made: AccessEntry) -> str:
        self.log.emit(made)
        try:
            return os.read(self.reader, 1 << 16).decode()
        except BlockingIOError:
            return ""

    def close(self) -> None:
        self.sink.close()
        os.close(self.reader)


@pytest.fixture
def lines():
    made: list[Lines] = []

    def begin(policy=None, fmt="text") -> Lines:
        made.append(Lines(policy, fmt))
        return made[-1]

    yield begin
    for one in made:
        one.close()


def traced(made):
    made.trace = TraceContext(0xABC, 0xDEF, 0, False)
    return made


TEXT = (
    "2023-11-14T22:13:20.000000Z\tinfo\trequest gateway=default/default listener=listener0 "
    "route=default/route0 endpoint=127.0.0.1:9000 src.addr=10.0.0.1:40774 http.method=GET "
    "http.host=example.com http.path=/a/b http.version=HTTP/1.1 http.status=200 "
    "trace.id=00000000000000000000000000000abc span.id=0000000000000def protocol=http "
    "duration=12ms\n"
)


def test_a_text_line(lines):
    assert lines().of(entry(traced(request()))) == TEXT


def test_a_json_line(lines):
    line = lines(fmt="json").of(entry(traced(request())))
    assert line.endswith("}\n")
    assert list(json.loads(line).items()) == [
        ("level", "info"),
        ("time", "2023-11-14T22:13:20.000000Z"),
        ("scope", "request"),
        ("gateway", "default/default"),
        ("listener", "listener0"),
        ("route", "default/route0"),
        ("endpoint", "127.0.0.1:9000"),
        ("src.addr", "10.0.0.1:40774"),
        ("http.method", "GET"),
        ("http.host", "example.com"),
        ("http.path", "/a/b"),
        ("http.version", "HTTP/1.1"),
        ("http.status", 200),
        ("trace.id", "00000000000000000000000000000abc"),
        ("span.id", "0000000000000def"),
        ("protocol", "http"),
        ("duration", "12ms"),
    ]


def test_the_query_is_not_logged(lines):
    assert "secret" not in lines().of(entry())


def test_a_failure_is_explained(lines):
    line = lines().of(
        entry(status=503, error="no route to host", reason="UpstreamFailure", retry_attempt=2)
    )
    tail = 'retry.attempt=2 error="no route to host" reason=UpstreamFailure duration=12ms\n'
    assert line.endswith(tail)


def test_identity_tls_grpc_and_subject(lines):
    made = request(tls=TLS)
    made.connection.extra["identity"] = "spiffe://cluster.local/ns/a/sa/b"
    made.state["jwt"] = {"sub": "alice bob"}
    line = lines().of(entry(made, grpc_status=0))
    assert (
        "src.addr=10.0.0.1:40774 src.identity=spiffe://cluster.local/ns/a/sa/b http.method" in line
    )
    assert 'http.status=200 grpc.status=0 tls.sni=sni.example.com jwt.sub="alice bob" pro' in line


@pytest.mark.parametrize("removed", [None, ["src.addr"]])
def test_host_and_path_are_the_clients(lines, removed):
    made = request(target="/a?x=1")
    made.authority, made.target = "backend.internal:8080", "/b?y=2"
    line = lines({"remove": removed} if removed else {}).of(entry(made))
    assert " http.host=example.com http.path=/a http.version" in line


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_hardening_40_a_line_stays_one_line(lines, fmt):
    made = request(target="/\r\ninfo\trequest \x1b[2J\x9b")
    made.received_authority = 'a" injected="yes'
    line = lines(fmt=fmt).of(entry(made, error="x\ny"))
    assert line.count("\n") == 1
    assert not set("\r\x1b\x9b") & set(line)
    if fmt == "json":
        assert "injected" not in json.loads(line)
    else:
        assert 'http.host="a\\" injected=\\"yes"' in line


def test_agent_fields_come_in_their_place(lines):
    made = request()
    made.state["llm"] = {
        "provider": "openai",
        "requestModel": "m",
        "inputTokens": 5,
        "outputTokens": 0,
        "cost": {"total": 0.5},
        "params": {"temperature": 0.2},
    }
    line = lines().of(entry(made))
    assert (
        "protocol=http gen_ai.operation.name=chat gen_ai.provider.name=openai "
        "gen_ai.request.model=m gen_ai.usage.input_tokens=5 gen_ai.usage.output_tokens=0 "
        "agw.ai.usage.cost.total=0.5 gen_ai.request.temperature=0.2 duration=12ms\n"
    ) in line


def test_mcp_fields(lines):
    made = request()
    made.state["mcp"] = {"methodName": "tools/call", "tool": {"target": "t", "name": "echo"}}
    line = lines().of(entry(made))
    assert (
        "mcp.method.name=tools/call mcp.target=t mcp.resource.type=tool gen_ai.tool.name=echo"
        in line
    )


def test_a_tcp_connection(lines):
    made = AccessEntry(connection(), endpoint="10.1.1.1:5432", duration_ns=5_000_000, ended_ns=1)
    assert (
        lines()
        .of(made)
        .endswith(
            "request endpoint=10.1.1.1:5432 src.addr=10.0.0.1:40774 protocol=tcp duration=5ms\n"
        )
    )


def test_ipv6_caller(lines):
    made = request()
    made.connection.peer_host = "::1"
    assert "src.addr=[::1]:40774" in lines().of(entry(made))


def test_ids_are_logged_at_debug(lines):
    logging.getLogger("request").setLevel(logging.DEBUG)
    line = lines().of(entry(request(connection_id=7), request_id="r1"))
    assert "request connection.id=7 request.id=r1 gateway=" in line


def test_the_level_switches_the_log_off(lines):
    log = lines()
    logging.getLogger("request").setLevel(logging.ERROR)
    assert not log.log.is_wanted(logging.INFO)
    assert log.of(entry()) == ""


@pytest.mark.parametrize(
    ("filter_", "logged"),
    [
        ("response.code == 200", True),
        ("response.code == 404", False),
        ('request.headers["absent"] == "x"', False),
        ("response.code", False),
    ],
    ids=["true", "false", "error", "no-truth"],
)
def test_filter(lines, filter_, logged):
    assert bool(lines({"filter": filter_}).of(entry())) is logged


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_add_and_remove(lines, fmt):
    policy = {
        "remove": ["http.host", "src.addr", "duration"],
        "add": {
            "code": "response.code",
            "agent": 'request.headers["user-agent"]',
            "absent": 'request.headers["absent"]',
            "http.path": '"/hidden"',
        },
    }
    made = request(headers=Headers([(b"user-agent", b"curl 8")]))
    line = lines(policy, fmt).of(entry(made))
    if fmt == "text":
        assert line.endswith('protocol=http code=200 agent="curl 8" http.path=/hidden\n')
        assert "absent" not in line
        return
    fields = json.loads(line)
    assert list(fields)[-3:] == ["code", "agent", "http.path"]
    assert not {"http.host", "src.addr", "duration", "absent"} & fields.keys()


def test_add_alone_keeps_the_order(lines):
    line = lines({"add": {"code": "response.code"}}).of(entry(traced(request())))
    assert line == TEXT[:-1] + " code=200\n"


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ({"filtr": "true"}, "frontendPolicies.accessLog.filtr"),
        ({"filter": "a b"}, "frontendPolicies.accessLog.filter"),
        ({"filter": 1}, "frontendPolicies.accessLog.filter"),
        ({"add": {"x": "1 +"}}, "frontendPolicies.accessLog.add.x"),
        ({"add": ["x"]}, "frontendPolicies.accessLog.add"),
        ({"remove": "x"}, "frontendPolicies.accessLog.remove"),
        ({"add": {"level": "1"}}, "frontendPolicies.accessLog.add.level"),
    ],
)
def test_what_cannot_be_honoured_is_refused(lines, policy, path):
    with pytest.raises(ConfigError) as caught:
        lines(policy, "json")
    assert caught.value.path == path


texts = st.text(alphabet=st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@given(
    fmt=st.sampled_from(["text", "json"]),
    method=texts,
    host=texts,
    target=texts.map(lambda t: "/" + t),
    traced_=st.booleans(),
    tls=st.booleans(),
    subject=st.none() | texts,
    identity=st.none() | texts,
    route=st.none()
    | st.builds(
        lambda r, b: dataclasses.replace(ROUTE, route=r, gateway=b), st.just("") | texts, texts
    ),
    facts=st.fixed_dictionaries(
        {
            "status": st.sampled_from([0, 200, 503]),
            "error": st.just("") | texts,
            "reason": st.sampled_from(["", "Upstream", "Timeout"]),
            "endpoint": st.just("") | texts,
            "retry_attempt": st.integers(0, 2),
            "grpc_status": st.none() | st.integers(0, 16),
        }
    ),
)
def test_the_fast_line_is_the_line_of_the_table(
    fmt, method, host, target, traced_, tls, subject, identity, route, facts
):
    made = request(method, target, **({"tls": TLS} if tls else {}))
    made.received_authority = host
    if traced_:
        traced(made)
    if subject is not None:
        made.state["jwt"] = {"sub": subject}
    if identity is not None:
        made.connection.extra["identity"] = identity
    finished = entry(made, route=route, **facts)
    fast, table = Lines(None, fmt), Lines(None, fmt)
    table.log._is_usual = False
    try:
        assert fast.of(finished) == table.of(finished)
    finally:
        fast.close()
        table.close()


def test_every_reason_but_success_is_shown():
    reason = next(field for field in TAIL_FIELDS if field.name == "reason")
    assert reason.get(entry(reason="Upstream")) is None
    assert reason.get(entry(reason="RateLimit")) == "RateLimit"
