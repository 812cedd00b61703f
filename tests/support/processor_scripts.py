"""Processors that the integration tests ask, by the name of the route, and the backends."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc

from sidecar.policies._pb import ext_proc_pb2 as pb
from tests.support.ext_proc import (
    Call,
    Said,
    at_once,
    echo,
    fields,
    head,
    passing,
    streamed,
    trailers,
    whole,
)
from tests.support.upstream import Answer as Page
from tests.support.upstream import Seen

SECONDS = 20.0


def script(call: Call) -> Iterator[Said]:
    """By the first part of the path; the first message always has the headers."""
    first = next(call)
    name = fields(first.request_headers.headers)[":path"].split("/")[1].partition("?")[0]
    yield from SCRIPTS[name](call, first)


def changing(call: Call, first: Any) -> Iterator[Said]:
    """Headers and bodies of both directions."""
    yield head(
        "request_headers",
        [("x-user", "ann"), (":path", "/changed?x=1"), ("content-length", "999")],
        ["x-gone"],
    )
    for message in call:
        kind = str(message.WhichOneof("request"))
        if kind == "response_headers":
            yield head(kind, [(":status", "203"), ("x-said", "yes")], ["x-secret"])
        elif kind.endswith("_body"):
            piece = getattr(message, kind)
            yield streamed(kind, piece.body.upper(), ends=piece.end_of_stream)
        else:
            yield echo(message)


def late(call: Call, first: Any) -> Iterator[Said]:
    """Answers the head of a request when it has all of the body, as endpoint pickers do."""
    parts = []
    for message in call:
        parts.append(message.request_body.body)
        if message.request_body.end_of_stream:
            break
    text = b"".join(parts)
    yield head("request_headers", [("x-user", str(len(text)))])
    for at in range(0, len(text), 10_000):
        yield streamed("request_body", text[at : at + 10_000])
    yield streamed("request_body", b"", ends=True)
    yield from passing(call)


def held(call: Call, first: Any) -> Iterator[Said]:
    """Bodies shown whole."""
    yield echo(first)
    for message in call:
        kind = str(message.WhichOneof("request"))
        if kind.endswith("_body"):
            piece = getattr(message, kind)
            mark = b"!" if piece.end_of_stream else b"..."
            yield whole(kind, piece.body[::-1] + mark, [("x-user", str(len(piece.body)))])
        else:
            yield echo(message)


def stepped(call: Call, first: Any) -> Iterator[Said]:
    """Asks for pieces, each of which waits for its answer."""
    modes = pb.Modes(request_body_mode=pb.STREAMED, response_header_mode=pb.SKIP)
    yield head("request_headers", mode_override=modes)
    for message in call:
        piece = message.request_body
        yield whole("request_body", b"<" + piece.body + b">" if piece.body else None)


def trailing(call: Call, first: Any) -> Iterator[Said]:
    yield echo(first)
    for message in call:
        kind = str(message.WhichOneof("request"))
        if kind == "response_trailers":
            seen = fields(message.response_trailers.trailers)
            yield trailers(kind, [("x-sum", seen["x-sum"] + "+")], ["x-gone"])
        else:
            yield echo(message)


def refusing(call: Call, first: Any) -> Iterator[Said]:
    yield at_once(429, b"too much", [("x-why", "plan")], grpc_status=8)


def refusing_answers(call: Call, first: Any) -> Iterator[Said]:
    for message in itertools.chain((first,), call):
        if message.HasField("response_headers"):
            yield at_once(451, b"not for you", [("x-why", "law")])
            return
        yield echo(message)


def refusing_bodies(call: Call, first: Any) -> Iterator[Said]:
    yield echo(first)
    next(call)
    yield at_once(422, b"bad words")


def leaving(call: Call, first: Any) -> Iterator[Said]:
    yield head("request_headers", [("x-user", "left")])


def once(said: Any) -> Any:
    def run(call: Call, first: Any) -> Iterator[Said]:
        yield said

    return run


def silent(call: Call, first: Any) -> Iterator[Said]:
    for _ in call:
        continue
    yield from ()


def dying_later(call: Call, first: Any) -> Iterator[Said]:
    for message in itertools.chain((first,), call):
        if message.HasField("response_body"):
            yield streamed("response_body", b"begun")
            call.context.abort(13, "s3cr3t")
        yield echo(message)


def telling(call: Call, first: Any) -> Iterator[Said]:
    said = head("request_headers", [("x-user", "t")])
    said.dynamic_metadata.update({"team": {"name": "blue"}})
    yield said
    yield from passing(call)


def passing_on(call: Call, first: Any) -> Iterator[Said]:
    yield echo(first)
    yield from passing(call)


SCRIPTS: dict[str, Any] = {
    "changing": changing,
    "late": late,
    "open-late": late,
    "held": held,
    "partial": held,
    "stepped": stepped,
    "trailing": trailing,
    "refusing": refusing,
    "refusing-answers": refusing_answers,
    "refusing-bodies": refusing_bodies,
    "leaving": leaving,
    "silent": silent,
    "dying-later": dying_later,
    "telling": telling,
    "lies": once(b"\xff\xff"),
    "other": once(head("response_headers")),
    "nothing": once(Said()),
    "evil": once(head("request_headers", [("host", "evil.example")])),
    "smuggling": once(head("request_headers", [("x", "a\r\nb: c")])),
    "framing": once(head("request_headers", [("transfer-encoding", "chunked")])),
    "passing": passing_on,
    "heads": passing_on,
    "slow": passing_on,
    "attributes": passing_on,
    "test.Chat": trailing,
    "tls": changing,
    "unix": changing,
    "named": changing,
    "gone": changing,
    "read-later": changing,
}


def page(seen: Seen) -> Page:
    headers = [("x-secret", "1"), ("x-target", seen.target), ("x-user", seen.get("x-user") or "-")]
    headers += [("x-gone", seen.get("x-gone") or "-"), ("x-length", str(len(seen.body)))]
    if seen.target.startswith("/trailing"):
        return Page(200, headers, [b"one", b"two"], trailers=[("x-sum", "6"), ("x-gone", "1")])
    if seen.target.startswith("/slow"):
        return Page(200, headers, _slowly())
    return Page(200, headers, seen.body or b"served")


STEPS: list[threading.Event] = [threading.Event() for _ in range(3)]


def _slowly() -> Iterator[bytes]:
    for index, step in enumerate(STEPS):
        yield b"data: %d\n\n" % index
        assert step.wait(SECONDS)


class Chat:
    """A gRPC backend."""

    def __init__(self) -> None:
        handler = grpc.stream_stream_rpc_method_handler(self._chat)
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Chat", {"Chat": handler}),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def _chat(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            if request == b"fail":
                context.set_trailing_metadata((("x-sum", "6"),))
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
            yield b"re: " + request

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait(SECONDS)
