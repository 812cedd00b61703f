from __future__ import annotations

import datetime
import threading

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from sidecar.errors import ConfigError
from sidecar.telemetry.export import (
    CLIENT,
    SERVER,
    SpanExport,
    SpanRecord,
    resource_attributes,
)
from sidecar.telemetry.otlp_target import OtlpTarget
from tests.sidecar.telemetry.collectors import GrpcCollector, HttpCollector


def record(name: str = "GET /x", **facts) -> SpanRecord:
    defaults = {
        "kind": SERVER,
        "trace_id": 0xA,
        "span_id": 0xB,
        "parent_id": 0,
        "start_ns": 1_000,
        "end_ns": 2_000,
        "attributes": {"http.status": 200, "x": "y", "b": True, "f": 0.5},
    }
    return SpanRecord(name, **(defaults | facts))


@pytest.fixture
def collector(request):
    made = {"grpc": GrpcCollector, "http": HttpCollector}[request.param]()
    yield made
    made.close()


@pytest.mark.parametrize("collector", ["grpc", "http"], indirect=True)
def test_spans_arrive(collector, request):
    protocol = request.node.callspec.params["collector"]
    policy = {
        "host": collector.address,
        "protocol": protocol,
        "path": "/custom/traces",
        "policies": {"requestHeaderModifier": {"set": {"X-Tenant": "t1"}}},
    }
    target = OtlpTarget.of_policy(policy, "frontendPolicies.tracing")
    assert "t1" not in repr(target)
    export = SpanExport(target, {"service.name": "svc"}, "1.2", interval_seconds=0.01)
    export.submit([record(error="boom"), record("call", kind=CLIENT, span_id=0xC, parent_id=0xB)])
    received, headers = collector.received.get(timeout=20)
    export.close()
    assert (export.exported, export.failed, export.dropped) == (2, 0, 0)
    assert headers["x-tenant"] == "t1"
    if protocol == "http":
        assert headers[":path"] == "/custom/traces"
    (resource,) = received.resource_spans
    assert {a.key: a.value.string_value for a in resource.resource.attributes} == {
        "service.name": "svc"
    }
    (scope,) = resource.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("agentgateway", "1.2")
    root, call = scope.spans
    assert (root.name, root.kind) == ("GET /x", root.SPAN_KIND_SERVER)
    assert root.trace_id == (0xA).to_bytes(16, "big")
    assert root.span_id == (0xB).to_bytes(8, "big")
    assert root.parent_span_id == b""
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (1_000, 2_000)
    assert (root.status.code, root.status.message) == (root.status.STATUS_CODE_ERROR, "boom")
    values = {a.key: a.value for a in root.attributes}
    assert values["http.status"].int_value == 200
    assert values["x"].string_value == "y"
    assert values["b"].bool_value is True
    assert values["f"].double_value == 0.5
    assert (call.kind, call.parent_span_id) == (call.SPAN_KIND_CLIENT, root.span_id)
    assert call.status.code == call.status.STATUS_CODE_UNSET


def certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made.public_bytes(serialization.Encoding.PEM), private


def test_tls_with_own_roots():
    root, key = certificate()
    collector = GrpcCollector(grpc.ssl_server_credentials([(key, root)]))
    try:
        policy = {
            "host": collector.address.replace("127.0.0.1", "localhost"),
            "policies": {"backendTLS": {"root": root.decode()}},
        }
        export = SpanExport(OtlpTarget.of_policy(policy, "t"), {}, "1", interval_seconds=0.01)
        export.submit([record()])
        collector.received.get(timeout=20)
        export.close()
        assert export.exported == 1
    finally:
        collector.close()


def test_the_http_exporter_is_given_the_roots():
    root, _ = certificate()
    policy = {
        "host": "localhost:4318",
        "protocol": "http",
        "policies": {"backendTLS": {"root": root.decode()}},
    }
    exporter, files = OtlpTarget.of_policy(policy, "t").open()
    with files[0] as file, open(file.name, "rb") as again:
        assert again.read() == root
    exporter.shutdown()


class Gate(SpanExporter):
    """A collector's exporter that answers when told."""

    def __init__(self, result: SpanExportResult | Exception = SpanExportResult.SUCCESS) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.result = result
        self.batches: list[int] = []

    @property
    def spans(self) -> int:
        return sum(self.batches)

    def export(self, spans):
        self.entered.set()
        self.open.wait(10)
        self.batches.append(len(spans))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def shutdown(self) -> None:
        self.open.set()


def gated(gate: Gate, **options) -> SpanExport:
    return SpanExport(
        OtlpTarget("x:1"),
        {},
        "1",
        interval_seconds=0.005,
        open_exporter=lambda: (gate, []),
        **options,
    )


def test_a_stalled_collector_costs_spans_which_are_counted():
    gate = Gate()
    export = gated(gate, capacity=10, batch=5)
    export.submit([record()])
    assert gate.entered.wait(10)
    for _ in range(15):
        export.submit([record()])
    assert export.dropped == 5
    gate.open.set()
    export.close()
    assert export.exported == 11
    export.submit([record()])
    assert export.dropped == 6


def large(text: str) -> SpanRecord:
    return record(attributes={"request.body": text})


def test_a_batch_is_bounded_by_octets_too():
    gate = Gate()
    export = gated(gate, batch_bytes=10_000)
    export.submit([record()])
    assert gate.entered.wait(10)
    export.submit([large("x" * 4_000)] * 5)
    export.submit([large("é" * 20_000), record()])
    gate.open.set()
    export.close()
    assert gate.batches == [1, 2, 2, 1, 1, 1]
    assert (export.exported, export.lost) == (8, 0)


def test_what_waits_is_bounded_by_octets_too():
    gate = Gate()
    export = gated(gate, capacity_bytes=10_000)
    export.submit([record()])
    assert gate.entered.wait(10)
    for _ in range(5):
        export.submit([large("x" * 4_000)])
    assert export.dropped == 3
    gate.open.set()
    export.close()
    assert (export.exported, export.lost) == (3, 3)


@pytest.mark.parametrize("attributes", [{}, {"a": 1, "b": 2.5, "c": True, "ключ": "значение" * 99}])
def test_no_span_takes_more_than_it_was_counted_for(attributes):
    one = record("n" * 300, error="e" * 300, attributes=attributes, parent_id=7, remote_parent=True)
    made = encode_spans([gated(Gate())._item(one)]).resource_spans[0].scope_spans[0].spans[0]
    assert made.ByteSize() <= gated(Gate())._bytes_of(one)


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, ValueError("a bug")])
def test_failures_are_counted(result):
    gate = Gate(result)
    gate.open.set()
    export = gated(gate)
    export.submit([record()] * 3)
    export.close()
    assert export.failed == 3


def test_close_gives_up_on_a_collector_that_does_not_answer():
    gate = Gate()
    export = gated(gate)
    export.submit([record()])
    assert gate.entered.wait(10)
    export.close(timeout_seconds=0.01)
    assert gate.open.is_set()


def test_retire_blocks_nobody_and_sends_what_is_queued():
    gate = Gate()
    export = gated(gate, batch=2)
    export.submit([record()])
    assert gate.entered.wait(10)
    export.submit([record()] * 4)
    export.retire()
    assert export.is_alive
    export.submit([record()])
    gate.open.set()
    export.close()
    assert not export.is_alive
    assert (export.exported, export.lost) == (5, 1)


def test_retire_tries_a_collector_that_fails_once():
    gate = Gate(SpanExportResult.FAILURE)
    export = gated(gate, batch=1)
    export.submit([record()] * 5)
    assert gate.entered.wait(10)
    export.retire()
    gate.open.set()
    export.close()
    assert gate.spans == 1
    assert export.lost == 5


def test_close_without_spans():
    gated(Gate()).close()


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ({}, "t.host"),
        ({"service": {"name": "a/b", "port": 1}}, "t.service"),
        ({"backend": "x"}, "t.backend"),
        ({"host": "x:1", "protocol": "udp"}, "t.protocol"),
        ({"host": "x:1", "path": "traces"}, "t.path"),
        ({"host": "x:1", "policies": {"backendAuth": {"key": "s3cret"}}}, "t.policies.backendAuth"),
        (
            {"host": "x:1", "policies": {"backendTLS": {"insecure": True}}},
            "t.policies.backendTLS.insecure",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(policy, path):
    with pytest.raises(ConfigError) as caught:
        OtlpTarget.of_policy(policy, "t")
    assert caught.value.path == path
    assert "s3cret" not in str(caught.value)


def test_a_resolved_address_stands_for_the_reference():
    policy = {"service": {"name": "a/b", "port": 4317}}
    assert OtlpTarget.of_policy(policy, "t", address="10.0.0.1:4317").address == "10.0.0.1:4317"


def test_resource_attributes():
    env = {
        "POD_NAME": "p",
        "OTEL_RESOURCE_ATTRIBUTES": "a=1, service.name=other,broken",
        "OTEL_SERVICE_NAME": "named",
    }
    assert resource_attributes(env, "1.0", [("team", "x"), ("gone", None)]) == {
        "service.name": "named",
        "service.version": "1.0",
        "k8s.pod.name": "p",
        "a": "1",
        "team": "x",
    }
