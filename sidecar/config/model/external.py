"""Policies that ask another service, and rate limits.

Source: spec config sections 3.8, 3.9 and 3.10.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field

from sidecar.config.model.base import (
    OPEN,
    Conditional,
    Conditioned,
    Model,
    branch,
    by_key,
    by_shape,
)
from sidecar.config.model.callout import Callout
from sidecar.config.model.questions import ExtAuthzProtocol, IncludeBody, ProcessingOptions
from sidecar.config.scalars import (
    Duration,
    Expression,
    HeaderOrPseudo,
    Port,
    Uint,
)

LimitKey = Annotated[
    Annotated[Expression, branch("text")] | Annotated[list[Expression], branch("list")],
    Discriminator(by_shape),
]
"""CEL, or a list of it: requests with equal values share a bucket or a budget."""


def spelled(**aliases: str) -> AfterValidator:
    """Accept other spellings of a value, and keep the canonical one."""

    def canonical(value: Any) -> Any:
        return aliases.get(value, value)

    return AfterValidator(canonical)


FailureMode = Literal["failClosed", "failOpen"]


class DenyWithStatus(Model):
    """A denial with a status of choice."""

    deny_with_status: Port
    """HTTP status."""


class ExtAuthzCache(Model):
    """A cache of decisions."""

    key: list[Expression]
    """CEL values that decide together; one that fails skips the cache."""
    ttl: Expression
    """CEL: a duration, or a time."""
    max_entries: Uint = 10000
    """Default 10,000."""


class ExtAuthz(Callout):
    """A decision by another service."""

    protocol: ExtAuthzProtocol | None = None
    """Default `{grpc: {}}`."""
    failure_mode: Annotated[
        Annotated[Literal["allow", "deny"], branch("text")]
        | Annotated[DenyWithStatus, branch("map")],
        Discriminator(by_shape),
    ] = "deny"
    """When the service fails. Default deny, with 403."""
    include_request_headers: list[HeaderOrPseudo] = Field(default_factory=list)
    """Default: all by gRPC, only `authorization` by HTTP."""
    include_request_body: IncludeBody | None = None
    """Default: no body."""
    cache: ExtAuthzCache | None = None
    """Default: every request is asked for."""


class ConditionalExtAuthz(ExtAuthz, Conditioned):
    """An external authorization with its condition."""


ExtAuthzPolicy = Annotated[
    Annotated[Conditional[ConditionalExtAuthz], branch("with")]
    | Annotated[ExtAuthz, branch("without")],
    Discriminator(by_key("conditional")),
]


class ExtProc(Callout):
    """Processing by another service."""

    failure_mode: FailureMode = "failClosed"
    """When the service fails before a body began. Default: 500."""
    metadata_context: dict[str, dict[str, Expression]] | None = None
    """Metadata by name space."""
    request_attributes: dict[str, Expression] | None = None
    """Attributes of requests."""
    response_attributes: dict[str, Expression] | None = None
    """Attributes of responses."""
    processing_options: ProcessingOptions | None = None
    """What is sent."""


class ConditionalExtProc(ExtProc, Conditioned):
    """An external processor with its condition."""


ExtProcPolicy = Annotated[
    Annotated[Conditional[ConditionalExtProc], branch("with")]
    | Annotated[ExtProc, branch("without")],
    Discriminator(by_key("conditional")),
]

RateLimitType = Literal["requests", "tokens"]


class RateLimit(Model):
    """A token bucket, full at the start."""

    max_tokens: Uint = 0
    """What it holds: at least 1."""
    tokens_per_fill: Uint = 0
    """What each fill adds: at least 1, at most `maxTokens`."""
    fill_interval: Duration
    """Time between fills."""
    type: RateLimitType = "requests"
    """Whether requests or LLM tokens count. Default requests."""
    key: LimitKey | None = None
    """Ours: CEL, or a list of it; requests with equal values share a bucket. Default: all do."""
    on_missing_key: Literal["shared", "reject", "skip"] = "shared"
    """Ours: requests without a key share one bucket (default), get 429, or have no limit."""
    cost: Expression | None = None
    """Ours: CEL, a whole number. Default 1, or the LLM tokens used."""
    debt: Literal["carry", "forgive"] | None = None
    """Ours, for tokens: whether use beyond the level is paid from later fills. Default carry."""
    failure_mode: FailureMode = "failClosed"
    """Ours: when the table has no room for another key. Default: 500."""


class ConditionalRateLimit(RateLimit, Conditioned):
    """A bucket with its condition."""


LocalRateLimitPolicy = Annotated[
    Annotated[Conditional[ConditionalRateLimit], branch("map")]
    | Annotated[list[RateLimit], branch("list")],
    Discriminator(by_shape),
]


class DescriptorField(Model):
    """A field of a descriptor."""

    model_config = OPEN

    key: str
    """Its name."""
    value: Expression
    """CEL that gives its value; one that fails skips the descriptor."""


class Descriptor(Model):
    """What a remote limit counts by."""

    entries: list[DescriptorField]
    """The fields, in order."""
    type: RateLimitType = "requests"
    """Default requests."""
    cost: Expression | None = None
    """CEL. Default 1, or the tokens used."""
    limit_override: Expression | None = None
    """CEL: a map of `unit` and `requestsPerUnit`."""


class RemoteRateLimit(Callout):
    """A limit kept by another service (Envoy's protocol)."""

    domain: str
    """Name space of the limits."""
    descriptors: list[Descriptor]
    """What is asked for each request."""
    failure_mode: Annotated[
        Literal["failClosed", "failOpen", "FailClosed", "FailOpen"],
        spelled(FailClosed="failClosed", FailOpen="failOpen"),
    ] = "failClosed"
    """When the service fails. Default: 500."""


class ConditionalRemoteRateLimit(RemoteRateLimit, Conditioned):
    """A remote limit with its condition."""


RemoteRateLimitPolicy = Annotated[
    Annotated[Conditional[ConditionalRemoteRateLimit], branch("with")]
    | Annotated[RemoteRateLimit, branch("without")],
    Discriminator(by_key("conditional")),
]
