"""What a processor is shown of an exchange, by which modes, and what its answers change.

Source: spec/config.md section 3.9; envoy.service.ext_proc.v3.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import ConfigError, RequestError
from sidecar.policies._pb import ext_proc_pb2 as pb
from sidecar.policies.order import make
from tests.support.ext_proc import at_once, echo, fields, head, whole
from tests.support.messages import request, response, services
from tests.support.processing import Coming, Exchange, Messages, Processor, post, read, saying

# --- modes --------------------------------------------------------------------------------------


async def test_what_is_skipped_is_not_sent():
    processor = Processor()
    skipped = dict.fromkeys(("requestHeaderMode", "responseHeaderMode"), "skip")
    exchange = Exchange(processor, {**skipped, "requestBodyMode": "none"}, **ATTRIBUTES)
    made, got = post(b"abc"), response(200, {}, b"fine")
    await exchange.ask(made)
    assert processor.streams == []
    await exchange.answer(made, got)
    assert await read(got.body) == b"fine"
    assert processor.kinds == ["response_body"]
    # What goes with the first message goes with this.
    assert dict(processor.sent[0].attributes["envoy.filters.http.ext_proc"]) == {"code": 200}
    assert processor.sent[0].protocol_config.response_body_mode == pb.FULL_DUPLEX_STREAMED
    exchange.end(made)


ATTRIBUTES = {"responseAttributes": {"code": "response.code"}}


async def test_modes_change_only_where_that_is_allowed():
    override = pb.Modes(
        request_body_mode=pb.NONE, response_header_mode=pb.SKIP, response_body_mode=pb.BUFFERED
    )

    async def changing(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            kind = str(message.WhichOneof("request"))
            if kind == "request_headers":
                yield head(kind, mode_override=override)
            else:
                yield whole(kind, b"!") if kind == "response_body" and allowed else echo(message)

    for allowed in (False, True):
        processor = Processor(changing)
        exchange = Exchange(processor, {"allowModeOverride": allowed})
        made, got = post(b"abc"), response(200, {}, b"fine")
        await exchange.ask(made)
        assert await read(made.body) == b"abc"
        await exchange.answer(made, got)
        assert await read(got.body) == (b"!" if allowed else b"fine")
        bodies = ["request_body"], ["response_headers"]
        asked = processor.kinds
        assert all((kind[0] in asked) is not allowed for kind in bodies)
        exchange.end(made)


async def test_a_mode_that_is_not_known_is_refused():
    said = head("request_headers")
    said.mode_override.request_body_mode = 9
    exchange = Exchange(
        Processor(saying(said)), {"allowModeOverride": True}, failureMode="failOpen"
    )
    with pytest.raises(RequestError, match="a body mode that is not known"):
        await exchange.ask(post(b"abc"))


async def test_a_head_may_be_answered_with_the_whole_message():
    async def replacing(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            kind = str(message.WhichOneof("request"))
            if kind.endswith("_headers"):
                yield head(kind, [("x-by", kind)], body=b"instead")

    body = Coming(b"abc")
    made, got = post(body), response(200, {"content-length": "4"}, b"fine")
    exchange = Exchange(Processor(replacing), {})
    await exchange.ask(made)
    assert (await read(made.body), made.body.length) == (b"instead", 7)
    assert body.is_closed
    await exchange.answer(made, got)
    assert await read(got.body) == b"instead"
    assert not got.headers.has(b"content-length")
    exchange.end(made)


async def test_a_response_without_a_body_gets_none():
    async def replacing(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            kind = str(message.WhichOneof("request"))
            yield head(kind, [("x-by", "me")], body=b"instead")

    for method, status in (("HEAD", 200), ("GET", 204), ("GET", 304)):
        made, got = request(method), response(status, {"content-length": "4"})
        exchange = Exchange(Processor(replacing), {"requestHeaderMode": "skip"})
        await exchange.ask(made)
        await exchange.answer(made, got)
        assert await read(got.body) == b""
        assert got.headers.get(b"x-by") == b"me"
        exchange.end(made)


async def test_a_response_that_is_too_long_to_be_held():
    exchange = Exchange(Processor(), {"responseBodyMode": "buffered"}, failureMode="failOpen")
    made = request()
    await exchange.ask(made)
    got = response(200, {}, b"x" * 100_001)
    assert await read((await exchange.answer(made, got)).body) == b"x" * 100_001
    closed = Exchange(Processor(), {"responseBodyMode": "buffered"})
    await closed.ask(made := request())
    with pytest.raises(RequestError, match="response body too large"):
        await closed.answer(made, response(200, {}, b"x" * 100_001))


async def test_answers_of_the_gateway_are_not_shown():
    processor = Processor()
    exchange = Exchange(processor, {})
    made = request()
    await exchange.ask(made)
    own = response(503)
    own.reason = "NoHealthyBackend"
    await exchange.answer(made, own)
    assert processor.kinds == ["request_headers"]
    exchange.end(made)


async def test_an_answer_of_its_own_within_a_body_ends_the_call():
    async def judging(messages: Messages) -> AsyncIterator[Any]:
        yield echo(await anext(messages))
        await anext(messages)
        yield at_once(422, b"bad words", [("x-why", "words")])

    made = post(Coming(b"abc", b""))
    exchange = Exchange(Processor(judging), {})
    await exchange.ask(made)
    with pytest.raises(RequestError) as caught:
        await made.body.read()
    error = caught.value
    assert (error.status, error.message, error.headers) == (
        422,
        "bad words",
        ((b"x-why", b"words"),),
    )
    exchange.end(made)


async def test_a_path_is_shown_as_the_router_reads_it():
    processor = Processor()
    exchange = Exchange(processor, {"responseHeaderMode": "skip"})
    made = request("GET", "/public/%2e%2e/admin")
    await exchange.ask(made)
    assert fields(processor.sent[0].request_headers.headers)[":path"] == "/admin"
    exchange.end(made)


async def test_a_query_is_shown_octet_by_octet():
    processor = Processor()
    exchange = Exchange(processor, {"responseHeaderMode": "skip"})
    made = request("GET", "/a?q=\xc3\xa9\xff")
    await exchange.ask(made)
    (path,) = (
        one.raw_value
        for one in processor.sent[0].request_headers.headers.headers
        if one.key == ":path"
    )
    assert path == b"/a?q=\xc3\xa9\xff"
    exchange.end(made)


async def test_the_same_for_a_grpc_client():
    async def judging(messages: Messages) -> AsyncIterator[Any]:
        yield echo(await anext(messages))
        await anext(messages)
        yield at_once(429, b"bad words", grpc_status=8)

    made = post(Coming(b"abc", b""))
    made.headers.append((b"content-type", b"application/grpc"))
    exchange = Exchange(Processor(judging), {})
    await exchange.ask(made)
    with pytest.raises(RequestError) as caught:
        await made.body.read()
    assert (caught.value.status, caught.value.headers) == (429, ())
    exchange.end(made)


async def test_what_it_tells_is_bounded_over_all_answers():
    async def talking(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            said = echo(message)
            said.dynamic_metadata.update({"a": "x" * 60_000})
            yield said

    made = post(Coming(*[b"abc"] * 20, b""))
    exchange = Exchange(Processor(talking), {}, failureMode="failOpen")
    await exchange.ask(made)
    assert isinstance(made.state["extproc"], dict)
    with pytest.raises(RequestError, match="bytes of metadata"):
        await read(made.body)
    exchange.end(made)


async def test_an_upgrade_has_no_body_to_show():
    processor = Processor()
    exchange = Exchange(processor, {})
    made = request()
    made.upgrade = "websocket"
    made.body = Coming(b"frames")  # type: ignore[assignment]
    await exchange.ask(made)
    assert await made.body.read() == b"frames"
    assert processor.sent[0].request_headers.end_of_stream
    exchange.end(made)


# --- configuration ------------------------------------------------------------------------------


async def test_metadata_of_the_call():
    space = "agentgateway.dev.grpc_initial_metadata"
    values = {"X-User": "request.headers['x-user']", "x-none": "null", "x-raw-bin": "b'\\x01\\xff'"}
    processor = Processor()
    exchange = Exchange(processor, {}, metadataContext={space: values})
    made = request(headers={"x-user": "ann"})
    await exchange.ask(made)
    assert processor.streams[0].metadata == ((b"x-user", b"ann"), (b"x-raw-bin", b"Af8="))
    assert not processor.sent[0].HasField("metadata_context")
    exchange.end(made)
    made = request(headers={"x-user": "caf\xe9"})
    await (exchange := Exchange(processor, {}, metadataContext={space: values})).ask(made)
    assert processor.streams[1].metadata == ((b"x-raw-bin", b"Af8="),)
    exchange.end(made)


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, "extProc"),
        ({"host": "a:1", "failureMode": "allow"}, "extProc.failureMode"),
        (
            {"host": "a:1", "processingOptions": {"requestBodyMode": "streamed"}},
            "extProc.processingOptions.requestBodyMode",
        ),
        ({"host": "a:1", "requestAttributes": {"a": "1 +"}}, "extProc.requestAttributes.a"),
        (
            {"host": "a:1", "requestAttributes": {"a": "response.code"}},
            "extProc.requestAttributes.a",
        ),
        ({"host": "a:1", "metadataContext": {"n": {"a": "1 +"}}}, "extProc.metadataContext.n.a"),
        (
            {
                "host": "a:1",
                "metadataContext": {"agentgateway.dev.grpc_initial_metadata": {"grpc-a": "1"}},
            },
            "extProc.metadataContext.agentgateway.dev.grpc_initial_metadata.grpc-a",
        ),
        ({"conditional": [{"host": "a:1", "what": 1}]}, "extProc.conditional[0].what"),
    ],
    ids=str,
)
def test_what_is_refused(payload, path):
    with pytest.raises(ConfigError) as caught:
        make("extProc", payload, replace(services(), callouts=Processor()))
    assert caught.value.path == path


async def test_the_first_alternative_that_applies_sees_both_directions():
    entries = [
        {"host": "a:1", "condition": "request.path == '/a'"},
        {"host": "b:1", "condition": "request.nonsense"},
    ]
    processor = Processor()
    made: Any = make("extProc", {"conditional": entries}, replace(services(), callouts=processor))
    other = request("GET", "/b")
    assert await made.on_request(other) is None
    await made.on_response(other, response())
    assert processor.streams == []
    first = request("GET", "/a")
    await made.on_request(first)
    await made.on_response(first, response())
    assert processor.kinds == ["request_headers", "response_headers"]
    Exchange.end(first)
