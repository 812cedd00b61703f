"""The shape of a provider: what it speaks, where a call goes, and what its answers mean.

A provider knows no connections and no secrets: it is made from its configuration once, and then
turns `Call`s into `Target`s. The gateway joins the parts:

1. `provider.formats(model)` and the client's format choose the upstream format and conversion;
2. `provider.edit(body, call)` is the last change of the body in the upstream format;
3. `provider.target(call)` says authority, path and header changes;
4. credentials are added, then `target.key_place.move(headers)`, unless a location was configured.

Source: spec llm sections 1 and 2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, final

from sidecar.http.headers import Headers

Json = dict[str, Any]
AuthKind = Literal["", "aws", "gcp", "azure", "copilot"]
ErrorFamily = Literal["openai", "anthropic", "google", "bedrock"]
Tags = Callable[[str, str], frozenset[str]]
"""`tags(provider, model)`: what the price catalogue says that a model can do."""

COMPLETIONS: Final = "completions"
MESSAGES: Final = "messages"
RESPONSES: Final = "responses"
GENERATE: Final = "generateContent"
GEMINI_COUNT: Final = "geminiCountTokens"
CONVERSE: Final = "converse"
"""Amazon's; upstream only."""
COUNT: Final = "anthropicTokenCount"
EMBEDDINGS: Final = "embeddings"
RERANK: Final = "rerank"
REALTIME: Final = "realtime"
UNTOUCHED: Final = frozenset(("passthrough", "detect", "models"))
"""Route types whose body nobody converts: the path is the client's own."""


@final
@dataclass(frozen=True, slots=True)
class Authority:
    """Where to connect. `tls` is the provider's default; a configured backendTLS decides."""

    host: str
    port: int
    tls: bool

    @property
    def host_header(self) -> str:
        """The value of the Host field: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@final
@dataclass(frozen=True, slots=True)
class KeyPlace:
    """The header in which a provider wants API keys, when they come as `Authorization: Bearer`."""

    header: bytes = b"authorization"
    only: tuple[bytes, ...] = ()
    """Only keys that start so are moved; empty: all."""
    never: tuple[bytes, ...] = ()
    """Keys that start so stay a bearer token, and `header` is dropped."""

    def move(self, headers: Headers) -> None:
        """Move a bearer key to its header. Edits `headers`."""
        if self.header == b"authorization":
            return
        value = headers.get(b"authorization")
        if value is None or value[:7].lower() != b"bearer ":
            return
        key = value[7:].strip()
        if self.never and key.startswith(self.never):
            headers.remove_all(self.header)
        elif not self.only or key.startswith(self.only):
            headers.remove_all(b"authorization")
            headers.set(self.header, key)


@final
@dataclass(frozen=True, slots=True)
class Call:
    """One call, as a provider sees it."""

    client_format: str
    """The route type of the client's request."""
    format: str
    """The format sent to the provider; equal to `client_format` when nothing is converted."""
    model: str
    """The model asked of the provider, after aliases; may be empty for passthrough and detect."""
    is_streaming: bool
    path: str
    """The client's path, still percent-encoded, without its query."""
    query: str = ""
    """The client's query, still percent-encoded, without `?`."""


@final
@dataclass(frozen=True, slots=True)
class Target:
    """Where a call goes and what its head must hold."""

    authority: Authority
    path: bytes
    """Path and query as sent."""
    headers_set: tuple[tuple[bytes, bytes], ...] = ()
    headers_remove: frozenset[bytes] = frozenset()
    key_place: KeyPlace = field(default_factory=KeyPlace)


@final
@dataclass(frozen=True, slots=True)
class DefaultAuth:
    """The credential that a provider gets when none is configured. `kind` "": none."""

    kind: AuthKind = ""
    scope: str = ""
    """Of a Microsoft Entra token."""
    region: str = ""
    """Of an AWS signature."""
    service: str = ""
    """Of an AWS signature."""


class Provider(Protocol):
    """One configured provider. Immutable; all methods are pure but `edit`."""

    @property
    def kind(self) -> str:
        """`openai`, `anthropic`, `gemini`, `vertex`, `bedrock`, `azure`, `copilot`, `custom`."""

    @property
    def name(self) -> str:
        """The name in telemetry and in the price catalogue."""

    @property
    def model(self) -> str | None:
        """The configured model, which stands over the client's."""

    @property
    def auth(self) -> DefaultAuth:
        """What authenticates here when the configuration says nothing."""

    def authorities(self) -> tuple[Authority, ...]:
        """All that `target` can give: the usual one first."""

    def formats(self, model: str) -> frozenset[str]:
        """What can be sent for this model, in any dialect: chat formats that the provider speaks
        itself, `converse`, and the non-chat formats. See `dialect`."""

    def dialect(self, format: str, model: str) -> str:
        """ "" when the provider takes this format as its inventor defined it; else whose form a
        body must take (`embeddings`, `rerank`, `anthropicTokenCount`, `messages`): `bedrock`
        or `vertex`."""

    def target(self, call: Call) -> Target:
        """Where the call goes. Raises: RequestError 400 for what the provider cannot serve."""

    def edit(self, body: Json, call: Call) -> None:
        """The provider's own additions to a body in its upstream format, in place."""

    def error_family(self, format: str, model: str) -> ErrorFamily:
        """Whose error bodies come back."""

    def excludes_cache(self, format: str, model: str) -> bool:
        """Whether reported input tokens leave out cached ones (see llm.cost)."""

    def settings(self, model: str) -> Json:
        """What conversions must know of the configuration, for `Context.settings`."""
