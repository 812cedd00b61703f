"""What an authorization service is asked, and what its answers do.

Source: spec/config.md sections 3.8 and 11; envoy.service.auth.v3; hardening cases 34 to 39.
"""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import PrefixedBody, TlsInfo
from tests.support.authority import Authority
from tests.support.authorizers import DOWN, GRPC, Grpc, Plain, ask, by_http, cached, policy, refusal
from tests.support.ext_authz import Answer, acting
from tests.support.messages import request, text_of


class Endless:
    """A body that never ends."""

    length = None
    trailers = None

    def __init__(self) -> None:
        self.taken = 0

    def read_nowait(self) -> bytes:
        self.taken += 1
        return b"x" * 100

    async def read(self) -> bytes:
        return self.read_nowait()

    def close(self) -> None:
        return


# --- the question by gRPC -----------------------------------------------------------------------


async def test_all_of_a_request_is_told():
    made = request("POST", "/a?b=1", {"x-one": "1", "cookie": "a=1"}, body=b"abc")
    made.headers += [(b"x-one", b"2"), (b"cookie", b"b=2")]
    service = Grpc()
    payload = {**GRPC, "protocol": {"grpc": {"context": {"tier": "gold"}}}}
    assert await ask(payload, made, service) is None
    (asked,) = service.asked
    http = asked.request.http
    assert (http.method, http.path, http.host) == ("POST", "/a?b=1", "shop.example")
    assert (http.scheme, http.protocol, http.size) == ("http", "HTTP/1.1", 3)
    assert dict(http.headers) == {
        ":method": "POST",
        ":path": "/a?b=1",
        ":authority": "shop.example",
        ":scheme": "http",
        "x-one": "1,2",
        "cookie": "a=1; b=2",
    }
    assert (http.body, http.raw_body) == ("", b"")
    assert not http.HasField("header_map")
    source = asked.source.address.socket_address
    assert (source.address, source.port_value) == ("10.0.0.9", 4711)
    assert asked.destination.address.socket_address.port_value == 8080
    assert dict(asked.context_extensions) == {"tier": "gold"}
    assert asked.request.time.seconds > 0
    assert not asked.HasField("tls_session")
    assert not asked.HasField("metadata_context")
    assert service.references[0] == ({"host": "a:1"}, {}, "ExtAuthz")


async def test_a_query_is_told_octet_by_octet():
    service = Grpc()
    await ask(GRPC, request("GET", "/a?q=\xc3\xa9"), service)
    http = service.asked[-1].request.http
    assert http.path == http.headers[":path"] == "/a?q=\xe9"
    await ask(GRPC, request("GET", "/a?q=\xff"), service)
    raw = {one.key: one.raw_value for one in service.asked[-1].request.http.header_map.headers}
    assert raw[":path"] == b"/a?q=\xff"


async def test_a_path_is_judged_as_the_router_reads_it():
    for ask_of, told in (
        (GRPC, lambda service: service.asked[-1].request.http.path),
        (by_http(), lambda service: service.requests[-1][0].target),
    ):
        service = Grpc() if ask_of is GRPC else Plain()
        for target in ("/public/../admin?a=..", "/public/%2e%2e/admin?a=.."):
            await ask(ask_of, request("GET", target), service)
            assert told(service) == "/admin?a=.."
        with pytest.raises(RequestError) as caught:
            await ask({**ask_of, "failureMode": "allow"}, request("GET", "/a/..%2fadmin"), service)
        assert caught.value.status == 400


async def test_only_the_named_headers_are_told():
    made = request("GET", "/a", {"x-one": "1", "x_one": "evil", "x-two": "2"})
    service = Grpc()
    await ask({**GRPC, "includeRequestHeaders": ["X-One", ":path", "Host"]}, made, service)
    headers = dict(service.asked[0].request.http.headers)
    assert headers == {"x-one": "1", ":path": "/a", ":authority": "shop.example"}


async def test_octets_that_are_no_text_are_told_raw():
    made = request(headers={"x-name": "caf\xe9"})
    service = Grpc()
    await ask(GRPC, made, service)
    http = service.asked[0].request.http
    assert http.headers["x-name"] == "caf\ufffd"
    raw = {one.key: one.raw_value for one in http.header_map.headers}
    assert raw["x-name"] == b"caf\xe9"
    assert raw[":path"] == b"/"


async def test_who_connected_is_told():
    authority = Authority()
    pair = authority.issue(["a.example", "spiffe://t/ns/n/sa/s"])
    made = request()
    made.connection.tls = TlsInfo(
        sni="shop.example", peer_certificate=ssl.PEM_cert_to_DER_cert(pair.cert)
    )
    service = Grpc()
    await ask(GRPC, made, service)
    (asked,) = service.asked
    assert asked.source.principal == "spiffe://t/ns/n/sa/s"
    assert asked.source.certificate.startswith("-----BEGIN%20CERTIFICATE-----%0A")
    assert asked.tls_session.sni == "shop.example"


async def test_claims_are_the_metadata_where_nothing_else_is():
    made = request()
    made.state["jwt"] = {"sub": "ann", "groups": ["a"], "big": 1 << 80}
    service = Grpc()
    await ask(GRPC, made, service)
    told = service.asked[0].metadata_context.filter_metadata["envoy.filters.http.jwt_authn"]
    assert told["jwt_payload"]["sub"] == "ann"
    metadata = {"own": "{'path': request.path, 'n': 2}", "none": "request.nothing", "no": "'map'"}
    await ask({**GRPC, "protocol": {"grpc": {"metadata": metadata}}}, made, service)
    told = service.asked[1].metadata_context.filter_metadata
    assert set(told) == {"own"}
    assert dict(told["own"]) == {"path": "/", "n": 2}


# --- the body -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "options", "text", "raw"),
    [
        (b"abc", {}, "abc", b""),
        (b"abc", {"packAsBytes": True}, "", b"abc"),
        (b"abcdef", {"allowPartialMessage": True}, "abcd", b""),
        (b"a\xff", {}, "a\ufffd", b""),
        (b"a\xff", {"packAsBytes": True}, "", b"a\xff"),
    ],
)
async def test_a_body_is_told(body, options, text, raw):
    made = request("POST", body=body)
    service = Grpc()
    include = {"maxRequestBytes": 4, **options}
    assert await ask({**GRPC, "includeRequestBody": include}, made, service) is None
    http = service.asked[0].request.http
    assert (http.body, http.raw_body) == (text, raw)
    assert await made.body.read() == body


async def test_a_body_that_is_too_long_is_refused():
    for include in ({"maxRequestBytes": 4}, {}):
        service = Grpc()
        made = request("POST", body=b"abcde")
        error = await refusal({**GRPC, "includeRequestBody": include}, made, service)
        assert (error.status, error.message, service.messages) == (413, "", [])
    made = request("POST")
    made.body = Endless()
    error = await refusal({**GRPC, "includeRequestBody": {"maxRequestBytes": 250}}, made, Grpc())
    assert error.status == 413


async def test_what_is_read_of_a_long_body_is_bounded_and_goes_on():
    made = request("POST")
    made.body = body = Endless()
    service = Grpc()
    include = {"maxRequestBytes": 4_000_000, "allowPartialMessage": True}
    payload = {**GRPC, "includeRequestBody": include}
    assert await ask(payload, made, service, max_buffer_bytes=250) is None
    assert len(service.asked[0].request.http.body) == 250
    assert body.taken == 3
    assert isinstance(made.body, PrefixedBody)
    assert await made.body.read() == b"x" * 300


# --- the answer by gRPC -------------------------------------------------------------------------


async def test_ok_changes_the_request():
    made = request(
        "GET",
        "/a?keep=1&gone=1&set=old&s%65t=older",
        {"x-user": "evil", "x_user": "evil", "x-gone": "1", "x-more": "1", "x-if": "1"},
    )
    answer = Answer(
        set=[
            ("X-User", "ann"),
            acting("x-more", "2", append=True),
            acting("x-if", "new", 1),
            acting("x-absent", "new", 1),
            acting("x-if-not", "no", 3),
            ("x-raw", b"caf\xe9"),
            ("x-empty", ""),
        ],
        remove=["x-gone", "Host", ":path", "content-length"],
        told=[("x-told", "1"), ("set-cookie", "a=1"), ("set-cookie", "b=2")],
        query_set=[("set", "a b&c"), ("new", "\u00e9")],
        query_remove=["gone"],
        metadata={"user": {"name": "ann", "n": 1.5, "l": [True, None]}},
    )
    made.response_headers.append((b"x-told", b"0"))
    assert await ask(GRPC, made, Grpc(answer)) is None
    assert text_of(made.headers) == [
        "x-more: 1",
        "x-if: 1",
        "x-user: ann",
        "x-more: 2",
        "x-absent: new",
        "x-raw: caf\xe9",
    ]
    assert made.target == "/a?keep=1&set=a%20b%26c&new=%C3%A9"
    assert made.response_headers == [
        (b"x-told", b"1"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]
    assert made.state["extauthz"] == {"user": {"name": "ann", "n": 1.5, "l": [True, None]}}


async def test_an_empty_value_leaves_nothing_of_the_clients():
    made = request(headers={"x-user": "evil"})
    await ask(GRPC, made, Grpc(Answer(set=[("x-user", "")])))
    assert text_of(made.headers) == []


async def test_denied_answers_in_the_services_words():
    answer = Answer(
        allow=False,
        denied_status=302,
        told=[("location", "https://idp.example/"), ("set-cookie", "a=1"), ("set-cookie", "b=2")],
        body="go away",
        metadata={"why": "no"},
    )
    made = request()
    got = await ask(GRPC, made, Grpc(answer))
    assert got is not None
    assert (got.status, got.reason) == (302, "ExtAuth")
    assert text_of(got.headers) == [
        "location: https://idp.example/",
        "set-cookie: a=1",
        "set-cookie: b=2",
        "content-type: text/plain",
    ]
    assert await got.body.read() == b"go away"
    assert made.state["extauthz"] == {"why": "no"}


async def test_denied_without_words_is_403():
    error = await refusal(GRPC, request(), Grpc(Answer(allow=False)))
    assert (error.status, error.message) == (403, "external authorization failed")


async def test_a_grpc_client_gets_an_error_it_can_read():
    made = request("POST", headers={"content-type": "application/grpc"})
    told: list[Any] = [("content-type", "text/html"), ("grpc-status", "0"), ("x-why", "plan")]
    answer = Answer(allow=False, denied_status=401, told=told, body="x")
    error = await refusal(GRPC, made, Grpc(answer))
    assert (error.status, error.headers) == (401, ((b"x-why", b"plan"),))


@pytest.mark.parametrize("status", [0, 100, 199, 600, -1, 2_000_000])
async def test_a_status_that_is_none_is_403(status):
    got = await ask(GRPC, request(), Grpc(Answer(allow=False, denied_status=status)))
    assert got is not None
    assert got.status == 403


async def test_a_denial_frames_nothing():
    told: list[Any] = [("content-length", "99"), ("Connection", "close"), ("location", "/x")]
    answer = Answer(allow=False, denied_status=302, told=told)
    got = await ask(GRPC, request(), Grpc(answer))
    assert got is not None
    assert text_of(got.headers) == ["location: /x"]


async def test_a_denial_stands_even_if_its_headers_cannot():
    answer = Answer(allow=False, denied_status=401, told=[("x", "a\r\nset-cookie: b=1")], body="no")
    got = await ask(GRPC, request(), Grpc(answer))
    assert got is not None
    assert (got.status, text_of(got.headers)) == (401, ["content-type: text/plain"])


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [DOWN, Answer(raw=b"\xff\xff"), Answer(allow=None, raw=b"")], ids=str
)
@pytest.mark.parametrize(
    ("mode", "status"), [("deny", 403), ({"denyWithStatus": 503}, 503), ("allow", None)]
)
async def test_a_service_that_fails(answer, mode, status):
    made = request(headers={"x-envoy-auth-failure-mode-allowed": "no"})
    payload = {**GRPC, "failureMode": mode}
    if status is None:
        assert await ask(payload, made, Grpc(answer)) is None
        assert text_of(made.headers) == ["x-envoy-auth-failure-mode-allowed: true"]
    else:
        error = await refusal(payload, made, Grpc(answer))
        assert (error.status, error.message) == (status, "external authorization failed")


async def test_nobody_pretends_that_the_service_failed():
    made = request(headers={"x-envoy-auth-failure-mode-allowed": "true"})
    await ask(GRPC, made, Grpc())
    assert text_of(made.headers) == []


async def test_two_credentials_are_refused_before_anyone_is_asked():
    made = request()
    made.headers += [(b"authorization", b"a"), (b"authorization", b"b")]
    service = Grpc()
    assert (await refusal({**GRPC, "failureMode": "allow"}, made, service)).status == 400
    assert service.messages == []


# --- alternatives and configuration -------------------------------------------------------------


async def test_the_first_alternative_that_applies_is_asked():
    service = Grpc()
    entries = [
        {**GRPC, "condition": "request.path == '/a'"},
        {**by_http(), "condition": "request.nonsense"},
    ]
    made = policy({"conditional": entries}, service)
    assert await made.on_request(request("GET", "/b")) is None
    assert service.messages == []
    assert await made.on_request(request("GET", "/a")) is None
    assert len(service.messages) == 1


async def test_a_body_is_held_where_an_expression_reads_it():
    assert policy(by_http(body="request.body"), Plain()).needs_request_body
    assert policy(cached(GRPC, key=["request.body"]), Plain()).needs_request_body
    assert not policy(GRPC, Plain()).needs_request_body


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, "extAuthz"),
        ({**GRPC, "protocol": {}}, "extAuthz.protocol"),
        ({**GRPC, "protocol": {"grpc": {}, "http": {}}}, "extAuthz.protocol"),
        ({**GRPC, "failureMode": "open"}, "extAuthz.failureMode"),
        ({**GRPC, "failureMode": {"denyWithStatus": 200}}, "extAuthz.failureMode.denyWithStatus"),
        ({**GRPC, "includeRequestHeaders": ["a b"]}, "extAuthz.includeRequestHeaders[0]"),
        ({**GRPC, "includeRequestHeaders": [":status"]}, "extAuthz.includeRequestHeaders[0]"),
        ({**GRPC, "includeRequestHeaders": ["connection"]}, "extAuthz.includeRequestHeaders[0]"),
        ({**by_http(), "includeRequestHeaders": ["te"]}, "extAuthz.includeRequestHeaders[0]"),
        (by_http(path="1 +"), "extAuthz.protocol.http.path"),
        (by_http(path="response.code"), "extAuthz.protocol.http.path"),
        (
            by_http(addRequestHeaders={":scheme": "'https'"}),
            "extAuthz.protocol.http.addRequestHeaders.:scheme",
        ),
        (
            by_http(addRequestHeaders={"content-length": "'1'"}),
            "extAuthz.protocol.http.addRequestHeaders.content-length",
        ),
        (
            by_http(includeResponseHeaders=["Host"]),
            "extAuthz.protocol.http.includeResponseHeaders[0]",
        ),
        (
            by_http(includeResponseHeaders=["a", "X-Forwarded-For"]),
            "extAuthz.protocol.http.includeResponseHeaders[1]",
        ),
        (cached(GRPC, "1 +"), "extAuthz.cache.ttl"),
        (cached(GRPC, "response.code"), "extAuthz.cache.ttl"),
        (cached(GRPC, key=[]), "extAuthz.cache.key"),
        (cached(GRPC, key=["1", "1 +"]), "extAuthz.cache.key[1]"),
        ({"conditional": [{**GRPC, "nonsense": 1}]}, "extAuthz.conditional[0].nonsense"),
    ],
    ids=str,
)
def test_what_is_refused(payload, path):
    with pytest.raises(ConfigError) as caught:
        policy(payload, Plain())
    assert caught.value.path == path
