"""The simplified LLM gateway.

Source: spec config section 5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field

from sidecar.config.model.ai import (
    AzureResourceType,
    CustomProvider,
    Failover,
    Lossy,
    PromptCaching,
    PromptGuard,
)
from sidecar.config.model.base import Choice, Model, Renamed, branch, by_shape
from sidecar.config.model.budgets import BudgetsPolicy
from sidecar.config.model.callout import BackendAuthPolicy, Tunnel
from sidecar.config.model.connection import BackendTLS, HealthPolicy
from sidecar.config.model.external import RateLimit, RemoteRateLimit, spelled
from sidecar.config.model.listeners import ServerTLS
from sidecar.config.model.matching import HeaderMatch
from sidecar.config.model.policies import GatewayPolicies
from sidecar.config.model.traffic import HeaderModifier, RuleSet
from sidecar.config.scalars import Duration, Expression, Port, Secret, StringOrList, Uint


class LlmParams(Model):
    """Settings of the provider's call."""

    model: str | None = None
    """Model name sent to the provider. Default: the client's."""
    api_key: Secret | None = None
    """The provider's key."""
    aws_region: str | None = None
    """For bedrock."""
    vertex_region: str | None = None
    """For vertex."""
    vertex_project: str | None = None
    """For vertex."""
    azure_resource_name: str | None = None
    """For azure."""
    azure_resource_type: AzureResourceType | None = None
    """For azure."""
    azure_api_version: str | None = None
    """For azure."""
    azure_project_name: str | None = None
    """For azure."""
    base_url: str | None = None
    """Another address: host, path prefix, and TLS when https."""
    host_override: str | None = None
    """Another `host:port`."""
    path_override: str | None = None
    """Another path."""
    path_prefix: str | None = None
    """A prefix before the provider's path."""
    tokenize: bool = False
    """Whether prompts are counted before they are sent. Default false."""


class ProviderChoice(Choice):
    """A provider defined elsewhere, or one with its own settings."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("reference", "custom"))

    reference: str | None = None
    """Name of an entry of `llm.providers`."""
    custom: CustomProvider | None = None
    """Any provider that speaks a known format."""


ProviderName = Annotated[
    Literal[
        "openAI",
        "openai",
        "gemini",
        "vertex",
        "anthropic",
        "bedrock",
        "azure",
        "copilot",
        "cohere",
        "ollama",
        "baseten",
        "cerebras",
        "deepinfra",
        "deepseek",
        "groq",
        "huggingface",
        "mistral",
        "openrouter",
        "togetherai",
        "xai",
        "fireworks",
    ],
    spelled(openai="openAI"),
]

LlmProviderKind = Annotated[
    Annotated[ProviderChoice, branch("map")] | Annotated[ProviderName, branch("text")],
    Discriminator(by_shape),
]


class LlmDefaults(Renamed):
    """Settings that a model and a provider entry share."""

    OTHER_NAMES: ClassVar[Mapping[str, str]] = {"tls": "backendTLS"}

    defaults: dict[str, Any] | None = None
    """Request fields set when absent."""
    overrides: dict[str, Any] | None = None
    """Request fields set always."""
    transformation: dict[str, Expression] | None = None
    """Request fields set by CEL."""
    request_headers: HeaderModifier | None = None
    """Changes of request headers."""
    response_headers: HeaderModifier | None = None
    """Changes of response headers."""
    backend_tls: Annotated[BackendTLS | None, Field(alias="backendTLS")] = None
    """TLS to the provider; also written `tls`."""
    auth: BackendAuthPolicy = None
    """A credential for the provider."""
    health: HealthPolicy | None = None
    """What counts as a failure."""
    backend_tunnel: Tunnel | None = None
    """A proxy on the way."""
    prompt_caching: PromptCaching | None = None
    """Cache points."""


class LlmProvider(Model):
    """A provider that models refer to."""

    name: str
    """Its name."""
    provider: LlmProviderKind
    """Which one; not a reference."""
    params: LlmParams = Field(default_factory=LlmParams)
    """Settings of its calls."""
    defaults: LlmDefaults | None = None
    """What models that refer to it inherit."""


class LlmMatch(Model):
    """Headers that hold together."""

    headers: list[HeaderMatch] = Field(default_factory=list)
    """Default: any."""


class LlmModel(LlmDefaults):
    """A model that clients may ask for."""

    id: str | None = None
    """A stable name. Default: by position."""
    name: str
    """The client's model name; one `*` at the start or the end."""
    visibility: Literal["public", "internal"] = "public"
    """Whether clients may ask for it themselves. Default public."""
    params: LlmParams = Field(default_factory=LlmParams)
    """Settings of the provider's call."""
    provider: LlmProviderKind
    """Who serves it."""
    passthrough: Literal["detect", "opaque"] | None = None
    """Forward untouched, with or without a look. Default: converted as needed."""
    authorization: RuleSet | None = None
    """Who may use it."""
    final_transformation: dict[str, Expression] | None = None
    """Request fields set by CEL after conversion."""
    guardrails: PromptGuard | None = None
    """Guards."""
    matches: list[LlmMatch] = Field(default_factory=list)
    """One of which must hold. Default: any request."""


class WeightedTarget(Model):
    """A model and its share."""

    model: str
    """The model."""
    weight: Uint = 1
    """Default 1."""


class WeightedRouting(Model):
    """Shares of the load."""

    targets: list[WeightedTarget]
    """The models."""


class FailoverTarget(Model):
    """A model and its rank."""

    model: str
    """The model."""
    priority: Uint
    """Lower comes first."""


class FailoverRouting(Model):
    """Ranks of models."""

    targets: list[FailoverTarget]
    """The models."""


class ConditionalTarget(Model):
    """A model and when it is used."""

    when: Expression | None = None
    """CEL; the one without it is last."""
    model: str
    """The model."""


class ConditionalRouting(Model):
    """The first model whose condition is true."""

    targets: list[ConditionalTarget]
    """The models."""


class VirtualRouting(Model):
    """How a virtual model finds a real one; exactly one way."""

    weighted: WeightedRouting | None = None
    """By share."""
    failover: FailoverRouting | None = None
    """By rank."""
    conditional: ConditionalRouting | None = None
    """By condition."""


class VirtualModel(Model):
    """A name that stands for other models."""

    name: str
    """The client's model name."""
    routing: VirtualRouting
    """How it is resolved."""


class LlmPolicies(GatewayPolicies):
    """Policies of the LLM gateway."""

    guardrails: PromptGuard | None = None
    """Guards of all models."""
    local_rate_limit: list[RateLimit] = Field(default_factory=list)
    """Limits that the gateway keeps."""
    remote_rate_limit: RemoteRateLimit | None = None
    """Limits that another service keeps."""
    budgets: BudgetsPolicy | None = None
    """Ours: limits of what is spent."""


class LlmConfig(Model):
    """Models served on the usual paths."""

    gateways: StringOrList = Field(default_factory=list)
    """Where. Default: the gateway called `default`, or a port of its own."""
    port: Port | None = None
    """Deprecated; a port of its own. Default 4000."""
    tls: ServerTLS | None = None
    """Deprecated; TLS of that port."""
    providers: list[LlmProvider] = Field(default_factory=list)
    """Providers that models refer to."""
    models: list[LlmModel]
    """The models."""
    virtual_models: list[VirtualModel] = Field(default_factory=list)
    """Names that stand for models."""
    policies: LlmPolicies | None = None
    """Policies of all of them."""
    failover: Failover | None = None
    """Ours: when another target of a virtual model is asked. Default: after a failure, 429, 5xx."""
    stream_idle_timeout: Duration | None = None
    """Ours: silence after which a streamed answer ends with an error. Default 5 minutes."""
    lossy: Lossy | None = None
    """Ours: whether what a provider's format cannot say is dropped or refused. Default drop."""
