"""GitHub Copilot: models of several makers, each in the formats that it happens to speak.

Source: spec llm section 1.2.
"""

from __future__ import annotations

from typing import Any, Final, final

from sidecar.llm.providers.address import Site, unsupported
from sidecar.llm.providers.base import (
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    RERANK,
    RESPONSES,
    UNTOUCHED,
    Authority,
    Call,
    DefaultAuth,
    ErrorFamily,
    Json,
    Tags,
    Target,
)
from sidecar.llm.providers.openai_tools import complete_schemas

_PATHS: Final = {
    MESSAGES: "/v1/messages",
    RESPONSES: "/responses",
    EMBEDDINGS: "/embeddings",
    RERANK: "/rerank",
    COMPLETIONS: "/chat/completions",
}
HEADERS: Final = (
    (b"editor-version", b"vscode/1.104.1"),
    (b"x-github-api-version", b"2025-10-01"),
    (b"x-initiator", b"agent"),
    (b"x-interaction-type", b"conversation-agent"),
    (b"openai-intent", b"conversation-agent"),
)
"""What it demands beside the token."""
_TAGS: Final = {
    "openai_completions": COMPLETIONS,
    "openai_responses": RESPONSES,
    "anthropic_messages": MESSAGES,
}
"""Of the tags that the spec names, those whose path Copilot has."""
_BY_NAME: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    ("claude-", frozenset((MESSAGES, COMPLETIONS))),
    ("grok-", frozenset((RESPONSES,))),
    ("mai-", frozenset((RESPONSES,))),
    ("gemini-", frozenset((COMPLETIONS,))),
    ("gpt-3", frozenset((COMPLETIONS,))),
    ("gpt-4", frozenset((COMPLETIONS,))),
    ("gpt-5.4", frozenset((COMPLETIONS, RESPONSES))),
    ("gpt-5-mini", frozenset((COMPLETIONS, RESPONSES))),
    ("gpt-", frozenset((RESPONSES,))),
    ("", frozenset((COMPLETIONS,))),
)
"""The first prefix of the model's name decides."""
_REST: Final = frozenset((EMBEDDINGS, RERANK))


@final
class Copilot:
    """`tags`: those of the catalogue decide, where it has any, over the table of names."""

    kind = "copilot"
    name = "copilot"
    auth = DefaultAuth("copilot")

    def __init__(self, site: Site, model: str | None = None, tags: Tags | None = None) -> None:
        self.model = model
        self._site = site
        self._tags = tags
        self._authority = site.at("api.githubcopilot.com")

    def authorities(self) -> tuple[Authority, ...]:
        """See Provider."""
        return (self._authority,)

    def formats(self, model: str) -> frozenset[str]:
        """See Provider."""
        name = model.lower()
        if self._tags is not None:
            tagged = frozenset(_TAGS[tag] for tag in self._tags("copilot", name) if tag in _TAGS)
            if tagged:
                return tagged | _REST
        return next(formats for prefix, formats in _BY_NAME if name.startswith(prefix)) | _REST

    def dialect(self, format: str, model: str) -> str:
        """See Provider."""
        return ""

    def target(self, call: Call) -> Target:
        """See Provider."""
        suffix = _PATHS.get(call.format)
        if suffix is None and call.format not in UNTOUCHED:
            raise unsupported("Copilot", call.format)
        return Target(self._authority, self._site.replaced(call, "", suffix or ""), HEADERS)

    def edit(self, body: Json, call: Call) -> None:
        """See Provider."""
        complete_schemas(body, call)

    def repair(self, body: dict[str, Any], call: Call) -> bool:
        """Fill in what embedding answers lack, in place; False when that is nothing."""
        if call.format != EMBEDDINGS or ("object" in body and "model" in body):
            return False
        body.setdefault("object", "list")
        body.setdefault("model", call.model)
        return True

    def error_family(self, format: str, model: str) -> ErrorFamily:
        """See Provider."""
        return "anthropic" if format == MESSAGES else "openai"

    def excludes_cache(self, format: str, model: str) -> bool:
        """See Provider."""
        return format == MESSAGES

    def settings(self, model: str) -> Json:
        """See Provider."""
        return {}
