"""What an authorization service is asked, and what its answers do.

Source: spec/config.md sections 3.8 and 11; envoy.service.auth.v3; hardening cases 34 to 39.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.http.message import FixedBody, PrefixedBody, Request, Response, TlsInfo
from sidecar.policies._pb import ext_authz_pb2 as pb
from sidecar.policies.order import make
from tests.support.authority import Authority
from tests.support.callouts import Service
from tests.support.clock import HeldClock
from tests.support.ext_authz import Answer, acting
from tests.support.messages import request, response, services, text_of

DOWN = UpstreamError(503, "UpstreamFailure", "connection refused")
GRPC = {"host": "a:1"}
SECOND = 1_000_000_000


def by_http(**http: Any) -> dict[str, Any]:
    return {"host": "a:1", "protocol": {"http": http}}


class Grpc(Service):
    """A service of Envoy's protocol that always gives one answer."""

    def __init__(self, answer: Answer | Exception | None = None) -> None:
        super().__init__(unary=self._answer)
        self.answer = answer or Answer()

    def _answer(self, message: bytes) -> bytes:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer.encoded()

    @property
    def asked(self) -> list[Any]:
        return [pb.CheckRequest.FromString(one).attributes for one in self.messages]


class Plain(Service):
    """A plain service that always gives one answer."""

    def __init__(self, answer: Response | Exception | None = None) -> None:
        super().__init__(http=self._answer)
        self.answer = answer or response(200)

    def _answer(self, asked: Request) -> Response:
        if isinstance(self.answer, Exception):
            raise self.answer
        body = self.answer.body
        assert isinstance(body, FixedBody)
        return Response(self.answer.status, self.answer.headers.copy(), body.copy())


def policy(payload: dict[str, Any], service: Service, **more: Any) -> Any:
    return make("extAuthz", payload, replace(services(**more), callouts=service))


async def ask(
    payload: dict[str, Any], made: Request, service: Service, **more: Any
) -> Response | None:
    answer = await policy(payload, service, **more).on_request(made)
    assert answer is None or isinstance(answer, Response)
    return answer


async def refusal(payload: dict[str, Any], made: Request, service: Service) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await ask(payload, made, service)
    assert caught.value.code == "ExtAuth"
    return caught.value


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


# --- plain HTTP ---------------------------------------------------------------------------------


async def test_by_http_the_request_is_asked_as_it_is():
    made = request("PUT", "/a?b", {"authorization": "Bearer t", "cookie": "c=1"}, body=b"abc")
    service = Plain()
    assert await ask(by_http(), made, service) is None
    ((asked, body, authority),) = service.requests
    assert (asked.method, asked.target, asked.authority) == ("PUT", "/a?b", "shop.example")
    assert text_of(asked.headers) == ["authorization: Bearer t"]
    assert (body, authority) == (b"", "")


async def test_by_http_the_question_can_be_another():
    made = request("PUT", "/a", {"x-in": "1", "x_in": "2", "x-own": "evil"}, body=b"abc")
    payload = {
        **by_http(
            path="'/check?p=' + request.path",
            body="'q=' + request.method",
            addRequestHeaders={
                ":method": "'POST'",
                ":authority": "'Auth.Example'",
                "X-Own": "source.address",
                "x-none": "request.headers['nope']",
                "x-cut": "'a\\nb'",
            },
        ),
        "includeRequestHeaders": ["X-In", "x-own", ":path"],
    }
    service = Plain()
    assert await ask(payload, made, service) is None
    ((asked, body, authority),) = service.requests
    assert (asked.method, asked.target) == ("POST", "/check?p=/a")
    assert text_of(asked.headers) == ["x-in: 1", "x-own: 10.0.0.9"]
    assert (body, authority) == (b"q=PUT", "auth.example")


async def test_by_http_a_body_goes_with_its_kind():
    made = request("POST", "/", {"content-type": "text/x", "x-envoy-auth-partial-body": "?"})
    made.body = FixedBody(b"abcdef")
    payload = {
        **by_http(),
        "includeRequestBody": {"maxRequestBytes": 4, "allowPartialMessage": True},
        "includeRequestHeaders": ["x-envoy-auth-partial-body"],
    }
    service = Plain()
    assert await ask(payload, made, service) is None
    ((asked, body, _),) = service.requests
    assert text_of(asked.headers) == ["content-type: text/x", "x-envoy-auth-partial-body: true"]
    assert body == b"abcd"
    assert await made.body.read() == b"abcdef"


async def test_by_http_2xx_allows_and_tells():
    made = request(headers={"x-user": "evil", "x_user": "evil", "x-level": "9", "cookie": "a=1"})
    answer = response(204, {"x-user": "ann", "x-other": "1", "content-type": "text/x"}, b'{"n":1}')
    payload = by_http(
        includeResponseHeaders=["X-User", "x-level", "cookie"],
        metadata={
            "n": "json(response.body).n",
            "user": "response.headers['x-user'] + request.path",
            "none": "response.headers['nope']",
        },
    )
    assert await ask(payload, made, Plain(answer)) is None
    # The level was the service's to tell, and it told none; a cookie is the client's own.
    assert text_of(made.headers) == ["cookie: a=1", "x-user: ann"]
    assert made.state["extauthz"] == {"n": 1, "user": "ann/"}


@pytest.mark.parametrize("status", [301, 401, 404, 500, 503])
async def test_by_http_anything_else_is_the_answer(status):
    answer = response(
        status, {"x-why": "x", "content-length": "7", "connection": "close"}, b"because"
    )
    got = await ask({**by_http(), "failureMode": "allow"}, request(), Plain(answer))
    assert got is not None
    assert (got.status, got.reason) == (status, "ExtAuth")
    assert text_of(got.headers) == ["x-why: x", "content-type: text/plain"]
    assert await got.body.read() == b"because"


@pytest.mark.parametrize(
    ("status", "redirect", "location"),
    [
        (401, "'/login?rd=' + request.path", "/login?rd=/a"),
        (403, "response.headers['x-where']", "https://idp.example/"),
        (404, "'/login'", None),
        (401, "request.headers['nope']", None),
        (401, "'/a\\r\\nset-cookie: b=1'", None),
    ],
)
async def test_by_http_a_denial_may_send_elsewhere(status, redirect, location):
    answer = response(status, {"x-where": "https://idp.example/"})
    got = await ask(by_http(redirect=redirect), request("GET", "/a"), Plain(answer))
    assert got is not None
    assert (got.status, got.headers.get(b"location")) == (
        (302, location.encode()) if location else (status, None)
    )


@pytest.mark.parametrize(
    "http",
    [
        {"path": "request.headers['nope']"},
        {"path": "'relative'"},
        {"path": "'/a/..%2f..%2fadmin'"},
        {"path": "'/a b'"},
        {"path": "'/a\\r\\nx: y'"},
        {"body": "request.headers['nope']"},
        {"addRequestHeaders": {":method": "'GET /x'"}},
        {"addRequestHeaders": {":method": "'CONNECT'"}},
        {"addRequestHeaders": {":authority": "'a/#@b'"}},
        {"addRequestHeaders": {":path": "request.headers['nope']"}},
    ],
    ids=str,
)
async def test_a_question_that_cannot_be_asked_is_a_denial_in_any_mode(http):
    service = Plain()
    error = await refusal({**by_http(**http), "failureMode": "allow"}, request(), service)
    assert (error.status, service.requests) == (403, [])


async def test_by_http_a_failure_is_one():
    error = await refusal(by_http(), request(), Plain(DOWN))
    assert error.status == 403
    made = request(headers={"x-user": "evil"})
    payload = {**by_http(includeResponseHeaders=["x-user"]), "failureMode": "allow"}
    assert await ask(payload, made, Plain(DOWN)) is None
    assert text_of(made.headers) == ["x-envoy-auth-failure-mode-allowed: true"]


# --- the cache ----------------------------------------------------------------------------------


def cached(payload: dict[str, Any], ttl: str = "duration('10s')", **more: Any) -> dict[str, Any]:
    return {**payload, "cache": {"key": ["request.headers['x-key']"], "ttl": ttl, **more}}


def keyed(key: str | None = "k", target: str = "/") -> Request:
    return request("GET", target, {} if key is None else {"x-key": key})


async def test_a_decision_is_kept_for_its_time():
    clock = HeldClock()
    service = Grpc(Answer(set=[("x-user", "ann")], metadata={"a": 1}))
    made = policy(cached(GRPC), service, clock=clock)
    for _ in range(3):
        one = keyed()
        assert await made.on_request(one) is None
        assert one.headers.get(b"x-user") == b"ann"
        assert one.state["extauthz"] == {"a": 1}
    assert len(service.messages) == 1
    await made.on_request(keyed("other"))
    assert len(service.messages) == 2
    await made.on_request(keyed(None))
    await made.on_request(keyed(None))
    assert len(service.messages) == 4
    clock.pass_seconds(10)
    await made.on_request(keyed())
    assert len(service.messages) == 5


async def test_one_request_renews_a_decision_before_its_end():
    clock = HeldClock()
    service = Grpc()
    made = policy(cached(GRPC), service, clock=clock)
    await made.on_request(keyed())
    clock.pass_seconds(9)
    service.answer = DOWN
    # The one that asks fails, and what was decided still holds; nobody else asks.
    for _ in range(3):
        assert await made.on_request(keyed()) is None
    assert len(service.messages) == 2
    clock.pass_seconds(1)
    with pytest.raises(RequestError):
        await made.on_request(keyed())


class Held(Service):
    """A service that answers when the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: asyncio.Queue[Answer | Exception] = asyncio.Queue()

    async def unary(self, path: str, message: bytes, *_: object, **__: object) -> bytes:
        self.messages.append(message)
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer.encoded()


async def test_requests_of_one_key_ask_once():
    service = Held()
    made = policy(cached(GRPC), service)
    asking = [asyncio.create_task(made.on_request(keyed())) for _ in range(5)]
    await asyncio.sleep(0)
    service.answers.put_nowait(Answer())
    assert await asyncio.gather(*asking) == [None] * 5
    assert len(service.messages) == 1


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_who_waits_for_a_call_that_fails_asks_itself(is_cancelled):
    service = Held()
    made = policy(cached(GRPC), service)
    first = asyncio.create_task(made.on_request(keyed()))
    await asyncio.sleep(0)
    second = asyncio.create_task(made.on_request(keyed()))
    await asyncio.sleep(0)
    if is_cancelled:
        first.cancel()
    else:
        service.answers.put_nowait(DOWN)
    with pytest.raises((RequestError, asyncio.CancelledError)):
        await first
    service.answers.put_nowait(Answer())
    assert await second is None
    assert len(service.messages) == 2


async def test_kinds_of_values_are_told_apart():
    service = Grpc()
    payload = {
        **GRPC,
        "cache": {"key": ["json(request.headers['x-key'])"], "ttl": "duration('1h')"},
    }
    made = policy(payload, service)
    for key in ("1", '"1"', "true", '"true"', "[1]", '"[1]"', "1"):
        await made.on_request(keyed(key))
    assert len(service.messages) == 6


async def test_denials_are_kept_as_far_as_they_decide():
    for status, calls in ((401, 1), (403, 1), (500, 2), (404, 2), (429, 2)):
        service = Plain(response(status, {}, b"x"))
        made = policy(cached(by_http()), service)
        for _ in range(2):
            got = await made.on_request(keyed())
            assert (got.status, await got.body.read()) == (status, b"x")
        assert len(service.requests) == calls, status


async def test_a_redirect_is_told_anew_for_each_request():
    service = Plain(response(401))
    made = policy(cached(by_http(redirect="'/login?rd=' + request.path")), service)
    for path in ("/a", "/b"):
        got = await made.on_request(keyed("k", path))
        assert got.headers.get(b"location") == f"/login?rd={path}".encode()
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        ("duration('5s')", 5),
        ("timestamp('1970-01-01T00:01:05Z')", 65),
        ("extauthz.expires - 5", 95),
        ("response.headers['x-ttl'] == '7' ? duration('7s') : duration('0s')", 7),
        ("0", 0),
        ("duration('-5s')", 0),
        ("'5s'", 0),
        ("true", 0),
        ("request.headers['nope']", 0),
    ],
)
async def test_how_long_a_decision_is_kept(ttl, seconds):
    clock = HeldClock(-1_700_000_000 * SECOND)
    service = Plain(response(200, {"x-ttl": "7"}, b'{"exp": 100}'))
    payload = cached(by_http(metadata={"expires": "json(response.body).exp"}), ttl)
    made = policy(payload, service, clock=clock)
    await made.on_request(keyed())
    clock.pass_seconds(max(seconds - 6, 0))
    await made.on_request(keyed())
    early = 2 if seconds <= 0 else 1
    assert len(service.requests) == early
    clock.pass_seconds(7)
    await made.on_request(keyed())
    assert len(service.requests) == early + 1


async def test_the_cache_has_a_bound():
    service = Grpc()
    made = policy(cached(GRPC, maxEntries=2), service)
    for key in ("a", "b", "a", "c", "a"):
        await made.on_request(keyed(key))
    assert len(service.messages) == 3
    await made.on_request(keyed("b"))
    assert len(service.messages) == 4
    none = policy(cached(GRPC, maxEntries=0), service)
    for _ in range(2):
        await none.on_request(keyed())
    assert len(service.messages) == 6


async def test_what_the_cache_keeps_has_a_bound_in_octets():
    large = Plain(response(403, body=bytes(1 << 20)))
    made = policy(cached(by_http()), large)

    async def judged(key: str) -> int:
        with contextlib.suppress(RequestError):
            await made.on_request(keyed(key))
        return len(large.requests)

    # Sixteen megabytes are kept, so that the first is gone by the time when all have come.
    for number in range(17):
        assert await judged(f"k{number}") == number + 1
    assert await judged("k16") == 17
    assert await judged("k0") == 18
    # Keys count as well: a client may make them long.
    small = Plain()
    made = policy(cached(by_http()), small)
    for number in range(20):
        await made.on_request(keyed(f"{number}" + "k" * (1 << 20)))
    await made.on_request(keyed("0" + "k" * (1 << 20)))
    assert len(small.requests) == 21


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
