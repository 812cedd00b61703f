"""External processing: its configuration, what a processor is sent, what its answers may change.

Source: spec/config.md section 3.9; spec/k8s-extproc-fields.txt; envoy.service.ext_proc.v3, whose
numbers are in `_pb/ext_proc.proto`; hardening cases 17 and 36 to 39.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, final
from urllib.parse import quote

from pydantic import Field

from sidecar.config.model.questions import ProcessingOptions
from sidecar.errors import RequestError
from sidecar.http.headers import Field as HeaderField
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies import fields, pseudo
from sidecar.policies._pb import envoy_pb2 as envoy
from sidecar.policies._pb import ext_proc_pb2 as pb
from sidecar.policies.callouts import CalloutConfig
from sidecar.policies.mutation import (
    FIELDS_MAX,
    TRUST,
    BadAnswerError,
    Mutation,
    field_values,
    name,
    options,
    removals,
)
from sidecar.routing import canonical

PATH: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
REASON: Final = "ExtProc"
ATTRIBUTES: Final = "envoy.filters.http.ext_proc"
INITIAL_METADATA: Final = "agentgateway.dev.grpc_initial_metadata"
"""Name space of `metadataContext` that becomes metadata of the gRPC call."""

NONE, STREAMED = pb.NONE, pb.STREAMED
BUFFERED, BUFFERED_PARTIAL = pb.BUFFERED, pb.BUFFERED_PARTIAL
DUPLEX = pb.FULL_DUPLEX_STREAMED
_BODY_MODES: Final = {
    "none": NONE,
    "buffered": BUFFERED,
    "bufferedPartial": BUFFERED_PARTIAL,
    "fullDuplexStreamed": DUPLEX,
}
_LENGTH: Final = frozenset((b"content-length",))
_KEPT: Final = TRUST | {b"host"}
_GRPC: Final = b"application/grpc"


class Processing(CalloutConfig):
    """One processor and what it is sent."""

    failure_mode: Literal["failClosed", "failOpen"] = "failClosed"
    """When the processor fails before a body has begun: 500, or the message goes on as it is."""
    metadata_context: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Name space → name → CEL. Default: none."""
    request_attributes: dict[str, str] = Field(default_factory=dict)
    """Name → CEL, sent with the first message of a request. Default: none."""
    response_attributes: dict[str, str] = Field(default_factory=dict)
    """Name → CEL, sent with the first message of a response. Default: none."""
    processing_options: ProcessingOptions = Field(default_factory=ProcessingOptions)
    """Default: everything, bodies as they come."""


@final
@dataclass(frozen=True, slots=True)
class Side:
    """One direction: how its headers, body and trailers are processed."""

    headers: bool
    body: int
    """A BodyMode."""
    trailers: bool


def sides(config: ProcessingOptions) -> tuple[Side, Side]:
    """The modes of requests and of responses."""
    return (
        Side(
            config.request_header_mode == "send",
            _BODY_MODES[config.request_body_mode],
            config.request_trailer_mode == "send",
        ),
        Side(
            config.response_header_mode == "send",
            _BODY_MODES[config.response_body_mode],
            config.response_trailer_mode == "send",
        ),
    )


def overridden(request: Side, response: Side, given: pb.Modes) -> tuple[Side, Side]:
    """The modes after an answer that changes them. A body mode always counts, as NONE is 0."""
    return (
        replace(
            request,
            body=_mode(given.request_body_mode),
            trailers=_sends(given.request_trailer_mode, request.trailers),
        ),
        Side(
            _sends(given.response_header_mode, response.headers),
            _mode(given.response_body_mode),
            _sends(given.response_trailer_mode, response.trailers),
        ),
    )


def _mode(given: int) -> int:
    if given not in (NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, DUPLEX):
        raise BadAnswerError("it wants a body mode that is not known")
    return given


def _sends(given: int, otherwise: bool) -> bool:
    return otherwise if given == pb.DEFAULT else given == pb.SEND


# --- what is sent -------------------------------------------------------------------------------


def request_fields(request: Request) -> envoy.HeaderMap:
    """Headers of a request, pseudo headers first. Raises: RequestError 400."""
    pairs = (
        (b":method", request.method),
        (b":scheme", request.scheme),
        (b":authority", request.authority),
        (b":path", pseudo.target_of(request)),
    )
    first = ((key, value.encode("latin-1")) for key, value in pairs)
    return envoy.HeaderMap(headers=field_values((*first, *request.headers)))


def response_fields(response: Response) -> envoy.HeaderMap:
    """Headers of a response, its status first."""
    first = (b":status", b"%d" % response.status)
    return envoy.HeaderMap(headers=field_values((first, *response.headers)))


def trailer_fields(trailers: Iterable[HeaderField]) -> envoy.HeaderMap:
    """Trailers."""
    return envoy.HeaderMap(headers=field_values(trailers))


# --- what is changed ----------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class HeaderEdit:
    """A header mutation, read and checked as a whole."""

    mutation: Mutation
    pseudo: tuple[tuple[str, bytes], ...] = ()

    def apply_to_request(self, request: Request) -> None:
        """Change the request's head."""
        headers = request.headers = request.headers.copy()
        self.mutation.remove_in(headers, twins=True)
        self.mutation.set_in(headers, twins=True)
        for key, value in self.pseudo:
            pseudo.REQUEST[key](request, None, value)

    def apply_to_response(self, request: Request, response: Response) -> None:
        """Change the response's head."""
        headers = response.headers = response.headers.copy()
        self.mutation.remove_in(headers, twins=False)
        self.mutation.set_in(headers, twins=False)
        for key, value in self.pseudo:
            pseudo.RESPONSE[key](request, response, value)

    def apply_to_trailers(self, trailers: Headers) -> Headers:
        """Changed trailers."""
        made = trailers.copy()
        self.mutation.remove_in(made, twins=False)
        self.mutation.set_in(made, twins=False)
        return made


def edit(given: pb.HeaderMutation, checks: Mapping[str, Any], kept: frozenset[bytes]) -> HeaderEdit:
    """Read a mutation. `checks`: pseudo header → whether a value will do. Raises: BadAnswerError.

    `content-length` is passed by: it is the gateway's to count.
    """
    plain: list[envoy.HeaderValueOption] = []
    special: list[tuple[str, bytes]] = []
    for one in given.set_headers:
        key = one.header.key.lower()
        if not key.startswith(":"):
            plain.append(one)
            continue
        value = one.header.raw_value or one.header.value.encode()
        check = checks.get(key)
        if check is None or not check(value):
            raise BadAnswerError("it sets a pseudo header to what it cannot be")
        special.append((key, value))
    made = Mutation(options(plain, kept, skipped=_LENGTH), removals(given.remove_headers))
    return HeaderEdit(made, tuple(special))


def request_edit(given: pb.HeaderMutation) -> HeaderEdit:
    """See `edit`."""
    return edit(given, _REQUEST_CHECKS, _KEPT)


def response_edit(given: pb.HeaderMutation) -> HeaderEdit:
    """See `edit`."""
    return edit(given, _RESPONSE_CHECKS, frozenset())


def trailers_edit(given: pb.HeaderMutation) -> HeaderEdit:
    """See `edit`. What a trailer may not be is refused."""
    return edit(given, {}, _NO_TRAILERS)


_NO_TRAILERS: Final = frozenset(
    (b"host", b"authorization", b"cookie", b"set-cookie", b"content-type", b"content-encoding")
)


def _is_path(value: bytes) -> bool:
    try:
        canonical.resolve(value.decode("latin-1"))
    except RequestError:
        return False
    return value.startswith(b"/")


def _is_authority(value: bytes) -> bool:
    try:
        canonical.authority(value.decode("latin-1"))
    except RequestError:
        return False
    return True


_REQUEST_CHECKS: Final = {
    ":method": lambda value: bool(fields.TOKEN.fullmatch(value)) and value != b"CONNECT",
    ":scheme": lambda value: value.lower() in (b"http", b"https"),
    ":authority": _is_authority,
    ":path": _is_path,
}
_RESPONSE_CHECKS: Final = {
    ":status": lambda value: len(value) == 3 and value.isdigit() and b"200" <= value < b"600"
}


def trailers_of(given: envoy.HeaderMap) -> Headers | None:
    """Trailers that an answer adds; None when it adds none. Raises: BadAnswerError."""
    if len(given.headers) > FIELDS_MAX:
        raise BadAnswerError(f"it sets more than {FIELDS_MAX} trailers")
    made = Headers()
    for one in given.headers:
        key = name(one.key)
        value = fields.checked(one.raw_value or one.value.encode())
        if value is None or key in _NO_TRAILERS or key in fields.FRAMING:
            raise BadAnswerError("it sets a trailer that cannot be one")
        made.append((key, value))
    return made or None


# --- an answer in the place of the message's own ------------------------------------------------


def immediate(given: pb.Immediate, request: Request) -> Response:
    """What the client gets at once. Raises: BadAnswerError."""
    status = given.status.code or 200
    if not 200 <= status <= 599:
        raise BadAnswerError("it answers with a status that is none")
    headers = Headers()
    response_edit(given.headers).mutation.set_in(headers, twins=False)
    kind = request.headers.get(b"content-type") or b""
    if kind.startswith(_GRPC):
        return _grpc(given, status, headers)
    if given.body and not headers.has(b"content-type"):
        headers.append((b"content-type", b"text/plain"))
    response = Response(status, headers, FixedBody(given.body), reason=REASON)
    response.error = "answered by the processor"
    return response


_PLAIN: Final = " !#$&'()*+,-./:;<=>?@[]^_`{|}~"
_STATUS: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}


def _grpc(given: pb.Immediate, status: int, headers: Headers) -> Response:
    """The same for a gRPC client, which reads `grpc-status` alone."""
    code = _STATUS.get(status, 0 if status < 300 else 2)
    if given.HasField("grpc_status"):
        code = given.grpc_status.status
    text = quote(given.body.decode("utf-8", "replace"), safe=_PLAIN)
    headers.remove_any((b"content-type", b"grpc-status", b"grpc-message"))
    headers.extend(
        (
            (b"content-type", _GRPC),
            (b"grpc-status", b"%d" % code),
            (b"grpc-message", text.encode()),
        )
    )
    response = Response(200, headers, FixedBody(), reason=REASON)
    response.error = "answered by the processor"
    return response


def frames(body: bytes, size: int = 64 * 1024) -> Sequence[bytes]:
    """A body in pieces of a message's size."""
    return [body[at : at + size] for at in range(0, len(body), size)]
