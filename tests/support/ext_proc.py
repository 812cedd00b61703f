"""An external processor over grpcio: says what a script says, and records what it was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from sidecar.policies._pb import envoy_pb2 as envoy
from sidecar.policies._pb import ext_proc_pb2 as pb
from tests.support.certificates import Pair
from tests.support.grpc_server import SECONDS, GrpcServer

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
Sent = pb.ProcessingRequest
Said = pb.ProcessingResponse
Pairs = Iterable[tuple[str, str | bytes]]


class Call:
    """One stream. Iterate for the messages; they are recorded as they are taken."""

    def __init__(self, messages: Iterator[bytes], context: Any) -> None:
        self._messages = messages
        self.context = context
        self.metadata = {str(key): value for key, value in context.invocation_metadata()}
        self.taken: list[Sent] = []

    def __iter__(self) -> Iterator[Sent]:
        return self

    def __next__(self) -> Sent:
        message = Sent.FromString(next(self._messages))
        self.taken.append(message)
        return message

    @property
    def headers(self) -> dict[str, str]:
        """Of the first message that has headers."""
        for one in self.taken:
            if one.HasField("request_headers"):
                return fields(one.request_headers.headers)
        return {}


def fields(given: Any) -> dict[str, str]:
    """A HeaderMap; the last of a name counts."""
    return {one.key: one.raw_value.decode("latin-1") for one in given.headers}


Script = Callable[[Call], Iterator[Said]]


def passing(call: Call) -> Iterator[Said]:
    """Changes nothing."""
    for message in call:
        yield echo(message)


def echo(message: Sent) -> Said:
    """The answer that leaves a message as it is."""
    kind = message.WhichOneof("request")
    if kind is not None and kind.endswith("_body"):
        piece = getattr(message, kind)
        return streamed(kind, piece.body, ends=piece.end_of_stream)
    made = Said()
    getattr(made, str(kind)).SetInParent()
    return made


def mutate(made: Any, put: Pairs = (), remove: Iterable[str] = ()) -> None:
    """Fill a HeaderMutation."""
    for name, value in put:
        raw = value.encode() if isinstance(value, str) else value
        made.set_headers.add().header.MergeFrom(envoy.HeaderValue(key=name, raw_value=raw))
    made.remove_headers.extend(remove)


def head(kind: str, put: Pairs = (), remove: Iterable[str] = (), **more: Any) -> Said:
    """An answer to headers; `kind` as `request_headers`. `body`: instead of the message's own."""
    made = Said()
    common = getattr(made, kind).response
    common.SetInParent()
    mutate(common.header_mutation, put, remove)
    if "body" in more:
        common.status = pb.Common.CONTINUE_AND_REPLACE
        common.body_mutation.body = more.pop("body")
    for name, value in more.items():
        getattr(made, name).CopyFrom(value)
    return made


def whole(kind: str, body: bytes | None, put: Pairs = ()) -> Said:
    """An answer to a body that was held; None leaves it."""
    made = Said()
    common = getattr(made, kind).response
    common.SetInParent()
    mutate(common.header_mutation, put)
    if body == b"":
        common.body_mutation.clear_body = True
    elif body is not None:
        common.body_mutation.body = body
    return made


def streamed(kind: str, body: bytes, *, ends: bool = False) -> Said:
    """A piece of a body in duplex."""
    made = Said()
    piece = getattr(made, kind).response.body_mutation.streamed_response
    piece.SetInParent()
    piece.body, piece.end_of_stream = body, ends
    return made


def trailers(kind: str, put: Pairs = (), remove: Iterable[str] = ()) -> Said:
    """An answer to trailers."""
    made = Said()
    getattr(made, kind).SetInParent()
    mutate(getattr(made, kind).header_mutation, put, remove)
    return made


def at_once(status: int, body: bytes = b"", put: Pairs = (), grpc_status: int = -1) -> Said:
    """An immediate response."""
    made = Said()
    made.immediate_response.status.code = status
    made.immediate_response.body = body
    mutate(made.immediate_response.headers, put)
    if grpc_status >= 0:
        made.immediate_response.grpc_status.status = grpc_status
    return made


class ProcessorServer(GrpcServer[Call]):
    """`with ProcessorServer(script) as server:` serves on `server.address`."""

    grace_seconds = 0.0

    def __init__(
        self, script: Script = passing, *, tls: Pair | None = None, path: str = "", port: int = 0
    ) -> None:
        """`path`: of a Unix socket to listen at instead."""
        self.script = script
        self._ended: list[bool] = []
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        super().__init__(SERVICE, {"Process": handler}, tls=tls, path=path, port=port)

    def _serve(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        call = Call(messages, context)
        self.record(call)
        is_cut = True
        try:
            for said in self.script(call):
                yield said if isinstance(said, bytes) else said.SerializeToString()
            is_cut = not context.is_active()
        except grpc.RpcError:
            # What iterating over the messages raises when the gateway has cut the stream.
            return
        finally:
            with self._changed:
                # One that was taken already may end late: it is nobody's any more.
                if call in self._asked:
                    self._ended.append(is_cut)
                self._changed.notify_all()

    def take(self) -> list[Call]:
        """All streams since the last call."""
        with self._changed:
            taken, self._asked = self._asked, []
            self._ended.clear()
            return taken

    def wait_begun(self) -> list[Call]:
        """The streams since the last `take`, once there is one; they stay to be taken."""
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self._asked), SECONDS)
            return list(self._asked)

    def wait_ended(self, count: int = 1) -> list[bool]:
        """Once so many of the streams since the last `take` have ended: which of them were cut."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._ended) >= count, SECONDS)
            return list(self._ended)
