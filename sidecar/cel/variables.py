"""Builds the variables of an expression from a request and a response: those it names, no others.

Source: spec/config.md sections 7.2, 7.5 and 7.6.

What policies learn is read from `request.state` under the variable's own name (`jwt`, `llm`,
`backend`, `metadata`, …): a dict, or an object with `cel(names)`. Beside those:
`jwt.rawToken` and `apiKey.key` (str, the secrets), `path` (the canonical path, once the router has
it), `endTime` (datetime), `sensitive_headers` (lower-case names of fields that policies inserted).
Of a connection's `extra`: `connectHeaders` (a header list), `workload` (dict), `hostname` (str).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Final, Protocol, TypeVar, cast, final

import orjson

from sidecar.cel.analysis import Path, names
from sidecar.cel.context import Context
from sidecar.cel.engine import Program
from sidecar.cel.headers_view import ALWAYS_SENSITIVE, HeaderView, QueryText
from sidecar.cel.ops import EPOCH
from sidecar.cel.values import MISSING, Secret, Unavailable
from sidecar.http.headers import Headers
from sidecar.http.identity import IdentityError, PeerIdentity, identity_of, pem
from sidecar.http.message import Connection, FixedBody, Request, Response


class Fields(Protocol):
    """A variable kept as an object, that makes its fields when they are asked for."""

    def cel(self, wanted: frozenset[str] | None) -> Mapping[str, object]:
        """At least the fields of these names that exist; all of them when None."""


@final
class Plan:
    """What to build for one program, or for several that share an activation.

    `needs_request_body`, `needs_response_body`: the body must be a FixedBody by then; where it is
    not, because it was too large, reading it is an evaluation error that `default` does not catch.
    """

    __slots__ = (
        "_context",
        "_destination",
        "_fields",
        "_request",
        "_response",
        "_roots",
        "_sensitive",
        "_source",
        "needs_request_body",
        "needs_response_body",
    )

    def __init__(self, programs: Program | Iterable[Program]) -> None:
        every = [programs] if isinstance(programs, Program) else list(programs)
        paths = frozenset[Path]().union(*(program.paths for program in every))
        self.needs_request_body = any(program.needs_request_body for program in every)
        self.needs_response_body = any(program.needs_response_body for program in every)
        self._context = every[0].context if every else Context()
        self._sensitive = ALWAYS_SENSITIVE.union(*(one.sensitive_headers for one in every))
        self._request = _wanted(paths, "request", _REQUEST)
        self._response = _wanted(paths, "response", _RESPONSE)
        self._source = _wanted(paths, "source", _SOURCE)
        self._destination = _wanted(paths, "destination", _DESTINATION)
        roots = [root for root in _STATE if any(path[0] == root for path in paths)]
        self._roots = [(root, _secret_of(paths, root)) for root in roots]
        self._fields = {root: _fields_of(paths, root) for root in roots}
        if any(path[0] == "env" for path in paths):
            self._roots.append(("env", None))

    @property
    def context(self) -> Context:
        """That of the programs' engine."""
        return self._context

    def activation(self, request: Request, response: Response | None = None) -> dict[str, object]:
        """The variables. Raises RequestError when `request.path` is named and is ambiguous."""
        built: dict[str, object] = {}
        if self._request:
            built["request"] = {
                name: value
                for name, get in self._request
                if (value := get(request, self)) is not MISSING
            }
        if self._response and response is not None:
            built["response"] = {
                name: value
                for name, get in self._response
                if (value := get(request, response, self)) is not MISSING
            }
        if self._source:
            built["source"] = _connection_fields(self._source, request.connection)
        if self._destination:
            built["destination"] = _connection_fields(self._destination, request.connection)
        for root, secret in self._roots:
            value = self._state(request, root, secret)
            if value is not MISSING:
                built[root] = value
        return built

    def _state(self, request: Request, root: str, secret: str | None) -> object:
        if root == "env":
            return dict(self._context.env)
        value = request.state.get(root, MISSING)
        if value is MISSING and root == "llmRequest":
            value = _json_object(request)
        if value is MISSING:
            return value
        if type(value) is not dict:
            # Not isinstance(value, Fields): that costs a microsecond.
            make = getattr(value, "cel", None)
            if callable(make):
                value = dict(cast("Fields", value).cel(self._fields[root]))
            elif isinstance(value, Mapping):
                value = dict(value)
        if secret is None or not isinstance(value, dict):
            return value
        content = request.state.get(f"{root}.{secret}")
        # Never the claim of that name: a token could carry one to pass for itself.
        kept = {key: held for key, held in value.items() if key != secret}
        return {**kept, secret: Secret(content)} if isinstance(content, str) else kept

    def headers(self, request: Request, fields: Headers) -> HeaderView:
        """A view of a header list that knows what is sensitive."""
        extra = request.state.get("sensitive_headers")
        sensitive = self._sensitive
        if isinstance(extra, set | frozenset):
            sensitive = sensitive | cast("frozenset[bytes]", extra)
        return HeaderView(fields, sensitive)


def activation(
    request: Request, response: Response | None = None, *, needs: Plan
) -> dict[str, object]:
    """See Plan.activation."""
    return needs.activation(request, response)


_Get = TypeVar("_Get")


def _wanted(
    paths: frozenset[Path], root: str, getters: Mapping[str, _Get]
) -> list[tuple[str, _Get]]:
    return [(name, get) for name, get in getters.items() if names(paths, root, name)]


def _fields_of(paths: frozenset[Path], root: str) -> frozenset[str] | None:
    """The fields of a root that are named; None when it is used as a whole."""
    own = [path for path in paths if path[0] == root]
    return None if any(len(path) == 1 for path in own) else frozenset(path[1] for path in own)


_SECRETS: Final = {"jwt": "rawToken", "apiKey": "key"}


def _secret_of(paths: frozenset[Path], root: str) -> str | None:
    """The field of a root that holds a secret, if the paths may read it."""
    secret = _SECRETS.get(root)
    return secret if secret is not None and names(paths, root, secret) else None


def _body(message: Request | Response) -> bytes | Unavailable:
    """The whole body, which stays where it is."""
    body = message.body
    if type(body) is not FixedBody:
        return Unavailable("the body is not held whole; it may be past the buffer limit")
    data = body.read_nowait() or b""
    message.body = FixedBody(data, body.trailers)
    return data


def _json_object(request: Request) -> object:
    """`llmRequest` before the model gateway has read it: the body, if it is a JSON object."""
    body = request.body
    if type(body) is not FixedBody or request.headers.has(b"content-encoding"):
        return MISSING
    try:
        value = orjson.loads(body.unread)
    except orjson.JSONDecodeError:
        return MISSING
    return value if isinstance(value, dict) else MISSING


def _path(request: Request, plan: Plan) -> object:
    path = request.state.get("path")
    return path if isinstance(path, str) else plan.context.canonical_path(request.target)


def _start_time(request: Request, plan: Plan) -> object:
    offset = plan.context.wall_minus_monotonic_ns
    if offset is None:
        return MISSING
    return EPOCH + timedelta(microseconds=(request.started_ns + offset) // 1000)


def _uri(request: Request, plan: Plan) -> object:
    return QueryText(f"{request.scheme}://{request.authority}{request.target}")


_REQUEST: Final[dict[str, Callable[[Request, Plan], object]]] = {
    "method": lambda request, plan: request.method,
    "uri": _uri,
    "host": lambda request, plan: request.host,
    "scheme": lambda request, plan: request.scheme,
    "path": _path,
    "pathAndQuery": lambda request, plan: QueryText(request.target),
    "version": lambda request, plan: request.version,
    "headers": lambda request, plan: plan.headers(request, request.headers),
    "body": lambda request, plan: _body(request),
    "bodyPrefix": lambda request, plan: _body(request),
    "startTime": _start_time,
    "endTime": lambda request, plan: request.state.get("endTime", MISSING),
}


def _grpc_status(request: Request, response: Response, plan: Plan) -> object:
    value = response.headers.get(b"grpc-status")
    if value is None and response.body.trailers is not None:
        value = response.body.trailers.get(b"grpc-status")
    return int(value) if value is not None and value.isdigit() and len(value) <= 3 else MISSING


_RESPONSE: Final[dict[str, Callable[[Request, Response, Plan], object]]] = {
    "code": lambda request, response, plan: response.status,
    "grpcStatus": _grpc_status,
    "headers": lambda request, response, plan: plan.headers(request, response.headers),
    "body": lambda request, response, plan: _body(response),
    "bodyPrefix": lambda request, response, plan: _body(response),
}

REQUEST_FIELDS: Final = frozenset(_REQUEST)
RESPONSE_FIELDS: Final = frozenset(_RESPONSE)

_Getter = Callable[[Connection], object]


def _connection_fields(
    wanted: list[tuple[str, _Getter]], connection: Connection
) -> dict[str, object]:
    return {name: value for name, get in wanted if (value := get(connection)) is not MISSING}


def _workload(who: PeerIdentity) -> object:
    if who.trust_domain is None:
        return None
    return {
        "trustDomain": who.trust_domain,
        "namespace": who.namespace,
        "serviceAccount": who.service_account,
    }


_OF_CERTIFICATE: Final[dict[str, Callable[[PeerIdentity], object]]] = {
    "identity": _workload,
    "spiffeId": lambda who: who.spiffe_id,
    "subjectAltNames": lambda who: list(who.subject_alt_names),
    "issuer": lambda who: who.issuer,
    "subject": lambda who: who.subject,
    "subjectCn": lambda who: who.subject_cn,
}


def _of_certificate(get: Callable[[PeerIdentity], object]) -> _Getter:
    """A field that is absent without a certificate, or with one that cannot be read."""

    def field(connection: Connection) -> object:
        try:
            who = identity_of(connection)
        except IdentityError:
            return MISSING
        value = None if who is None else get(who)
        return MISSING if value is None else value

    return field


def _certificate(connection: Connection) -> object:
    der = connection.tls.peer_certificate if connection.tls is not None else None
    try:
        return MISSING if der is None else pem(der)
    except IdentityError:
        return MISSING


def _connect_headers(connection: Connection) -> object:
    fields = connection.extra.get("connectHeaders")
    return HeaderView(fields if isinstance(fields, Headers) else Headers())


def _hostname(connection: Connection) -> object:
    name = connection.extra.get("hostname") or (connection.tls.sni if connection.tls else "")
    return name or MISSING


_SOURCE: Final[dict[str, _Getter]] = {
    "address": lambda connection: connection.peer_host,
    "port": lambda connection: connection.peer_port,
    "rawAddress": lambda connection: connection.raw_peer_host or connection.peer_host,
    "rawPort": lambda connection: connection.raw_peer_port or connection.peer_port,
    **{name: _of_certificate(get) for name, get in _OF_CERTIFICATE.items()},
    "certificate": _certificate,
    "unverifiedWorkload": lambda connection: connection.extra.get("workload", MISSING),
    "connectHeaders": _connect_headers,
}
_DESTINATION: Final[dict[str, _Getter]] = {
    "address": lambda connection: connection.local_host,
    "port": lambda connection: connection.local_port,
    "hostname": _hostname,
}
_STATE: Final = (
    "proxy",
    "jwt",
    "apiKey",
    "basicAuth",
    "llm",
    "llmRequest",
    "mcp",
    "a2a",
    "backend",
    "extauthz",
    "extproc",
    "mcpGuardrails",
    "metadata",
)
