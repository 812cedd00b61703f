"""OpenAI.

Source: spec llm sections 1.1 and 1.2; OpenAI API reference.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.providers.address import Site, unsupported
from sidecar.llm.providers.base import (
    COMPLETIONS,
    EMBEDDINGS,
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
from sidecar.llm.providers.openai_tools import complete_schemas

_BASE: Final = "/v1"
_PATHS: Final = {
    COMPLETIONS: "/chat/completions",
    RESPONSES: "/responses",
    EMBEDDINGS: "/embeddings",
    RERANK: "/rerank",
    REALTIME: "/realtime",
}
_FORMATS: Final = frozenset(_PATHS)


@final
class OpenAI:
    """`moderation`: the field of that name, put in the place of what the client sent."""

    kind = "openai"
    name = "openai"
    auth = DefaultAuth()

    def __init__(
        self, site: Site, model: str | None = None, moderation: Json | None = None
    ) -> None:
        self.model = model
        self._site = site
        self._moderation = moderation
        self._authority = site.at("api.openai.com")

    def authorities(self) -> tuple[Authority, ...]:
        """See Provider."""
        return (self._authority,)

    def formats(self, model: str) -> frozenset[str]:
        """See Provider."""
        return _FORMATS

    def dialect(self, format: str, model: str) -> str:
        """See Provider."""
        return ""

    def target(self, call: Call) -> Target:
        """See Provider."""
        suffix = _PATHS.get(call.format)
        if suffix is None and call.format not in UNTOUCHED:
            raise unsupported("OpenAI", call.format)
        return Target(self._authority, self._site.replaced(call, _BASE, suffix or ""))

    def edit(self, body: Json, call: Call) -> None:
        """See Provider."""
        if self._moderation is not None and call.format in (COMPLETIONS, RESPONSES):
            body["moderation"] = self._moderation
        complete_schemas(body, call)

    def error_family(self, format: str, model: str) -> ErrorFamily:
        """See Provider."""
        return "openai"

    def excludes_cache(self, format: str, model: str) -> bool:
        """See Provider."""
        return False

    def settings(self, model: str) -> Json:
        """See Provider."""
        return {}
