"""What of a request and a response an expression sees."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.cel.context import Context
from sidecar.cel.engine import CelError, Engine
from sidecar.cel.headers_view import redact_headers
from sidecar.cel.variables import Plan, activation
from sidecar.errors import RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import (
    Connection,
    FixedBody,
    PrefixedBody,
    Request,
    Response,
    TlsInfo,
)

STARTED = datetime(2024, 2, 1, 12, tzinfo=UTC)
CONTEXT = Context(
    env={"podName": "pod-1", "namespace": "ns-1"},
    wall_minus_monotonic_ns=int(STARTED.timestamp()) * 10**9 - 1_000,
)
ENGINE = Engine(sensitive_headers={"X-Secret"}, context=CONTEXT)


def make_request() -> Request:
    headers = Headers(
        [
            (b"x-team", b"red"),
            (b"multi", b"a, b"),
            (b"authorization", b"Bearer hidden"),
            (b"x-secret", b"hidden"),
            (b"x-inserted", b"hidden"),
            (b"cookie", b'a=1; session="s 1"'),
            (b"cookie", b"b=2"),
            (b"multi", b"c"),
        ]
    )
    connection = Connection(
        "10.0.0.9", 4711, "10.0.0.1", 8080, "192.0.2.1", 99, TlsInfo(sni="shop.example")
    )
    connection.extra["connectHeaders"] = Headers([(b"x-outer", b"1")])
    connection.extra["workload"] = {"name": "pod-9", "namespace": "n", "serviceAccount": "s"}
    request = Request(
        "POST",
        "https",
        "shop.example:8443",
        "/api/test?foo=bar&foo=baz&zap=zip",
        "HTTP/1.1",
        headers,
        FixedBody(b'{"key": "value"}'),
        connection,
        started_ns=1_000,
    )
    request.state.update(
        {
            "jwt": {"sub": "alice", "rawToken": "forged", "groups": ["a", "b"]},
            "jwt.rawToken": "e.y.J",
            "apiKey": {"team": "red"},
            "apiKey.key": "sk-1",
            "basicAuth": {"username": "bob"},
            "backend": {"name": "b", "type": "service", "protocol": "http"},
            "proxy": {"bind": "8080", "route": {"name": "r"}},
            "metadata": {"team": "blue"},
            "sensitive_headers": frozenset((b"x-inserted",)),
        }
    )
    return request


def make_response() -> Response:
    headers = Headers([(b"grpc-status", b"7"), (b"x-b", b"1")])
    return Response(404, headers, FixedBody(b"gone"))


def value_of(source: str) -> object:
    program = ENGINE.compile(source)
    return program.eval(Plan(program).activation(make_request(), make_response()))


URI = "https://shop.example:8443/api/test"
CASES = [
    ("request.method", "POST"),
    ("request.uri", f"{URI}?foo=bar&foo=baz&zap=zip"),
    ("request.host", "shop.example"),
    ("request.scheme", "https"),
    ("request.path", "/api/test"),
    ("request.pathAndQuery", "/api/test?foo=bar&foo=baz&zap=zip"),
    ("request.version", "HTTP/1.1"),
    ("request.startTime", STARTED),
    ("request.startTime.getHours()", 12),
    ("string(request.body)", '{"key": "value"}'),
    ("json(request.body).key", "value"),
    ("request.bodyPrefix.size()", 16),
    # queries
    ("request.pathAndQuery.query('foo')", ["bar", "baz"]),
    ("request.uri.query('zap')", ["zip"]),
    ("default(request.uri.query('nope'), 'none')", "none"),
    (
        "request.pathAndQuery.addQuery('foo', 'q x')",
        "/api/test?foo=bar&foo=baz&zap=zip&foo=q+x",
    ),
    ("request.uri.setQuery('foo', 'qux')", f"{URI}?zap=zip&foo=qux"),
    ("request.uri.setQuery('foo', 'x').setQuery('zap', '&').query('zap')", ["&"]),
    ("request.uri.startsWith('https://') && request.uri + '' == request.uri", True),
    ("request.uri.contains('zip') && request.pathAndQuery.matches('^/api')", True),
    # headers
    ("request.headers['x-team'] + request.headers['X-Team'] + request.headers.x_team", None),
    ("request.headers['X-TEAM']", "red"),
    ("request.headers.multi", ["a, b", "c"]),
    ("request.headers.join().multi", "a, b,c"),
    ("request.headers.raw()['x-team']", ["red"]),
    ("request.headers.split()['multi']", ["a", "b", "c"]),
    ("request.headers.raw().join().multi", "a, b,c"),
    ("['X-Team'].map(k, request.headers[k])", ["red"]),
    ("request.with(r, r.headers.with(h, h['X-Team']))", "red"),
    ("'X-Team' in request.headers && !('nope' in request.headers)", True),
    ("'x-' + 'team' in request.headers", True),
    ("has(request.headers.multi) && !has(request.headers.nope)", True),
    ("request.headers.nope", None),
    ("default(request.headers['nope'], 'fallback')", "fallback"),
    ("request.headers.authorization", "Bearer hidden"),
    ("request.headers.redacted().authorization", "<redacted>"),
    ("request.headers.redacted()['X-Secret']", "<redacted>"),
    ("request.headers.redacted()['x-inserted']", "<redacted>"),
    ("request.headers.redacted().raw()['authorization']", ["<redacted>"]),
    ("request.headers.raw().redacted()['authorization']", ["<redacted>"]),
    ("request.headers.redacted().cookie", ['a=1; session="s 1"', "b=2"]),
    ("request.headers.cookie('session')", "s 1"),
    ("request.headers.cookie('b')", "2"),
    ("default(request.headers.cookie('zip'), 0)", 0),
    ("request.headers.filterKeys(k, k.startsWith('x-t'))", {"x-team": "red"}),
    ("request.headers.exists(k, k == 'cookie')", True),
    ("response.headers['x-b']", "1"),
    ("source.connectHeaders['X-Outer']", "1"),
    # response
    ("response.code", 404),
    ("response.grpcStatus", 7),
    ("response.body", b"gone"),
    # connection
    ("[source.address, source.rawAddress]", ["10.0.0.9", "192.0.2.1"]),
    ("source.port + source.rawPort", 4810),
    ("source.unverifiedWorkload.name", "pod-9"),
    ("destination", {"address": "10.0.0.1", "port": 8080, "hostname": "shop.example"}),
    ("has(source.spiffeId)", False),
    # what policies learnt
    ("jwt.sub", "alice"),
    ("jwt.groups.exists(g, g == 'b')", True),
    ("jwt.rawToken", "<redacted>"),
    ("'Bearer ' + jwt.rawToken", "Bearer <redacted>"),
    ("jwt.rawToken.unredacted()", "e.y.J"),
    ("jwt.with(j, j.rawToken.unredacted())", "e.y.J"),
    ("toJson(jwt)", '{"sub":"alice","groups":["a","b"],"rawToken":"<redacted>"}'),
    ("apiKey.key", "<redacted>"),
    ("apiKey.key.unredacted() + apiKey.team", "sk-1red"),
    ("jwt.sub.unredacted()", None),
    ("basicAuth.username", "bob"),
    ("backend.type + proxy.route.name + metadata.team", "servicerblue"),
    ("env.podName + default(env.gateway, '-')", "pod-1-"),
    ("llm.model", None),
    ("default(llmRequest.metadata.tier, 'none')", "none"),
    ("variables().jwt.rawToken", "<redacted>"),
]


@pytest.mark.parametrize(("source", "expected"), CASES)
def test_value(source: str, expected: object) -> None:
    if expected is None:
        with pytest.raises(CelError):
            value_of(source)
    else:
        assert value_of(source) == expected


def test_only_what_is_named_is_built() -> None:
    plan = Plan([ENGINE.compile("request.path == '/'"), ENGINE.compile("jwt.sub == source.port")])
    built = activation(make_request(), needs=plan)
    assert {root: set(built[root]) for root in ("request", "source")} == {  # type: ignore[call-overload]
        "request": {"path"},
        "source": {"port"},
    }
    assert set(built) == {"request", "source", "jwt"}


def test_the_routers_path_is_the_path() -> None:
    program = ENGINE.compile("request.path")
    request = make_request()
    request.target = "/a/%2e%2e/b"
    with pytest.raises(RequestError):
        Plan(program).activation(request)
    request.state["path"] = "/b"
    assert program.eval(Plan(program).activation(request)) == "/b"


@pytest.mark.parametrize(
    ("target", "is_plain"),
    [("/", True), ("/a/b.c/", True), ("/a/../b", False), ("/a/.", False), ("//a", False),
     ("/a%2fb", False), ("/a;x=1/b", False), ("/..a/...", True), ("/a\\b", False), ("*", False)],
)  # fmt: skip
def test_plain_path(target: str, is_plain: bool) -> None:
    request = make_request()
    request.target = target
    plan = Plan(ENGINE.compile("request.path"))
    if is_plain:
        assert plan.activation(request)["request"] == {"path": target}
    else:
        with pytest.raises(RequestError):
            plan.activation(request)


def test_reading_a_body_leaves_it_in_place() -> None:
    request = make_request()
    program = ENGINE.compile("request.body.size() + request.bodyPrefix.size()")
    plan = Plan(program)
    assert plan.needs_request_body
    for _ in range(2):
        assert program.eval(plan.activation(request)) == 32
    assert request.body.read_nowait() == b'{"key": "value"}'


@pytest.mark.parametrize(
    "source",
    ["request.body", "default(request.body, 'x')", "has(request.body)", "request.with(r, r.body)",
     "default(request.with(r, r['body']), 'x')", "variables().request.body == null",
     "default(json(request.body).x, 'x')"],
)  # fmt: skip
def test_hardening_47_a_body_too_large_is_never_absent(source: str) -> None:
    request = make_request()
    request.body = PrefixedBody(b"part", FixedBody(b"rest"))
    program = ENGINE.compile(source)
    with pytest.raises(CelError) as caught:
        program.eval(Plan(program).activation(request))
    assert not caught.value.missing
    assert request.body.read_nowait() == b"part"


def test_an_object_gives_its_fields_on_demand() -> None:
    asked: list[frozenset[str] | None] = []

    class Usage:
        def cel(self, wanted: frozenset[str] | None) -> Mapping[str, object]:
            asked.append(wanted)
            return {"inputTokens": 7, "timeToFirstToken": timedelta(milliseconds=5)}

    request = make_request()
    request.state["llm"] = Usage()
    for source, expected in (
        ("llm.inputTokens == uint(7)", frozenset({"inputTokens"})),
        ("llm.timeToFirstToken == duration('5ms')", frozenset({"timeToFirstToken"})),
        ("size(llm) == 2", None),
    ):
        program = ENGINE.compile(source)
        assert program.truth(Plan(program).activation(request))
        assert asked[-1] == expected


def test_no_response_yet() -> None:
    program = ENGINE.compile("response.code")
    with pytest.raises(CelError) as caught:
        program.eval(Plan(program).activation(make_request()))
    assert caught.value.missing


def make_certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "client"),
        ]
    )
    uri = x509.UniformResourceIdentifier("spiffe://cluster.local/ns/default/sa/web")
    names = x509.SubjectAlternativeName([uri, x509.DNSName("web.example")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(7)
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=36500))
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


def test_client_certificate() -> None:
    request = make_request()
    request.connection.tls = TlsInfo(peer_certificate=make_certificate())
    program = ENGINE.compile(
        "[source.identity.trustDomain, source.identity.namespace, source.identity.serviceAccount,"
        " source.spiffeId, source.subjectCn, source.issuer, source.subjectAltNames[1],"
        " source.certificate.substring(0, 27)]"
    )
    for _ in range(2):
        assert program.eval(Plan(program).activation(request)) == [
            "cluster.local",
            "default",
            "web",
            "spiffe://cluster.local/ns/default/sa/web",
            "client",
            "O=Example, CN=client",
            "web.example",
            "-----BEGIN CERTIFICATE-----",
        ]


def test_an_unreadable_certificate_has_no_fields() -> None:
    request = make_request()
    request.connection.tls = TlsInfo(peer_certificate=b"junk")
    program = ENGINE.compile("has(source.spiffeId)")
    assert program.eval(Plan(program).activation(request)) is False


def test_hardening_40_redact_headers() -> None:
    fields = [(b"authorization", b"a"), (b"cookie", b"b"), (b"x-secret", b"c"), (b"x", b"d")]
    assert redact_headers(fields, frozenset((b"x-secret",))) == [
        (b"authorization", b"<redacted>"),
        (b"cookie", b"b"),
        (b"x-secret", b"<redacted>"),
        (b"x", b"d"),
    ]
