"""What HTTP says of an MCP message: who may send it, in which form, and how a refusal looks.

Source: spec/mcp_a2a.md sections 1.3, 2.1 (DNS rebinding), 2.4 and 5.2 row 16; spec/config.md
section 6.3; hardening.md cases 42 and 48.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from sidecar import jsonrpc
from sidecar.errors import RequestError, UpstreamError
from sidecar.gateway.mcp_stream import document
from sidecar.http.headers import Headers
from sidecar.http.identity import IdentityError, identity_of
from sidecar.http.message import FixedBody, Request, Response, text_response
from sidecar.jsonrpc import INTERNAL_ERROR, Id, JsonRpcError
from sidecar.mcp.calls import SCOPES
from sidecar.mcp.upstream.base import Refused
from sidecar.policies.mcp_authentication import CHALLENGE

BODY_BYTES: Final = 4 * 1024 * 1024
_LOCAL: Final = frozenset(("localhost", "127.0.0.1", "[::1]", "::1"))
_REBOUND: Final = "MCP DNS rebinding protection: Host/Origin must be localhost, 127.0.0.1, or [::1]"
_CREDENTIALS: Final = frozenset((b"authorization", b"proxy-authorization", b"cookie"))
_OWN: Final = frozenset(
    (
        *(b"mcp-session-id", b"mcp-protocol-version", b"mcp-method", b"mcp-name"),
        *(b"last-event-id", b"accept", b"accept-encoding", b"content-type", b"content-length"),
        *(b"content-encoding", b"expect", b"host"),
    )
)
_OWN_AND_CREDENTIALS: Final = _OWN | _CREDENTIALS
_VERIFIED: Final = ("jwt.rawToken", "apiKey.key")
_SUBJECTS: Final = ("sub", "client_id", "azp", "appid", "cid")
"""Claims that say whose a token is, in this order: those of programs often lack `sub`."""
_KEYS: Final = frozenset((b"api-key", b"x-api-key", b"x-auth-token", b"x-goog-api-key"))
"""Headers that pass to servers as all others do, and mostly say who asks."""
_REASON: Final = "MCP"


def check_origin(request: Request, allowed: frozenset[str] | None, *, is_local_only: bool) -> None:
    """Who may send requests from a browser. Raises: RequestError 403."""
    if is_local_only and not _is_local(request):
        raise RequestError(403, _REASON, _REBOUND)
    if allowed is None:
        return
    for value in request.headers.get_all(b"origin"):
        if value.decode("latin-1").lower() not in allowed:
            raise RequestError(403, _REASON, "this origin is not allowed")


def _is_local(request: Request) -> bool:
    if (
        request.host.lower() not in _LOCAL
        or _host_of(f"//{request.received_authority}") not in _LOCAL
    ):
        return False
    origins = request.headers.get_all(b"origin")
    if len(origins) > 1:
        return False
    return not origins or _host_of(origins[0].decode("latin-1")) in _LOCAL


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def check_post(request: Request) -> None:
    """The form of a message. Raises: RequestError 406 or 415."""
    check_json(request)
    # Fast path: as most clients write it.
    accept = b",".join(request.headers.get_all(b"accept"))
    if accept == b"application/json, text/event-stream":
        return
    if not (_accepts(accept, b"application/json") and _accepts(accept, b"text/event-stream")):
        text = "Accept must have both application/json and text/event-stream"
        raise RequestError(406, _REASON, text)


def check_json(request: Request) -> None:
    """The same where the answer comes elsewhere. Raises: RequestError 415."""
    kind = (request.headers.get(b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise RequestError(415, _REASON, "Content-Type must be application/json")


def check_get(request: Request) -> None:
    """Whether the client reads event streams. Raises: RequestError 406."""
    accept = b",".join(request.headers.get_all(b"accept"))
    if not _accepts(accept, b"text/event-stream"):
        raise RequestError(406, _REASON, "Accept must have text/event-stream")


def _accepts(accept: bytes, wanted: bytes) -> bool:
    kind = wanted.partition(b"/")[0]
    fitting = (wanted, kind + b"/*", b"*/*")
    for item in accept.split(b","):
        media, _, parameters = item.partition(b";")
        if media.strip().lower() in fitting and not _is_refusal(parameters):
            return True
    return False


def _is_refusal(parameters: bytes) -> bool:
    """`q=0` in all its forms."""
    for parameter in parameters.split(b";"):
        name, _, value = parameter.partition(b"=")
        if name.strip().lower() == b"q":
            return not value.strip().strip(b"0.")
    return False


def passed_on(request: Request) -> tuple[Headers, Headers]:
    """The client's headers for servers (see mcp.upstream.base.Outbound), and its credentials:
    those that a policy has verified, and taken out of the request, are among them."""
    headers = request.headers
    kept = Headers([field for field in headers if field[0] not in _OWN_AND_CREDENTIALS])
    own = Headers([field for field in headers if field[0] == b"authorization"])
    if not own:
        for name in _VERIFIED:
            found = request.state.get(name)
            if isinstance(found, str):
                own.append((b"authorization", b"Bearer " + found.encode()))
                break
    return kept, own


def shown(request: Request, *, is_trusted: bool) -> dict[str, str]:
    """What of a client tells servers who it is, and no policy here has looked at: two clients
    that are one to the gateway may be two to them. `is_trusted`: some get its `Authorization`."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in request.headers
        if name in _KEYS or (is_trusted and name == b"authorization")
    }


def proofs(request: Request) -> dict[str, str]:
    """By what kinds of proof it is known who asks, and who that is; empty for nobody."""
    state = request.state
    found: dict[str, str] = {}
    claims = state.get("jwt")
    if claims is not None:
        make = getattr(claims, "cel", None)
        told = make(frozenset(("iss", *_SUBJECTS))) if callable(make) else claims
        if isinstance(told, Mapping):
            found["jwt"] = orjson.dumps([str(told.get("iss")), *_subject(told, state)]).decode()
    key = state.get("apiKey.key")
    if isinstance(key, str):
        found["apiKey"] = key
    user = state.get("basicAuth")
    if isinstance(user, Mapping) and user.get("username"):
        found["basicAuth"] = str(user["username"])
    if request.connection.tls is not None:
        _put_certificate(request, found)
    return found


def _subject(claims: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[str, ...]:
    """Whom a token is of. One that names nobody stands for itself: its holders are not one."""
    for name in _SUBJECTS:
        value = claims.get(name)
        if isinstance(value, str | int) and value != "":
            return (str(value),) if name == "sub" else (name, str(value))
    return "", str(state.get("jwt.rawToken"))


def _put_certificate(request: Request, found: dict[str, str]) -> None:
    try:
        who = identity_of(request.connection)
    except IdentityError as error:
        raise RequestError(403, _REASON, "the client's certificate cannot be read") from error
    if who is not None:
        found["mtls"] = who.spiffe_id or f"{who.issuer}\n{who.subject}"


# --- refusals -----------------------------------------------------------------------------------


def refusal(error: JsonRpcError, request: Request) -> Response:
    """A message that is not served, as an answer to it."""
    message = jsonrpc.error(error.identity, error.code, str(error), error.data)
    response = document(message, error.status)
    response.error = str(error)
    if error.status == 403 and isinstance(error.data, dict) and SCOPES in error.data:
        scopes = " ".join(error.data[SCOPES])
        value = f'Bearer error="insufficient_scope", scope="{scopes}"'
        metadata = request.state.get(CHALLENGE)
        if isinstance(metadata, str):
            value = f"{value}, {metadata}"
        response.headers.append((b"www-authenticate", value.encode("latin-1", "replace")))
    return response


def failed(error: UpstreamError, identity: Id | None) -> Response:
    """A server that cannot be had."""
    message = jsonrpc.error(identity, INTERNAL_ERROR, str(error))
    response = document(message, error.status)
    response.reason = error.code
    response.error = str(error)
    return response


LIMITED: Final = -32003
"""As guards say that something is exhausted."""


def limited(error: RequestError, identity: Id | None) -> Response:
    """A message that exceeds a limit, or whose limit cannot be asked."""
    response = document(jsonrpc.error(identity, LIMITED, str(error)), error.status)
    response.headers.extend(error.headers)
    response.reason = error.code
    response.error = str(error)
    return response


_KEPT: Final = frozenset((b"content-type", b"www-authenticate", b"retry-after"))


def refused(error: Refused) -> Response:
    """What a server refused, in its own words."""
    headers = Headers([field for field in error.headers if field[0] in _KEPT])
    return Response(error.status, headers, FixedBody(error.body))


def no_session(status: int, identity: Id | None = None) -> Response:
    """400: the message names no session; 404: it names none that there is."""
    text = "Bad Request: Mcp-Session-Id is missing" if status == 400 else "Session not found"
    return document(jsonrpc.error(identity, -32600 if status == 400 else -32001, text), status)


def not_allowed(allow: bytes) -> Response:
    """405."""
    headers = Headers(((b"allow", allow),))
    return text_response(405, "method not allowed", reason=_REASON, headers=headers)
