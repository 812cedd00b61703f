"""Policies that shape requests and responses: headers, paths, replies, timing, retries, CORS.

Source: spec config sections 3.4, 3.5 and 3.7.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, StringConstraints

from sidecar.config.model.base import (
    Choice,
    Conditional,
    Conditioned,
    Model,
    branch,
    by_key,
    by_shape,
)
from sidecar.config.model.connection import SimpleReference
from sidecar.config.scalars import (
    SCHEME_PATTERN,
    BytesText,
    Duration,
    Expression,
    Fraction,
    HeaderName,
    HeaderOrPseudo,
    HeaderValue,
    NonZeroUint16,
    Status,
    Uint,
    Uint8,
)


class HeaderModifier(Model):
    """Static changes of headers, in the order add, set, remove. `host` means the authority."""

    add: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Fields to append."""
    set: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Fields to put in the place of all of that name."""
    remove: list[HeaderName] = Field(default_factory=list)
    """Names to drop."""


class AuthorityChange(Choice):
    """A new authority, in whole or in part."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("full", "host", "port"))

    full: str | None = None
    """Host and port."""
    host: str | None = None
    """The host; the port is kept."""
    port: NonZeroUint16 | None = None
    """The port; the host is kept."""


HostRedirect = Annotated[
    Annotated[AuthorityChange, branch("map")] | Annotated[Literal["auto", "none"], branch("text")],
    Discriminator(by_shape),
]
"""A change of authority; `auto` is the backend's host, `none` turns the automatic rewrite off."""


class PathRedirect(Choice):
    """A new path."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("full", "prefix"))

    full: str | None = None
    """The whole path."""
    prefix: str | None = None
    """What replaces the matched prefix; the route must match by `pathPrefix`."""


class RequestRedirect(Model):
    """A redirect to an address built from the request's own."""

    scheme: Annotated[str, StringConstraints(pattern=SCHEME_PATTERN)] | None = None
    """Default: the request's."""
    authority: HostRedirect | None = None
    """Default: the request's."""
    path: PathRedirect | None = None
    """Default: the request's; the query is kept either way."""
    status: Status | None = None
    """Default 302."""


class UrlRewrite(Model):
    """A change of authority and path on the way to the backend."""

    authority: HostRedirect | None = None
    """Default: the backend's host name for `host:` backends, else the request's."""
    path: PathRedirect | None = None
    """Default: the request's."""


class RequestMirror(Model):
    """Copies of requests, without their bodies, to a backend whose answers are ignored."""

    backend: SimpleReference
    """Where copies go."""
    percentage: Fraction
    """The share of requests that is copied, 0.0 to 1.0."""


class DirectResponse(Model):
    """An answer made by the gateway. `body` and `bodyExpression` exclude each other."""

    body: BytesText = ""
    """Text, or a list of bytes."""
    body_expression: Expression | None = None
    """CEL that gives the body."""
    headers: dict[HeaderName, Expression] = Field(default_factory=dict)
    """CEL for each header; one that fails is left out."""
    status: Status
    """HTTP status."""


class ConditionalDirectResponse(DirectResponse, Conditioned):
    """A direct response with its condition."""


DirectResponsePolicy = Annotated[
    Annotated[Conditional[ConditionalDirectResponse], branch("with")]
    | Annotated[DirectResponse, branch("without")],
    Discriminator(by_key("conditional")),
]


class Cors(Model):
    """Cross-origin resource sharing."""

    allow_credentials: bool = False
    """Whether responses may be read with credentials. Default false."""
    allow_headers: list[str] = Field(default_factory=list)
    """Names, or `*`."""
    allow_methods: list[str] = Field(default_factory=list)
    """Methods, or `*`."""
    allow_origins: list[str] = Field(default_factory=list)
    """Exact origins, `https://*.example.com`, or `*`."""
    expose_headers: list[str] = Field(default_factory=list)
    """Response headers that scripts may read."""
    max_age: Duration | None = None
    """How long a browser may keep the answer to a preflight. Default: not said."""


class Csrf(Model):
    """Refusal of cross-site requests that change state."""

    additional_origins: list[str] = Field(default_factory=list)
    """Origins that are trusted beside the gateway's own."""


class BufferBody(Model):
    """Bodies of one direction held whole before they go on."""

    max_bytes: Uint | None = None
    """Default: `frontendPolicies.http.maxBufferSize`."""
    failure_mode: Literal["failClosed", "failOpen"] = "failClosed"
    """What happens past the limit: refused (default), or streamed on."""


class Buffer(Model):
    """Buffering of whole bodies."""

    request: BufferBody | None = None
    """Default: requests stream."""
    response: BufferBody | None = None
    """Default: responses stream."""


class TimeoutPolicy(Model):
    """Deadlines; the answer to one that passes is 504."""

    request_timeout: Duration | None = None
    """From the request's start to the response headers, over all attempts. Default: none."""
    backend_request_timeout: Duration | None = None
    """For each attempt. Default: none."""


class RetryPolicy(Model):
    """Repeated attempts at the same backend, with bodies of up to 64 KiB."""

    attempts: Annotated[Uint8, Field(ge=1)] = 1
    """How many attempts follow the first. Default 1."""
    backoff: Duration | None = None
    """Pause between attempts. Default: none."""
    codes: list[Status]
    """Statuses that are tried again."""
    precondition: Expression | None = None
    """CEL over the request: whether it may be tried again at all."""
    condition: Expression | None = None
    """CEL over the response: whether to try again, beside `codes`."""


class DelayPolicy(Model):
    """A pause before the request goes on, for tests of faults."""

    duration: Expression
    """A duration such as `2s`, or CEL that gives a duration or milliseconds."""


class Transform(Model):
    """Changes of a message by CEL, in the order of the fields below."""

    metadata: dict[str, Expression] = Field(default_factory=dict)
    """Values that later expressions see as `metadata.<key>`."""
    replace: Expression | None = None
    """The whole of the headers, as a map."""
    add: dict[HeaderOrPseudo, Expression] = Field(default_factory=dict)
    """Fields to append."""
    set: dict[HeaderOrPseudo, Expression] = Field(default_factory=dict)
    """Fields to put in the place of all of that name."""
    remove: list[HeaderName] = Field(default_factory=list)
    """Names to drop."""
    body: Expression | None = None
    """The body; one that fails leaves an empty body."""


class Transformations(Model):
    """Transformations of both directions."""

    request: Transform | None = None
    """Default: none."""
    response: Transform | None = None
    """Default: none."""


class ConditionalTransformations(Transformations, Conditioned):
    """Transformations with their condition."""


TransformationsPolicy = Annotated[
    Annotated[Conditional[ConditionalTransformations], branch("with")]
    | Annotated[Transformations, branch("without")],
    Discriminator(by_key("conditional")),
]


class Rule(Choice):
    """One rule of authorization."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("allow", "deny", "require"))

    allow: Expression | None = None
    """One that is true lets the request pass, once no other kind objects."""
    deny: Expression | None = None
    """One that is true refuses the request."""
    require: Expression | None = None
    """One that is not true refuses the request."""


class RuleSet(Model):
    """Rules of authorization; text alone is an `allow` rule. Rules of all levels add up."""

    rules: list[
        Annotated[
            Annotated[Rule, branch("map")] | Annotated[Expression, branch("text")],
            Discriminator(by_shape),
        ]
    ]
    """In any order; no rules at all accept."""
