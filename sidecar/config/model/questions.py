"""What external authorizations and processors are sent: parts of their policies, in the file and as
the policies take them.

Source: spec config sections 3.8 and 3.9.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from sidecar.config.model.base import Choice, Model
from sidecar.config.scalars import Expression, HeaderName, HeaderOrPseudo, Uint32

BodyMode = Literal["none", "buffered", "bufferedPartial", "fullDuplexStreamed"]
SendMode = Literal["send", "skip"]


class ExtAuthzGrpc(Model):
    """Envoy's authorization service."""

    context: dict[str, str] | None = None
    """Context extensions. Default: none."""
    metadata: dict[str, Expression] | None = None
    """Name space → CEL of a map. Default: claims of the JWT, in `envoy.filters.http.jwt_authn`."""


class ExtAuthzHttp(Model):
    """A plain HTTP service."""

    path: Expression | None = None
    """CEL. Default: the request's path and query."""
    redirect: Expression | None = None
    """CEL: where a 401 or 403 sends the client. Default: it gets the answer."""
    body: Expression | None = None
    """CEL of the body to send. Default: none, or the request's."""
    include_response_headers: list[HeaderName] = Field(default_factory=list)
    """Headers of the answer that go to the backend. Default: none."""
    add_request_headers: dict[HeaderOrPseudo, Expression] = Field(default_factory=dict)
    """Name or pseudo header → CEL, sent too. Default: none."""
    metadata: dict[str, Expression] = Field(default_factory=dict)
    """Name → CEL over the answer; the value is `extauthz.<name>` afterwards. Default: none."""


class ExtAuthzProtocol(Choice):
    """How the service is asked."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("grpc", "http"))

    grpc: ExtAuthzGrpc | None = None
    """The default."""
    http: ExtAuthzHttp | None = None
    """Plain HTTP."""


class IncludeBody(Model):
    """The request's body, for the question."""

    max_request_bytes: Uint32 = 0
    """Most that is sent, and read before; at most `maxBufferSize`. Default 0."""
    allow_partial_message: bool = False
    """Whether a longer body is cut. Default: it is refused with 413."""
    pack_as_bytes: bool = False
    """gRPC: sent octet by octet. Default: as text, what is no UTF-8 replaced."""


class ProcessingOptions(Model):
    """What an external processor is sent."""

    request_body_mode: BodyMode = "fullDuplexStreamed"
    """Default fullDuplexStreamed."""
    response_body_mode: BodyMode = "fullDuplexStreamed"
    """Default fullDuplexStreamed."""
    request_header_mode: SendMode = "send"
    """Default send."""
    response_header_mode: SendMode = "send"
    """Default send."""
    request_trailer_mode: SendMode = "send"
    """Default send."""
    response_trailer_mode: SendMode = "send"
    """Default send."""
    allow_mode_override: bool = False
    """Whether an answer to headers may change these for the exchange. Default false."""
