"""Messages of ExtMcp, the protocol of guards of MCP: made of plain values, read into plain values.

Source: agentgateway.dev.ext_mcp.ExtMcp; spec/mcp_a2a.md section 2.10; the numbers are in
`_pb/ext_mcp.proto`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

import orjson
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from sidecar.errors import UpstreamError
from sidecar.http.headers import Field
from sidecar.jsonrpc import INTERNAL_ERROR, INVALID_REQUEST, Json, JsonRpcError, is_deep
from sidecar.policies import fields
from sidecar.policies._pb import ext_mcp_pb2 as pb
from sidecar.policies.struct_value import plain_struct

REQUEST: Final = "/agentgateway.dev.ext_mcp.ExtMcp/CheckRequest"
RESPONSE: Final = "/agentgateway.dev.ext_mcp.ExtMcp/CheckResponse"
CODES: Final[Mapping[str, int]] = {
    "PERMISSION_DENIED": -32001,
    "RESOURCE_EXHAUSTED": -32003,
    "INVALID": INVALID_REQUEST,
    "UNKNOWN": INTERNAL_ERROR,
}
"""What a refusal's code is in JSON-RPC."""
METADATA_BYTES: Final = 64 * 1024
"""Bound of what one answer tells, as JSON."""
_REASON: Final = "Refused by a guardrail"
_REASON_CHARS: Final = 1024
_FIELDS_MAX: Final = 64
_CODE_MAX: Final = 2**31
_KEPT: Final = re.compile(
    rb"(?:mcp-.*|content-.*|accept|accept-encoding|expect|host|last-event-id"
    rb"|authorization|proxy-authorization|cookie)"
)
"""Headers of a call that are the gateway's: what frames it, and credentials, of which backendAuth
says where they come from."""


@final
class BadVerdictError(Exception):
    """An answer that wants something which cannot be done. It refuses, whatever the failure mode:
    to go on would be to ignore what the guard wants."""


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer."""

    changed: Json | None = None
    """`params` or `result` in the place of those that were asked about."""
    refusal: JsonRpcError | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What it tells of a request, for expressions."""
    set_fields: tuple[Field, ...] = ()
    """Headers for servers, in the place of those of the same names."""
    remove_fields: frozenset[bytes] = frozenset()


# --- questions ----------------------------------------------------------------------------------


def request(
    targets: Iterable[str],
    method: str,
    metadata: Mapping[str, Any],
    params: Json,
    headers: Iterable[Field],
) -> bytes:
    """A question about a request."""
    made = pb.Request(
        service_names=targets,
        method=method,
        metadata_context=_struct(metadata),
        mcp_request=orjson.dumps(params),
        headers=[pb.Field(key=name.decode("latin-1"), value=value) for name, value in headers],
    )
    return bytes(made.SerializeToString())


def response(
    targets: Iterable[str], method: str, metadata: Mapping[str, Any], result: Json
) -> bytes:
    """A question about a result."""
    made = pb.Response(
        service_names=targets,
        method=method,
        metadata_context=_struct(metadata),
        mcp_response=orjson.dumps(result),
    )
    return bytes(made.SerializeToString())


def _struct(values: Mapping[str, Any]) -> Struct | None:
    if not values:
        return None
    made = Struct()
    made.update(dict(values))
    return made


# --- answers ------------------------------------------------------------------------------------


def request_verdict(data: bytes) -> Verdict:
    """Read the answer about a request. Raises: UpstreamError, BadVerdictError."""
    try:
        answer = pb.RequestVerdict.FromString(data)
    except DecodeError as error:
        raise unreadable("is no McpRequestResult") from error
    told = _metadata(answer.metadata) if answer.HasField("metadata") else {}
    kind = answer.WhichOneof("result")
    if kind == "error":
        return Verdict(refusal=_refusal(answer.error), metadata=told)
    edit = answer.header_mutation
    added = _set([(one.key, one.value) for one in edit.set])
    gone = frozenset(_field_name(name) for name in edit.remove)
    changed = document(answer.mutated) if kind == "mutated" else None
    if kind is None:
        raise unreadable("says neither pass, mutated nor error")
    return Verdict(changed, None, told, added, gone)


def response_verdict(data: bytes) -> Verdict:
    """Read the answer about a result. Raises: UpstreamError, BadVerdictError."""
    try:
        answer = pb.ResponseVerdict.FromString(data)
    except DecodeError as error:
        raise unreadable("is no McpResponseResult") from error
    kind = answer.WhichOneof("result")
    if kind == "error":
        return Verdict(refusal=_refusal(answer.error))
    if kind is None:
        raise unreadable("says neither pass, mutated nor error")
    return Verdict(document(answer.mutated) if kind == "mutated" else None)


def unreadable(why: str) -> UpstreamError:
    """An answer that decides nothing."""
    return UpstreamError(502, "UpstreamFailure", f"the guard's answer {why}")


def document(raw: bytes) -> Json:
    """Params or a result. Raises: BadVerdictError."""
    try:
        made = None if is_deep(raw) else orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadVerdictError("what it wants instead is not JSON") from error
    if not isinstance(made, dict):
        raise BadVerdictError("what it wants instead is not an object, or nested too deep")
    return made


def refusal(code: str, reason: object, error: object = None) -> JsonRpcError:
    """`code`: of CODES. `error`: a JSON-RPC error in the guard's own words, where it is one."""
    said = reason[:_REASON_CHARS] if isinstance(reason, str) and reason else _REASON
    number, data = CODES.get(code, INTERNAL_ERROR), None
    if isinstance(error, dict):
        given = error.get("code")
        if type(given) is int and -_CODE_MAX <= given < _CODE_MAX:
            number, data = given, error.get("data")
            if isinstance(error.get("message"), str):
                said = error["message"][:_REASON_CHARS]
    return JsonRpcError(number, said, status=200, data=data)


def _refusal(given: pb.Refusal) -> JsonRpcError:
    error: object = None
    if given.HasField("mcp_error") and not is_deep(given.mcp_error):
        try:
            error = orjson.loads(given.mcp_error)
        except orjson.JSONDecodeError:
            error = None
    known = given.code in pb.Refusal.Code.values()
    return refusal(pb.Refusal.Code.Name(given.code) if known else "", given.reason, error)


def _set(given: Iterable[tuple[str, bytes]]) -> tuple[Field, ...]:
    made = []
    for key, raw in given:
        value = fields.checked(raw)
        if value is None:
            raise BadVerdictError("it sets a header to what no header can hold")
        made.append((_field_name(key), value))
    if len(made) > _FIELDS_MAX:
        raise BadVerdictError(f"it sets more than {_FIELDS_MAX} headers")
    return tuple(made)


def set_fields(given: object) -> tuple[Field, ...]:
    """Headers of a JSON answer. Raises: BadVerdictError."""
    if not isinstance(given, dict) or not all(isinstance(one, str) for one in given.values()):
        raise BadVerdictError("its headers are no mapping of texts")
    return _set([(name, value.encode("utf-8", "replace")) for name, value in given.items()])


def _field_name(text: str) -> bytes:
    name = text.encode("utf-8", "replace").lower()
    if not fields.TOKEN.fullmatch(name) or name in fields.FRAMING or _KEPT.fullmatch(name):
        raise BadVerdictError("it changes a header that is the gateway's")
    return name


def _metadata(given: Struct) -> dict[str, Any]:
    return checked_metadata(plain_struct(given))


def checked_metadata(told: dict[str, Any]) -> dict[str, Any]:
    """What an answer tells, in bounds. Raises: BadVerdictError."""
    if len(orjson.dumps(told)) > METADATA_BYTES:
        raise BadVerdictError(f"it tells more than {METADATA_BYTES} bytes of metadata")
    return told
