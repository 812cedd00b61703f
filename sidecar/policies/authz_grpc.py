"""Envoy's authorization protocol: what is asked of a request, and what the answer means.

Source: envoy.service.auth.v3, whose numbers are in `_pb/ext_authz.proto`; spec/config.md section
3.8.

The gateway's own rules over that protocol: an answer may set any header of the request but those
that frame it, name its host or tell where it came from; one that wants more is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, final
from urllib.parse import quote

from google.protobuf.message import DecodeError

from sidecar.config.model.questions import ExtAuthzGrpc, IncludeBody
from sidecar.errors import ConfigError, UpstreamError
from sidecar.http.headers import Field, Headers
from sidecar.http.identity import IdentityError, identity_of, pem
from sidecar.http.message import Connection, Request, Response
from sidecar.policies import fields
from sidecar.policies._pb import envoy_pb2 as envoy
from sidecar.policies._pb import ext_authz_pb2 as pb
from sidecar.policies.authz import (
    ALLOWED_ANYHOW,
    TIMEOUT_SECONDS,
    Allowed,
    Decision,
    Denied,
)
from sidecar.policies.base import Services
from sidecar.policies.callouts import Callout
from sidecar.policies.expressions import Expression, shared_plan
from sidecar.policies.mutation import (
    APPEND,
    FIELDS_MAX,
    OVERWRITE,
    TRUST,
    BadAnswerError,
    Mutation,
    Option,
    field_values,
    options,
    plain,
    removals,
    struct,
)
from sidecar.policies.pseudo import target_of
from sidecar.policies.schema import child

PATH: Final = "/envoy.service.auth.v3.Authorization/Check"
_OK: Final = 0
_KEPT: Final = TRUST | {b"host", ALLOWED_ANYHOW}
_UNTOLD: Final = fields.FRAMING | {b"host"}
_JWT: Final = "envoy.filters.http.jwt_authn"
_PSEUDO: Final[dict[bytes, Callable[[Request], str]]] = {
    b":method": lambda request: request.method,
    b":path": target_of,
    b":authority": lambda request: request.authority,
    b":scheme": lambda request: request.scheme,
}


@final
class GrpcService:
    """One service. Raises: ConfigError with a path below the policy."""

    __slots__ = (
        "_callout",
        "_context",
        "_fields",
        "_is_bytes",
        "_metadata",
        "_plan",
        "_services",
        "needs_body",
        "owned",
    )

    def __init__(
        self,
        config: ExtAuthzGrpc,
        included: Iterable[str],
        body: IncludeBody | None,
        callout: Callout,
        services: Services,
    ) -> None:
        self._callout = callout
        self._services = services
        self.owned = frozenset((ALLOWED_ANYHOW,))
        self._context = dict(config.context or {})
        self._is_bytes = body is not None and body.pack_as_bytes
        self._fields = _selected(included)
        metadata = config.metadata
        self._metadata = (
            None
            if metadata is None
            else [
                (key, Expression(source, services, child("protocol.grpc.metadata", key)))
                for key, source in metadata.items()
            ]
        )
        expressions = [one for _, one in self._metadata or ()]
        self._plan = shared_plan(expressions)
        self.needs_body = any(one.needs_request_body for one in expressions)

    async def ask(
        self, request: Request, body: bytes | None, *, is_cut: bool
    ) -> tuple[Decision, None]:
        """What the service says. `body`: what is sent of it; None: nothing.

        Raises: UpstreamError when it says nothing, BadAnswerError, RequestError.
        """
        question = self._question(request, body)
        data = await self._callout.unary(PATH, question, TIMEOUT_SECONDS, request)
        return decision(data), None

    def redirected(self, request: Request, denied: Denied, answer: Response | None) -> Denied:
        """The service's own answer says where to go."""
        return denied

    @staticmethod
    def is_kept(decision: Decision) -> bool:
        """Whether a cache may keep it."""
        return True

    def _question(self, request: Request, body: bytes | None) -> bytes:
        connection = request.connection
        received = pb.Received(http=self._http(request, body))
        received.time.FromNanoseconds(self._services.clock.time_ns())
        made = pb.Attributes(
            source=_peer(connection),
            destination=_address(connection.local_host, connection.local_port),
            request=received,
            context_extensions=self._context,
            metadata_context=self._told(request),
        )
        if connection.tls is not None:
            made.tls_session.sni = connection.tls.sni
        return bytes(pb.CheckRequest(attributes=made).SerializeToString())

    def _http(self, request: Request, body: bytes | None) -> pb.HttpRequest:
        selected = self._selected(request)
        length = request.body.length
        made = pb.HttpRequest(
            method=request.method,
            headers=_joined(selected),
            path=target_of(request).encode("latin-1").decode("utf-8", "replace"),
            host=request.authority,
            scheme=request.scheme,
            size=-1 if length is None else length,
            protocol="HTTP/2" if request.version == "HTTP/2.0" else request.version,
        )
        if not all(value.isascii() for _, value in selected) and not _is_text(selected):
            # Text cannot tell what these octets are.
            made.header_map.headers.extend(field_values(selected))
        if body and self._is_bytes:
            made.raw_body = body
        elif body:
            made.body = body.decode("utf-8", "replace")
        return made

    def _selected(self, request: Request) -> list[Field]:
        pseudo = [(name, get(request).encode("latin-1")) for name, get in _PSEUDO.items()]
        every = [*pseudo, *request.headers]
        if self._fields is None:
            return every
        return [one for one in every if one[0] in self._fields]

    def _told(self, request: Request) -> envoy.Metadata | None:
        if self._metadata is None:
            claims = request.state.get("jwt")
            if not isinstance(claims, dict):
                return None
            return envoy.Metadata(filter_metadata={_JWT: struct({"jwt_payload": claims})})
        variables = self._plan.activation(request)
        values = ((name, one.value_in(variables)) for name, one in self._metadata)
        told: dict[str, Any] = {
            name: struct(value) for name, value in values if isinstance(value, dict)
        }
        return envoy.Metadata(filter_metadata=told) if told else None


def _selected(included: Iterable[str]) -> frozenset[bytes] | None:
    """Names that are sent; None for all."""
    names = list(included)
    if not names:
        return None
    made: set[bytes] = set()
    for index, text in enumerate(names):
        path = f"includeRequestHeaders[{index}]"
        lowered = text.lower().encode()
        if text.startswith(":") and lowered not in _PSEUDO:
            raise ConfigError(path, "unknown pseudo header")
        made.add(lowered if lowered in _PSEUDO else fields.settable_name(text, path))
    # The authority stands for the Host field.
    if b"host" in made:
        made = (made - {b"host"}) | {b":authority"}
    return frozenset(made)


def _joined(selected: Iterable[Field]) -> dict[str, str]:
    """Fields as text, those of a name in one (RFC 9110 section 5.3, RFC 6265 section 5.4)."""
    made: dict[str, str] = {}
    for name, value in selected:
        key, text = name.decode("latin-1"), value.decode("utf-8", "replace")
        before = made.get(key)
        joint = "; " if name == b"cookie" else ","
        made[key] = text if before is None else f"{before}{joint}{text}"
    return made


def _is_text(selected: Iterable[Field]) -> bool:
    try:
        for _, value in selected:
            value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _address(host: str, port: int) -> pb.Peer:
    address = pb.Address(socket_address=pb.SocketAddress(address=host, port_value=port))
    return pb.Peer(address=address)


def _peer(connection: Connection) -> pb.Peer:
    """Who connected. A certificate that cannot be read names nobody."""
    made = _address(connection.peer_host, connection.peer_port)
    try:
        who = identity_of(connection)
        if who is not None and connection.tls is not None:
            names = sorted(who.subject_alt_names, key=lambda name: "://" not in name)
            made.principal = who.spiffe_id or (names[0] if names else who.subject)
            made.certificate = quote(pem(connection.tls.peer_certificate or b""), safe="")
    except IdentityError:
        return _address(connection.peer_host, connection.peer_port)
    return made


# --- answers ------------------------------------------------------------------------------------


def decision(data: bytes) -> Decision:
    """Read a CheckResponse. Raises: UpstreamError, BadAnswerError."""
    try:
        answer = pb.CheckResponse.FromString(data)
    except DecodeError as error:
        text = "the authorization service's answer is no CheckResponse"
        raise UpstreamError(502, "UpstreamFailure", text) from error
    told = plain(answer.dynamic_metadata)
    kind = answer.WhichOneof("http_response")
    if kind is None and not answer.HasField("status"):
        text = "the authorization service's answer decides nothing"
        raise UpstreamError(502, "UpstreamFailure", text)
    if answer.status.code != _OK:
        return _denied(answer, told)
    if kind == "denied_response":
        raise BadAnswerError("it allows and denies")
    return _allowed(answer.ok_response, told)


def _allowed(given: pb.Ok, told: dict[str, Any]) -> Allowed:
    many = (given.query_parameters_to_set, given.query_parameters_to_remove)
    if any(len(one) > FIELDS_MAX for one in many):
        raise BadAnswerError(f"it changes more than {FIELDS_MAX} query parameters")
    return Allowed(
        Mutation(options(given.headers, _KEPT), removals(given.headers_to_remove)),
        owned=frozenset((ALLOWED_ANYHOW,)),
        told=_told(options(given.response_headers_to_add, frozenset((b"host",)))),
        query_set=tuple((one.key, one.value) for one in given.query_parameters_to_set),
        query_removed=frozenset(given.query_parameters_to_remove),
        metadata={**plain(given.dynamic_metadata), **told},
    )


def _told(given: tuple[Option, ...]) -> tuple[Option, ...]:
    """Fields of a response: cookies stand beside each other (RFC 6265 section 3)."""
    return tuple(
        (APPEND if one[1] == b"set-cookie" and one[0] == OVERWRITE else one[0], *one[1:])
        for one in given
    )


def _denied(answer: pb.CheckResponse, told: dict[str, Any]) -> Denied:
    if answer.WhichOneof("http_response") != "denied_response":
        return Denied(metadata=told)
    given = answer.denied_response
    status = given.status.code
    headers = Headers()
    try:
        told_client = options(given.headers, frozenset(), skipped=_UNTOLD)
        Mutation(_told(told_client)).set_in(headers, twins=False)
    except BadAnswerError:
        # Denied it is; what cannot be said goes unsaid.
        headers.clear()
    return Denied(
        status if 200 <= status <= 599 else 403,
        tuple(headers),
        given.body,
        told,
    )
