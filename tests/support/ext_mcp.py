"""A guard of MCP messages over grpcio: answers as a test says, and records what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from sidecar.policies._pb import ext_mcp_pb2 as pb
from tests.support.grpc_server import GrpcServer

SERVICE = "agentgateway.dev.ext_mcp.ExtMcp"


@dataclass(frozen=True)
class Question:
    """A call as it arrived."""

    phase: str
    method: str
    targets: list[str]
    payload: Any
    metadata: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Answer:
    """What to say; pass when nothing is set."""

    mutated: Any = None
    """The payload in its place; bytes as they are."""
    code: int | None = None
    """Refuse with this."""
    reason: str = ""
    error: Any = None
    """A JSON-RPC error in the guard's own words."""
    set_headers: dict[str, str] = field(default_factory=dict)
    remove_headers: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None
    """Octets to send in the place of a message."""
    status: grpc.StatusCode | None = None
    """Fail with this."""
    hang: bool = False
    """Answer only when the call or the server ends."""

    def encoded(self, phase: str) -> bytes:
        if self.raw is not None:
            return self.raw
        made: Any = pb.RequestVerdict() if phase == "request" else pb.ResponseVerdict()
        if self.code is not None:
            made.error.code = self.code
            made.error.reason = self.reason
            if self.error is not None:
                made.error.mcp_error = json.dumps(self.error).encode()
        elif self.mutated is None:
            made.unchanged.SetInParent()
        elif isinstance(self.mutated, bytes):
            made.mutated = self.mutated
        else:
            made.mutated = json.dumps(self.mutated).encode()
        if phase == "request":
            for key, value in self.set_headers.items():
                made.header_mutation.set.add(key=key, value=value.encode())
            made.header_mutation.remove.extend(self.remove_headers)
            if self.metadata:
                made.metadata.update(self.metadata)
        return bytes(made.SerializeToString())


Script = Callable[[Question], Answer]


def let_pass(question: Question) -> Answer:
    """Pass."""
    return Answer()


class ExtMcpServer(GrpcServer[Question]):
    """`with ExtMcpServer(script) as guard:` serves on `guard.address`; `script` may be replaced."""

    grace_seconds = 0.0

    def __init__(self, script: Script = let_pass) -> None:
        self.script = script
        methods = {
            "CheckRequest": grpc.unary_unary_rpc_method_handler(self._request),
            "CheckResponse": grpc.unary_unary_rpc_method_handler(self._response),
        }
        super().__init__(SERVICE, methods)

    def _request(self, data: bytes, context: Any) -> bytes:
        given = pb.Request.FromString(data)
        headers = {one.key: one.value.decode("latin-1") for one in given.headers}
        return self._answered("request", given, json.loads(given.mcp_request), headers, context)

    def _response(self, data: bytes, context: Any) -> bytes:
        given = pb.Response.FromString(data)
        return self._answered("response", given, json.loads(given.mcp_response), {}, context)

    def _answered(
        self, phase: str, given: Any, payload: Any, headers: dict[str, str], context: Any
    ) -> bytes:
        told = MessageToDict(given.metadata_context)
        question = Question(phase, given.method, list(given.service_names), payload, told, headers)
        self.record(question)
        answer = self.script(question)
        if answer.hang:
            self.hang(context)
        if answer.status is not None:
            context.abort(answer.status, "s3cr3t details")
        return answer.encoded(phase)
