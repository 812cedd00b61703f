"""LLM providers as backends, and the `ai` policy with its guards.

Source: spec config sections 5.5, 5.6 and 5.7.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sidecar.config.model.base import Choice, Model
from sidecar.config.model.callout import CalloutPolicies
from sidecar.config.model.connection import SimpleReference
from sidecar.config.model.matching import HeaderMatch
from sidecar.config.model.traffic import HeaderModifier
from sidecar.config.scalars import (
    BytesText,
    Duration,
    Expression,
    HeaderOrPseudo,
    Int32,
    Status,
    Uint,
)

RouteType = Literal[
    "completions",
    "messages",
    "models",
    "passthrough",
    "detect",
    "responses",
    "embeddings",
    "realtime",
    "anthropicTokenCount",
    "generateContent",
    "geminiCountTokens",
    "rerank",
]
ProviderFormat = Literal[
    "completions",
    "messages",
    "responses",
    "embeddings",
    "anthropicTokenCount",
    "generateContent",
    "geminiCountTokens",
    "realtime",
    "rerank",
]
ContentScope = Literal["systemPrompt", "messages", "toolOutput", "toolInput"]
AzureResourceType = Literal["openAI", "foundry", "aiServices"]


class ModerationMode(Model):
    """What moderation does on one side."""

    mode: Literal["score", "block"]
    """Only report, or refuse."""


class ModerationPolicy(Model):
    """What moderation does."""

    input: ModerationMode | None = None
    """With prompts."""
    output: ModerationMode | None = None
    """With answers."""


class OpenAIModeration(Model):
    """Moderation as part of the provider's call."""

    model: str = "omni-moderation-latest"
    """Default omni-moderation-latest."""
    policy: ModerationPolicy | None = None
    """What it does."""


class ModelOnly(Model):
    """A provider that takes no more than a model."""

    model: str | None = None
    """Default: the client's."""


class OpenAIProvider(ModelOnly):
    """OpenAI."""

    moderation: OpenAIModeration | None = None
    """Default: none."""


class VertexProvider(ModelOnly):
    """Google Vertex AI."""

    region: str | None = None
    """Default: global."""
    project_id: str
    """The project."""


class BedrockProvider(ModelOnly):
    """Amazon Bedrock."""

    region: str
    """AWS region."""
    guardrail_identifier: str | None = None
    """A guardrail to apply."""
    guardrail_version: str | None = None
    """Its version."""


class AzureProvider(ModelOnly):
    """Azure OpenAI and Foundry."""

    resource_name: str
    """The resource."""
    resource_type: AzureResourceType
    """Its kind."""
    api_version: str | None = None
    """Default: v1."""
    project_name: str | None = None
    """For foundry."""


class ProviderFormatConfig(Model):
    """A format that a custom provider speaks."""

    type: ProviderFormat
    """The format."""
    path: str | None = None
    """Default: the format's usual path."""


class CustomProvider(ModelOnly):
    """Any other provider."""

    provider_override: str | None = None
    """Its name in telemetry. Default custom."""
    formats: list[ProviderFormatConfig]
    """What it speaks."""


class AIProvider(Choice):
    """One provider."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(
        ("openai", "gemini", "vertex", "anthropic", "bedrock", "azure", "copilot", "custom")
    )

    openai: Annotated[OpenAIProvider | None, Field(alias="openAI")] = None
    """OpenAI."""
    gemini: ModelOnly | None = None
    """Google Gemini."""
    vertex: VertexProvider | None = None
    """Google Vertex AI."""
    anthropic: ModelOnly | None = None
    """Anthropic."""
    bedrock: BedrockProvider | None = None
    """Amazon Bedrock."""
    azure: AzureProvider | None = None
    """Azure."""
    copilot: ModelOnly | None = None
    """GitHub Copilot."""
    custom: CustomProvider | None = None
    """Any other."""


class RequestRejection(Model):
    """The answer to what a guard refuses."""

    body: BytesText = "The request was rejected due to inappropriate content"
    """Text or bytes."""
    status: Status = 403
    """Default 403."""
    headers: HeaderModifier | None = None
    """Changes of its headers."""


class RegexRule(Choice):
    """A pattern to look for."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("builtin", "pattern"))

    builtin: Literal["ssn", "creditCard", "phoneNumber", "email", "caSin"] | None = None
    """A ready one."""
    pattern: str | None = None
    """A regular expression (RE2)."""


class RegexRules(Model):
    """Patterns to look for."""

    action: Literal["mask", "reject"] = "mask"
    """Default mask."""
    rules: list[RegexRule]
    """The patterns."""


class Webhook(Model):
    """A service that judges."""

    target: SimpleReference
    """Where it is."""
    headers: dict[HeaderOrPseudo, Expression] = Field(default_factory=dict)
    """Headers of the call, by CEL."""
    forward_header_matches: list[HeaderMatch] = Field(default_factory=list)
    """Headers of the request that are passed on."""
    failure_mode: Literal["failClosed", "failOpen"] = "failClosed"
    """Default: 503."""


class CloudGuard(Model):
    """A guard that a cloud offers."""

    policies: CalloutPolicies | None = None
    """How it is reached, and with which credential."""
    host_override: str | None = None
    """Ours: another place of the service, `host:port` or a URL without a path."""
    failure_mode: Literal["failClosed", "failOpen"] = "failClosed"
    """Ours: what a judgement that cannot be had means. Default: 503."""


class Moderation(CloudGuard):
    """OpenAI's moderation service."""

    model: str | None = None
    """Default omni-moderation-latest."""


class BedrockGuardrails(CloudGuard):
    """Amazon Bedrock's guardrails."""

    guardrail_identifier: str
    """The guardrail."""
    guardrail_version: str
    """Its version."""
    region: str
    """AWS region."""


class GoogleModelArmor(CloudGuard):
    """Google Model Armor."""

    template_id: str
    """The template."""
    project_id: str
    """The project."""
    location: str | None = None
    """Default us-central1."""


class AnalyzeText(Model):
    """Azure's analysis of text."""

    severity_threshold: Int32 | None = None
    """Default 2."""
    api_version: str | None = None
    """Default 2024-09-01."""
    blocklist_names: list[str] | None = None
    """Lists to apply."""
    halt_on_blocklist_hit: bool | None = None
    """Whether a hit ends the analysis."""


class DetectJailbreak(Model):
    """Azure's detection of jailbreaks."""

    api_version: str | None = None
    """Default 2024-02-15-preview."""


class AzureContentSafety(CloudGuard):
    """Azure AI Content Safety."""

    endpoint: str
    """The resource's host."""
    analyze_text: AnalyzeText | None = None
    """Default: on when `detectJailbreak` is not given."""
    detect_jailbreak: DetectJailbreak | None = None
    """Default: off."""


class ResponseGuard(Choice):
    """A guard of answers."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(
        ("regex", "webhook", "bedrock_guardrails", "google_model_armor", "azure_content_safety")
    )

    rejection: RequestRejection = Field(default_factory=RequestRejection)
    """What a refusal looks like."""
    regex: RegexRules | None = None
    """Patterns."""
    webhook: Webhook | None = None
    """A service of your own."""
    bedrock_guardrails: BedrockGuardrails | None = None
    """Amazon."""
    google_model_armor: GoogleModelArmor | None = None
    """Google."""
    azure_content_safety: AzureContentSafety | None = None
    """Microsoft."""


class RequestGuard(ResponseGuard):
    """A guard of prompts."""

    CHOICES: ClassVar[frozenset[str]] = ResponseGuard.CHOICES | {"openai_moderation"}

    openai_moderation: Annotated[Moderation | None, Field(alias="openAIModeration")] = None
    """OpenAI."""
    scope: list[ContentScope] = Field(default=["systemPrompt", "messages"], min_length=1)
    """What is looked at. Default systemPrompt and messages."""


class PromptGuard(Model):
    """Guards, in order; the first refusal ends."""

    streaming: Literal["Disabled", "Enabled"] = "Disabled"
    """Whether streamed answers are guarded. Default Disabled."""
    request: list[RequestGuard] = Field(default_factory=list)
    """Of prompts."""
    response: list[ResponseGuard] = Field(default_factory=list)
    """Of answers."""


class ChatMessage(Model):
    """A message."""

    role: str
    """Who speaks."""
    content: str
    """What is said."""


class PromptEnrichment(Model):
    """Messages put around the client's."""

    append: list[ChatMessage] = Field(default_factory=list)
    """After."""
    prepend: list[ChatMessage] = Field(default_factory=list)
    """Before."""


class PromptCaching(Model):
    """Cache points for providers that know them."""

    cache_system: bool = True
    """Default true."""
    cache_messages: bool = True
    """Default true."""
    cache_tools: bool = False
    """Default false."""
    min_tokens: Uint | None = 1024
    """Prompts below are not cached. Default 1024."""
    cache_message_offset: Uint = 0
    """Messages at the end that are left out. Default 0."""


class Failover(Model):
    """Ours: the same request at another provider, when one fails before the answer has begun."""

    enabled: bool = True
    """Default true."""
    max_attempts: Annotated[int, Field(ge=1, le=16)] = 3
    """How many providers one request may ask, 1 to 16. Default 3."""
    attempt_timeout: Duration | None = None
    """Bound until an answer, or the first event of a stream, is there. Default: the route's."""


Lossy = Literal["drop", "reject"]


class AIPolicy(Model):
    """What is done with LLM requests. Levels merge by field."""

    failover: Failover | None = None
    """Ours: when another provider is asked. Default: after a failure, 429 or 5xx."""
    stream_idle_timeout: Duration | None = None
    """Ours: silence after which a streamed answer ends with an error. Default 5 minutes."""
    lossy: Lossy | None = None
    """Ours: whether what the provider's format cannot say is dropped or refused. Default drop."""
    prompt_guard: PromptGuard | None = None
    """Guards."""
    defaults: dict[str, Any] | None = None
    """Fields set when absent."""
    overrides: dict[str, Any] | None = None
    """Fields set always."""
    transformations: dict[str, Expression] | None = None
    """Fields set by CEL."""
    final_transformations: dict[str, Expression] | None = None
    """The same, after conversion to the provider's format."""
    prompts: PromptEnrichment | None = None
    """Messages to add."""
    model_aliases: dict[str, str] = Field(default_factory=dict)
    """Model names to replace."""
    prompt_caching: PromptCaching | None = None
    """Cache points."""
    routes: dict[str, RouteType] = Field(default_factory=dict)
    """Path suffix to what it is. Default: all are completions."""
