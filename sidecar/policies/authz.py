"""What both external authorizations share: their configuration, and what a service decided.

Source: spec/config.md section 3.8; hardening cases 38 and 39.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, final
from urllib.parse import quote, unquote_plus

from pydantic import Discriminator, Field, Tag

from sidecar.config.model.questions import ExtAuthzGrpc, ExtAuthzProtocol, IncludeBody
from sidecar.errors import RequestError
from sidecar.http.headers import Field as HeaderField
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies import fields
from sidecar.policies.callouts import CalloutConfig
from sidecar.policies.mutation import APPEND, Mutation, Option, learn
from sidecar.policies.schema import OBJECT, PLAIN, PolicyConfig, form

TIMEOUT_SECONDS: Final = 2.0
"""How long a service may take where `policies.http.requestTimeout` says nothing."""
FAILED: Final = "external authorization failed"
REASON: Final = "ExtAuth"
VARIABLE: Final = "extauthz"
PARTIAL: Final = b"x-envoy-auth-partial-body"
"""Tells a service by HTTP whether the body was cut."""
ALLOWED_ANYHOW: Final = b"x-envoy-auth-failure-mode-allowed"
"""Tells a backend that nobody was asked."""
_GRPC: Final = b"application/grpc"
_OF_BODY: Final = frozenset((b"content-type", b"content-encoding", b"grpc-status", b"grpc-message"))
"""What tells of a body, or of a status, that is not the one given."""
_SINGLE: Final = (b"authorization", b"proxy-authorization")


class DenyWithStatus(PolicyConfig):
    """A denial with a status of choice."""

    deny_with_status: int = Field(ge=400, le=599)
    """HTTP status of an error."""


class CacheConfig(PolicyConfig):
    """A cache of decisions."""

    key: list[str] = Field(min_length=1)
    """CEL values that decide together; without one of them the service is asked."""
    ttl: str
    """CEL: a duration, a timestamp, or a number of seconds since 1970."""
    max_entries: int = Field(default=10_000, ge=0)
    """Most decisions a worker keeps; the one unused longest goes first. Default 10,000."""


FailureMode = Annotated[
    Annotated[DenyWithStatus, Tag(OBJECT)] | Annotated[Literal["allow", "deny"], Tag(PLAIN)],
    Discriminator(form),
]


class Authorization(CalloutConfig):
    """One service and what it is asked."""

    protocol: ExtAuthzProtocol = Field(
        default_factory=lambda: ExtAuthzProtocol(grpc=ExtAuthzGrpc())
    )
    """Default `{grpc: {}}`."""
    failure_mode: FailureMode = "deny"
    """What a request gets when the service fails. Default deny, with 403."""
    include_request_headers: list[str] = Field(default_factory=list)
    """Headers and pseudo headers sent. Default: all by gRPC, only `authorization` by HTTP."""
    include_request_body: IncludeBody | None = None
    """Default: no body."""
    cache: CacheConfig | None = None
    """Default: every request is asked for."""


# --- what was decided -------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Allowed:
    """The request may pass, changed like this."""

    mutation: Mutation = field(default_factory=Mutation)
    """Of the request's headers."""
    owned: frozenset[bytes] = frozenset()
    """Names that are the service's to set: the client's own go."""
    told: tuple[Option, ...] = ()
    """Of the response's headers."""
    query_set: tuple[tuple[str, str], ...] = ()
    query_removed: frozenset[str] = frozenset()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, request: Request) -> None:
        """Change the request, and queue what the client is told."""
        headers = request.headers = request.headers.copy()
        drop = fields.remover(self.owned, twins=True)
        if drop is not None:
            drop(headers)
        self.mutation.set_in(headers, twins=True)
        self.mutation.remove_in(headers, twins=True)
        for action, name, value in self.told:
            queued = request.response_headers
            if action != APPEND:
                queued[:] = [one for one in queued if one[0] != name]
            # A backend's service is asked for each attempt.
            if (name, value) not in queued:
                queued.append((name, value))
        if self.query_set or self.query_removed:
            _edit_query(request, self.query_set, self.query_removed)
        learn(request.state, VARIABLE, self.metadata)


@final
@dataclass(frozen=True, slots=True)
class Denied:
    """The client gets this."""

    status: int = 403
    headers: tuple[HeaderField, ...] = ()
    body: bytes | None = None
    """None: in our words."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def answer(self, request: Request) -> Response:
        """The response. Raises: RequestError where it is in our words, or for a gRPC client."""
        learn(request.state, VARIABLE, self.metadata)
        kind = request.headers.get(b"content-type") or b""
        if self.body is None or kind.startswith(_GRPC):
            told = tuple(one for one in self.headers if one[0] not in _OF_BODY)
            raise RequestError(self.status, REASON, FAILED, headers=told)
        headers = Headers(self.headers)
        if self.body and not headers.has(b"content-type"):
            headers.append((b"content-type", b"text/plain"))
        response = Response(self.status, headers, FixedBody(self.body), reason=REASON)
        response.error = FAILED
        return response


Decision = Allowed | Denied


def refuse_ambiguous(request: Request) -> None:
    """A credential given twice: the service could judge one, the backend obey the other.

    Raises: RequestError 400.
    """
    names = [name for name, _ in request.headers]
    if any(names.count(name) > 1 for name in _SINGLE):
        raise RequestError(400, REASON, "several credentials in one request")


def _edit_query(
    request: Request, put: tuple[tuple[str, str], ...], removed: frozenset[str]
) -> None:
    path, _, query = request.target.partition("?")
    gone = removed | {name for name, _ in put}
    pairs = [
        pair
        for pair in query.split("&")
        if pair and unquote_plus(pair.partition("=")[0]) not in gone
    ]
    pairs += [f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in put]
    request.target = f"{path}?{'&'.join(pairs)}" if pairs else path
