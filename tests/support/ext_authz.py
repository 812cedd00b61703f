"""An authorization service over grpcio: answers as a test says, and records what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from sidecar.policies._pb import envoy_pb2 as envoy
from sidecar.policies._pb import ext_authz_pb2 as pb
from tests.support.certificates import Pair
from tests.support.grpc_server import GrpcServer

SERVICE = "envoy.service.auth.v3.Authorization"
PERMISSION_DENIED = 7
Question = pb.Attributes
Option = tuple[str, str | bytes] | envoy.HeaderValueOption


@dataclass
class Answer:
    """What to say; `status` is None for a message without one."""

    allow: bool | None = True
    set: list[Option] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    told: list[Option] = field(default_factory=list)
    """Fields of the response."""
    query_set: list[tuple[str, str]] = field(default_factory=list)
    query_remove: list[str] = field(default_factory=list)
    denied_status: int | None = None
    body: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None
    """Octets to send in the place of a message."""
    error: grpc.StatusCode | None = None
    """Fail with this."""
    hang: bool = False
    """Answer only when the server stops, or the call is given up."""

    def message(self) -> pb.CheckResponse:
        made = pb.CheckResponse()
        if self.allow is not None:
            made.status.code = 0 if self.allow else PERMISSION_DENIED
        if self.allow and self.denied_status is None:
            ok = made.ok_response
            ok.headers.extend(map(option, self.set))
            ok.headers_to_remove.extend(self.remove)
            ok.response_headers_to_add.extend(map(option, self.told))
            for key, value in self.query_set:
                ok.query_parameters_to_set.add(key=key, value=value)
            ok.query_parameters_to_remove.extend(self.query_remove)
        elif self.denied_status is not None:
            denied = made.denied_response
            denied.status.code = self.denied_status
            denied.headers.extend(map(option, self.told))
            denied.body = self.body.encode()
        if self.metadata:
            made.dynamic_metadata.update(self.metadata)
        return made

    def encoded(self) -> bytes:
        return self.raw if self.raw is not None else bytes(self.message().SerializeToString())


def option(given: Option) -> envoy.HeaderValueOption:
    """A header option: a pair is one without any action."""
    if isinstance(given, envoy.HeaderValueOption):
        return given
    name, value = given
    made = envoy.HeaderValueOption()
    made.header.key = name
    if isinstance(value, str):
        made.header.value = value
    else:
        made.header.raw_value = value
    return made


def acting(name: str, value: str, action: int = 0, append: bool | None = None) -> Any:
    """A header option with its action."""
    made = option((name, value))
    made.append_action = action
    if append is not None:
        made.append.value = append
    return made


Script = Callable[[Question], Answer]


def allow(question: Question) -> Answer:
    """Yes."""
    return Answer()


def refuse(question: Question) -> Answer:
    """No."""
    return Answer(allow=False)


class AuthorizationServer(GrpcServer[Question]):
    """`with AuthorizationServer(script) as server:` serves on `server.address`."""

    def __init__(
        self, script: Script = allow, *, tls: Pair | None = None, path: str = "", port: int = 0
    ) -> None:
        """`path`: of a Unix socket to listen at instead."""
        self.script = script
        handler = grpc.unary_unary_rpc_method_handler(self._serve)
        super().__init__(SERVICE, {"Check": handler}, tls=tls, path=path, port=port)

    def _serve(self, data: bytes, context: Any) -> bytes:
        question = pb.CheckRequest.FromString(data).attributes
        self.record(question)
        answer = self.script(question)
        if answer.hang:
            self.hang(context)
        if answer.error is not None:
            context.abort(answer.error, "s3cr3t details")
        return answer.encoded()
