"""A rate limit service over grpcio: answers as a test says, and records what it was asked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from sidecar.policies._pb import ratelimit_pb2 as pb
from tests.support.certificates import Pair
from tests.support.grpc_server import GrpcServer

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
OK, OVER = pb.RateLimitResponse.OK, pb.RateLimitResponse.OVER_LIMIT


@dataclass(frozen=True)
class Asked:
    """A descriptor as it arrived. `hits`: None when it was not said."""

    entries: tuple[tuple[str, str], ...]
    hits: int | None = None
    override: tuple[int, int] | None = None
    """`(unit's number, requests per unit)`."""


@dataclass(frozen=True)
class Question:
    """A call as it arrived."""

    domain: str
    descriptors: tuple[Asked, ...]
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class Answer:
    """What to say."""

    code: int = OK
    statuses: list[tuple[int, int, int]] = field(default_factory=list)
    """`(limit, remaining, reset in seconds)`."""
    response_headers: list[tuple[str, str | bytes]] = field(default_factory=list)
    request_headers: list[tuple[str, str | bytes]] = field(default_factory=list)
    body: bytes = b""
    raw: bytes | None = None
    """Octets to send in the place of a message."""
    status: grpc.StatusCode | None = None
    """Fail with this."""
    hang: bool = False
    """Answer only when the server stops."""

    def encoded(self) -> bytes:
        if self.raw is not None:
            return self.raw
        made = pb.RateLimitResponse(overall_code=self.code, raw_body=self.body)
        for limit, remaining, reset in self.statuses:
            one = made.statuses.add(code=self.code, limit_remaining=remaining)
            one.current_limit.requests_per_unit = limit
            one.current_limit.unit = pb.MINUTE
            one.duration_until_reset.seconds = reset
        for told, pairs in (
            (made.response_headers_to_add, self.response_headers),
            (made.request_headers_to_add, self.request_headers),
        ):
            for name, value in pairs:
                if isinstance(value, str):
                    told.add(key=name, value=value)
                else:
                    told.add(key=name, raw_value=value)
        return bytes(made.SerializeToString())


Script = Callable[[Question], Answer]


def allow(question: Question) -> Answer:
    """OK."""
    return Answer()


class Limit:
    """A script that really limits: each descriptor has `limit` hits, for ever."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used: Counter[tuple[tuple[str, str], ...]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, question: Question) -> Answer:
        with self._lock:
            left = []
            for one in question.descriptors:
                self.used[one.entries] += 1 if one.hits is None else one.hits
                left.append(self.limit - self.used[one.entries])
            worst = min(left)
            code = OVER if worst < 0 else OK
            return Answer(code, [(self.limit, max(worst, 0), 30)])


class RateLimitServer(GrpcServer[Question]):
    """`with RateLimitServer(script) as rls:` serves on `rls.address`; `script` may be replaced."""

    def __init__(
        self,
        script: Script = allow,
        *,
        tls: Pair | None = None,
        port: int = 0,
        streams: int | None = None,
    ) -> None:
        """`streams`: most calls of one connection at a time."""
        self.script = script
        options = [] if streams is None else [("grpc.max_concurrent_streams", streams)]
        handler = grpc.unary_unary_rpc_method_handler(self._serve)
        methods = {"ShouldRateLimit": handler}
        super().__init__(SERVICE, methods, tls=tls, port=port, options=options)

    def _serve(self, data: bytes, context: Any) -> bytes:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        question = replace(asked_of(data), metadata=metadata)
        self.record(question)
        answer = self.script(question)
        if answer.hang:
            self.hang(context)
        if answer.status is not None:
            context.abort(answer.status, "s3cr3t details")
        return answer.encoded()


def asked_of(data: bytes) -> Question:
    """A request's message, read."""
    request = pb.RateLimitRequest.FromString(data)
    return Question(request.domain, tuple(map(_asked, request.descriptors)))


def _asked(descriptor: pb.Descriptor) -> Asked:
    hits = descriptor.hits_addend.value if descriptor.HasField("hits_addend") else None
    override = None
    if descriptor.HasField("limit"):
        override = (int(descriptor.limit.unit), descriptor.limit.requests_per_unit)
    return Asked(tuple((one.key, one.value) for one in descriptor.entries), hits, override)
