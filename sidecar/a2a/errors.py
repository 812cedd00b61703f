"""The gateway's own errors, in the form that each binding has for them.

Source: A2A 1.0 sections 5.4, 9.5, 10.6 and 11.6; spec/mcp_a2a.md section 3.2.

JSON-RPC gets an error object with `google.rpc.ErrorInfo` in its data, REST a `google.rpc.Status`,
gRPC a status code. The reasons of A2A's own errors belong to `a2a-protocol.org`; others are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

import orjson

from sidecar import jsonrpc

DOMAIN: Final = "a2a-protocol.org"
OWN_DOMAIN: Final = "agentgateway.dev"
_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"


@final
@dataclass(frozen=True, slots=True)
class Kind:
    """One error in all its forms."""

    reason: str
    json_rpc: int
    http: int
    grpc: int
    grpc_name: str
    domain: str = DOMAIN


_INVALID, _PRECONDITION = (3, "INVALID_ARGUMENT"), (9, "FAILED_PRECONDITION")
PARSE: Final = Kind("JSON_PARSE_ERROR", jsonrpc.PARSE_ERROR, 400, *_INVALID)
INVALID_REQUEST: Final = Kind("INVALID_REQUEST", jsonrpc.INVALID_REQUEST, 400, *_INVALID)
INVALID_PARAMS: Final = Kind("INVALID_PARAMS", jsonrpc.INVALID_PARAMS, 400, *_INVALID)
NO_PUSH: Final = Kind("PUSH_NOTIFICATION_NOT_SUPPORTED", -32003, 400, *_PRECONDITION)
VERSION: Final = Kind("VERSION_NOT_SUPPORTED", -32009, 400, *_PRECONDITION)

BAD_AGENT: Final = Kind("INVALID_AGENT_RESPONSE", -32006, 502, 13, "INTERNAL")

_OF_CODE: Final = {kind.json_rpc: kind for kind in (PARSE, INVALID_REQUEST, INVALID_PARAMS)}
_GRPC_OF_STATUS: Final = {
    400: _INVALID,
    401: (16, "UNAUTHENTICATED"),
    403: (7, "PERMISSION_DENIED"),
    404: (5, "NOT_FOUND"),
    409: (10, "ABORTED"),
    413: (8, "RESOURCE_EXHAUSTED"),
    429: (8, "RESOURCE_EXHAUSTED"),
    499: (1, "CANCELLED"),
    501: (12, "UNIMPLEMENTED"),
    502: (14, "UNAVAILABLE"),
    503: (14, "UNAVAILABLE"),
    504: (4, "DEADLINE_EXCEEDED"),
}
_SERVER_ERROR: Final = 500


def of_code(code: int) -> Kind:
    """The kind of a JSON-RPC code that a body is refused with."""
    return _OF_CODE.get(code, INVALID_REQUEST)


def of_status(status: int, code: str) -> Kind:
    """What an HTTP status of the gateway's own means. `code`: its reason, as in metrics."""
    is_ours = status >= _SERVER_ERROR
    number, name = _GRPC_OF_STATUS.get(
        status, (13, "INTERNAL") if is_ours else (9, "FAILED_PRECONDITION")
    )
    json_rpc = jsonrpc.INTERNAL_ERROR if is_ours else jsonrpc.INVALID_REQUEST
    return Kind(_upper(code), json_rpc, status, number, name, OWN_DOMAIN)


def _upper(code: str) -> str:
    """`RATE_LIMIT` of `RateLimit`: ErrorInfo wants upper snake case."""
    parts = [f"_{one}" if one.isupper() and index else one for index, one in enumerate(code)]
    return "".join(parts).upper().replace("-", "_")


def _info(kind: Kind) -> dict[str, Any]:
    return {"@type": _ERROR_INFO, "reason": kind.reason, "domain": kind.domain, "metadata": {}}


def json_rpc(kind: Kind, message: str, identity: jsonrpc.Id | None) -> bytes:
    """An answer of JSON-RPC."""
    return orjson.dumps(jsonrpc.error(identity, kind.json_rpc, message, [_info(kind)]))


def rest(kind: Kind, message: str) -> bytes:
    """A status of REST."""
    status = {
        "code": kind.http,
        "status": kind.grpc_name,
        "message": message,
        "details": [_info(kind)],
    }
    return orjson.dumps({"error": status})
