from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.export import SpanExport
from sidecar.telemetry.otlp_target import OtlpTarget
from sidecar.telemetry.trace import Sampler, Tracer, resources_of, span_name
from sidecar.telemetry.w3c import parse_traceparent
from tests.sidecar.telemetry.collectors import GrpcCollector
from tests.sidecar.telemetry.entries import compiler, entry, request

GOOD = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CALLER = Headers([(b"traceparent", GOOD), (b"tracestate", b"a=1")])
HALF = 1 << 63


def sampler(value: object, default: bool = False) -> Sampler:
    return Sampler(value, default, compiler(), "p")


@pytest.mark.parametrize(
    ("value", "trace_id", "sampled"),
    [
        (None, 1, False),
        (True, 2**128 - 1, True),
        (False, 0, False),
        (1, 2**64 - 1, True),
        (0, 0, False),
        (0.5, HALF - 1, True),
        (0.5, HALF, False),
        (0.5, (7 << 64) + HALF - 1, True),
        ("true", 2**64 - 1, True),
        ("0.5", HALF, False),
        ("0.5", HALF - 1, True),
        ('request.path == "/a/b"', 2**64 - 1, True),
        ('request.headers["absent"] == "x"', 0, False),
        ('"text"', 0, False),
    ],
)
def test_sampling(value, trace_id, sampled):
    assert sampler(value).is_sampled(request(), trace_id) is sampled


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), [], "1 +"])
def test_sampling_that_makes_no_sense_is_refused(value):
    with pytest.raises(ConfigError):
        sampler(value)


@pytest.fixture
def collector():
    made = GrpcCollector()
    yield made
    made.close()


@pytest.fixture
def tracer(collector):
    exports: list[SpanExport] = []

    def begin(**policy) -> Tracer:
        policy = {"host": collector.address} | policy
        target = OtlpTarget.of_policy(policy, "t")
        exports.append(SpanExport(target, {}, "1", interval_seconds=0.01))
        begin.export = exports[-1]
        return Tracer(policy, compiler(), exports[-1], SystemClock())

    yield begin
    for export in exports:
        export.close()


def spans(collector) -> list:
    received, _ = collector.received.get(timeout=20)
    return list(received.resource_spans[0].scope_spans[0].spans)


def attributes(span) -> dict[str, object]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_an_unsampled_request_passes_unchanged(tracer):
    made = request(headers=CALLER.copy())
    traces = tracer(clientSampling=False)
    context = traces.start(made)
    assert made.headers == CALLER
    assert (context.sampled, context.trace_id_hex) == (False, "0af7651916cd43dd8448eb211c80319c")
    assert made.trace is context
    assert traces.call(made, "Primary", "Http") is None
    traces.finish(entry(made))


def test_a_new_trace_is_not_sampled_by_default(tracer):
    made = request()
    assert not tracer().start(made).sampled
    assert made.headers == []


def test_a_traced_request(tracer, collector):
    made = request(headers=CALLER.copy())
    made.state["route_match"] = ("prefix", "/a")
    traces = tracer()
    context = traces.start(made)
    assert parse_traceparent(made.headers.get(b"traceparent")) == (
        context.trace_id,
        context.span_id,
        True,
    )
    call = traces.call(made, "Primary", "Http")
    upstream = Headers(made.headers)
    call.inject(upstream)
    call.finish(method="GET", host="10.0.0.9:80", path="/a/b", status=503, error="refused")
    traces.finish(entry(made, status=200, retry_attempt=1))
    root, child = spans(collector)
    assert root.name == "GET /a/*"
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert root.trace_id.hex() == context.trace_id_hex
    assert root.end_time_unix_nano - root.start_time_unix_nano == 12_345_678
    found = attributes(root)
    assert found["http.status"] == 200
    assert found["url.scheme"] == "http"
    assert found["network.protocol.version"] == "1.1"
    assert found["http.path"] == "/a/b"
    assert found["retry.attempt"] == 1
    assert "error" not in found
    assert root.status.code == root.status.STATUS_CODE_UNSET
    assert child.name == "GET 10.0.0.9:80"
    assert child.parent_span_id == root.span_id
    assert parse_traceparent(upstream.get(b"traceparent"))[1] == int(child.span_id.hex(), 16)
    assert upstream.get(b"tracestate") == b"a=1"
    assert attributes(child) == {
        "agentgateway.outbound.kind": "Primary",
        "agentgateway.outbound.subtype": "Http",
        "http.method": "GET",
        "http.host": "10.0.0.9:80",
        "http.path": "/a/b",
        "http.status": 503,
    }
    assert child.status.message == "refused"


def test_attributes_are_added_and_removed(tracer, collector):
    made = request()
    traces = tracer(
        randomSampling=True,
        attributes={"span.name": '"named"', "code": "response.code", "gone": "request.nothing"},
        remove=["http.host"],
    )
    traces.start(made)
    traces.finish(entry(made, status=503, error="no healthy backends"))
    (root,) = spans(collector)
    found = attributes(root)
    assert root.name == "named"
    assert found["code"] == 503
    assert not {"span.name", "gone", "http.host"} & found.keys()
    assert root.status.message == "no healthy backends"


@pytest.mark.parametrize("filter_", ["response.code == 500", "request.nothing"])
def test_the_filter_drops_a_whole_trace(tracer, collector, filter_):
    traces = tracer(randomSampling=True, filter=filter_)
    made = request()
    traces.start(made)
    late = traces.call(made, "Mirror", "Http")
    traces.call(made, "Primary", "Http").finish()
    traces.finish(entry(made))
    late.finish()
    tracer.export.close()
    assert tracer.export.exported == 0
    assert collector.received.empty()


def test_a_call_that_outlives_its_request_is_sent(tracer, collector):
    traces = tracer(randomSampling=True)
    made = request()
    traces.start(made)
    late = traces.call(made, "Mirror", "Http")
    traces.finish(entry(made))
    assert len(spans(collector)) == 1
    late.finish()
    (child,) = spans(collector)
    assert child.name == "Http"


def test_calls_of_one_request_are_bounded(tracer):
    traces = tracer(randomSampling=True)
    made = request()
    traces.start(made)
    for _ in range(130):
        traces.call(made, "Policy", "ExtAuthz").finish()
    assert tracer.export.dropped == 2


@pytest.mark.parametrize(
    ("state", "headers", "name"),
    [
        ({"route_match": ("prefix", "/")}, [], "GET /*"),
        ({"route_match": ("exact", "/x")}, [], "GET /x"),
        ({"route_match": ("regex", "/x.*")}, [], "GET /x.*"),
        ({}, [], "unknown"),
        ({}, [(b"content-type", b"application/grpc+proto")], "/a/b"),
        ({"mcp": {"methodName": "tools/list"}}, [], "tools/list"),
        ({"mcp": {"methodName": "tools/call", "tool": {"name": "echo"}}}, [], "tools/call echo"),
    ],
)
def test_span_names(state, headers, name):
    made = request(headers=Headers(headers))
    made.state.update(state)
    assert span_name(entry(made)) == name


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ({"sampling": 1}, "frontendPolicies.tracing.sampling"),
        ({"clientSampling": 2}, "frontendPolicies.tracing.clientSampling"),
        ({"filter": "("}, "frontendPolicies.tracing.filter"),
        ({"attributes": {"a": "("}}, "frontendPolicies.tracing.attributes.a"),
        ({"remove": "x"}, "frontendPolicies.tracing.remove"),
    ],
)
def test_what_cannot_be_honoured_is_refused(policy, path):
    export = SpanExport(OtlpTarget("x:1"), {}, "1")
    with pytest.raises(ConfigError) as caught:
        Tracer(policy, compiler(), export, SystemClock())
    assert caught.value.path == path


def test_resources_are_evaluated_once():
    assert resources_of({"resources": {"team": '"a" + "b"'}}, compiler()) == [("team", "ab")]
    with pytest.raises(ConfigError) as caught:
        resources_of({"resources": {"x": "request.path"}}, compiler())
    assert caught.value.path == "frontendPolicies.tracing.resources.x"
