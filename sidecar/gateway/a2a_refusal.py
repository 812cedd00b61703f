"""How the gateway refuses an A2A call: in the form of the call's own binding.

Source: spec/mcp_a2a.md section 3.2 (errors); A2A 1.0 sections 5.4, 9.5, 10.6 and 11.6.
"""

from __future__ import annotations

from typing import Final, final
from urllib.parse import quote

from sidecar.a2a import errors
from sidecar.a2a.errors import Kind
from sidecar.a2a.methods import Binding
from sidecar.errors import RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.jsonrpc import Id
from sidecar.policies.a2a import CALL, REFUSED, BadCallError, Call, head_of

_JSON: Final = (b"content-type", b"application/json")
_MESSAGE_SAFE: Final = " !#$&'()*+,-./:;<=>?@[]^_`{|}~"


def refusal(
    binding: Binding, identity: Id | None, kind: Kind, message: str, reason: str
) -> Response:
    """An answer that is an error of the protocol. `reason`: as metrics have it."""
    if binding == "GRPC":
        fields = (
            (b"content-type", b"application/grpc"),
            (b"grpc-status", b"%d" % kind.grpc),
            (b"grpc-message", quote(message, safe=_MESSAGE_SAFE).encode()),
        )
        response = Response(200, Headers(fields), FixedBody(), reason=reason)
    elif binding == "JSONRPC":
        # What went wrong is said by the error object: to HTTP the call was answered.
        body = errors.json_rpc(kind, message, identity)
        response = Response(200, Headers((_JSON,)), FixedBody(body), reason=reason)
    else:
        body = errors.rest(kind, message)
        response = Response(kind.http, Headers((_JSON,)), FixedBody(body), reason=reason)
    response.error = message
    return response


@final
class A2aErrors:
    """See plan.ErrorShape: refusals of policies, limits and dead agents."""

    __slots__ = ()

    def __call__(self, request: Request, status: int, message: str, code: str) -> bytes | None:
        """See there. They keep their HTTP status, which clients and proxies act on."""
        call, bad = request.state.get(CALL), request.state.get(REFUSED)
        identity: Id | None = None
        if isinstance(call, Call):
            binding, identity = call.binding, call.details.identity
        else:
            try:
                binding = head_of(request).binding
            except RequestError:
                # The refusal is of this very path.
                return None
        kind = errors.of_status(status, code)
        if isinstance(bad, BadCallError):
            kind, identity = errors.of_code(bad.json_rpc), bad.identity
        if binding == "JSONRPC":
            return errors.json_rpc(kind, message, identity)
        return errors.rest(kind, message) if binding == "HTTP+JSON" else None
