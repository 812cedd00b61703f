"""Any other provider that speaks known formats, and the presets for well-known ones.

Source: spec llm sections 1.1, 1.2 and 1.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple, final

from sidecar.errors import ConfigError
from sidecar.llm.chat import loose
from sidecar.llm.providers.address import Site, segment, unsupported
from sidecar.llm.providers.base import (
    COMPLETIONS,
    COUNT,
    EMBEDDINGS,
    GEMINI_COUNT,
    GENERATE,
    MESSAGES,
    REALTIME,
    RERANK,
    RESPONSES,
    UNTOUCHED,
    Authority,
    Call,
    DefaultAuth,
    ErrorFamily,
    Json,
    Target,
)

_BASE: Final = "/v1"
_PATHS: Final = {
    COMPLETIONS: "/chat/completions",
    MESSAGES: "/messages",
    COUNT: "/messages/count_tokens",
    RESPONSES: "/responses",
    EMBEDDINGS: "/embeddings",
    RERANK: "/rerank",
    REALTIME: "/realtime",
}
_ANTHROPIC: Final = frozenset((MESSAGES, COUNT))
_GOOGLE: Final = frozenset((GENERATE, GEMINI_COUNT))
_VERSION: Final = ((b"anthropic-version", b"2023-06-01"),)
_OURS: Final = frozenset(("alt",))


class Preset(NamedTuple):
    """A provider that needs no more than its name: base URL, and format to path (None: usual)."""

    url: str
    formats: Mapping[str, str | None]


def _usual(*formats: str) -> dict[str, str | None]:
    return dict.fromkeys(formats)


PRESETS: Final[Mapping[str, Preset]] = {
    "cohere": Preset(
        "https://api.cohere.ai",
        {
            COMPLETIONS: "/compatibility/v1/chat/completions",
            EMBEDDINGS: "/compatibility/v1/embeddings",
            RERANK: "/v2/rerank",
        },
    ),
    "ollama": Preset("http://localhost:11434/v1", _usual(COMPLETIONS, RESPONSES, EMBEDDINGS)),
    "baseten": Preset("https://inference.baseten.co/v1", _usual(COMPLETIONS, MESSAGES)),
    "cerebras": Preset("https://api.cerebras.ai/v1", _usual(COMPLETIONS)),
    "deepinfra": Preset(
        "https://api.deepinfra.com/v1/openai",
        {COMPLETIONS: None, MESSAGES: "/anthropic/v1/messages", EMBEDDINGS: None},
    ),
    "deepseek": Preset(
        "https://api.deepseek.com/v1",
        {COMPLETIONS: None, MESSAGES: "/anthropic/v1/messages", RESPONSES: None},
    ),
    "groq": Preset("https://api.groq.com/openai/v1", _usual(COMPLETIONS, RESPONSES)),
    "huggingface": Preset("https://router.huggingface.co/v1", _usual(COMPLETIONS, RESPONSES)),
    "mistral": Preset("https://api.mistral.ai/v1", _usual(COMPLETIONS, EMBEDDINGS)),
    "openrouter": Preset(
        "https://openrouter.ai/api/v1",
        _usual(COMPLETIONS, MESSAGES, RESPONSES, EMBEDDINGS, RERANK),
    ),
    "togetherai": Preset("https://api.together.xyz/v1", _usual(COMPLETIONS, EMBEDDINGS, RERANK)),
    "xai": Preset("https://api.x.ai/v1", _usual(COMPLETIONS, RESPONSES, REALTIME)),
    "fireworks": Preset(
        "https://api.fireworks.ai/inference/v1",
        _usual(COMPLETIONS, MESSAGES, RESPONSES, EMBEDDINGS, RERANK),
    ),
}


_MAX_TOKENS: Final = frozenset(
    (
        "baseten",
        "cohere",
        "deepinfra",
        "deepseek",
        "huggingface",
        "mistral",
        "ollama",
        "togetherai",
    )
)
"""Presets that know the limit by its old name only: others ignore the new one, Mistral refuses
it."""
_REFUSED: Final = {"mistral": ("metadata", "service_tier", "user")}
"""Fields that a preset answers with 422."""


@final
class Custom:
    """`formats`: each with its path, None for the usual one; a path given is used verbatim, no
    prefix stands before it. Raises: ConfigError."""

    kind = "custom"
    auth = DefaultAuth()

    def __init__(
        self,
        site: Site,
        formats: Mapping[str, str | None],
        name: str | None = None,
        model: str | None = None,
    ) -> None:
        if site.authority is None:
            raise ConfigError("", "a custom provider requires a baseUrl or hostOverride")
        if not formats:
            raise ConfigError("", "a custom provider must specify at least one format")
        for path in formats.values():
            if path is not None and not path.startswith("/"):
                raise ConfigError("", "the path of a format starts with `/`")
        self.name = name or "custom"
        self.model = model
        # The client's path says nothing about a provider whose formats and paths are listed.
        self._site = replace(site, keeps_path=False)
        self._authority = site.authority
        self._paths = dict(formats)
        self._formats = frozenset(formats)

    def authorities(self) -> tuple[Authority, ...]:
        """See Provider."""
        return (self._authority,)

    def formats(self, model: str) -> frozenset[str]:
        """See Provider."""
        return self._formats

    def dialect(self, format: str, model: str) -> str:
        """See Provider."""
        return ""

    def target(self, call: Call) -> Target:
        """See Provider."""
        site, wanted = self._site, call.format
        if wanted in UNTOUCHED:
            return Target(self._authority, site.replaced(call, _BASE, ""))
        if wanted not in self._formats:
            raise unsupported(self.name, wanted)
        set_ = _VERSION if wanted in _ANTHROPIC else ()
        explicit = self._paths[wanted]
        if explicit is not None:
            path = site.verbatim(call, explicit)
        elif wanted in _GOOGLE:
            suffix, query = _native(call)
            path = site.replaced(call, "/v1beta", suffix, query, _OURS)
        else:
            path = site.replaced(call, _BASE, _PATHS[wanted])
        return Target(self._authority, path, set_)

    def edit(self, body: Json, call: Call) -> None:
        """See Provider. A client of another format could not know what this one takes; who speaks
        it is taken at his word."""
        if call.format != COMPLETIONS or call.client_format == COMPLETIONS:
            return
        if self.name in _MAX_TOKENS and "max_completion_tokens" in body:
            body["max_tokens"] = body.pop("max_completion_tokens")
        for key in _REFUSED.get(self.name, ()):
            body.pop(key, None)
        if self.name in PRESETS:
            for message in loose.objects(body.get("messages")):
                # Only OpenAI's own models know more than one such role: others refuse it.
                if message.get("role") == "developer":
                    message["role"] = "system"

    def error_family(self, format: str, model: str) -> ErrorFamily:
        """See Provider."""
        if format in _ANTHROPIC:
            return "anthropic"
        return "google" if format in _GOOGLE else "openai"

    def excludes_cache(self, format: str, model: str) -> bool:
        """See Provider."""
        return format in _ANTHROPIC

    def settings(self, model: str) -> Json:
        """See Provider."""
        return {}


def _native(call: Call) -> tuple[str, str]:
    where = f"/models/{segment(call.model.removeprefix('models/'))}"
    if call.format == GEMINI_COUNT:
        return f"{where}:countTokens", ""
    if call.is_streaming:
        return f"{where}:streamGenerateContent", "alt=sse"
    return f"{where}:generateContent", ""
