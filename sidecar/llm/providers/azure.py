"""Microsoft Azure: Azure OpenAI resources and Foundry projects.

A deployment may have any name. Which of Foundry's are Claude's is said by the price catalogue's
tags (provider `azure`, the deployment's name): `anthropic_messages`, or the model's own name, such
as `claude-opus-4-7`. Else it is guessed from the name.

Source: spec llm section 1.2; Azure OpenAI and Foundry REST references.
"""

from __future__ import annotations

import re
from typing import Final, final

from sidecar.llm.providers.address import Site, segment, unsupported
from sidecar.llm.providers.base import (
    COMPLETIONS,
    COUNT,
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
    KeyPlace,
    Tags,
    Target,
)
from sidecar.llm.providers.openai_tools import complete_schemas

_OPENAI: Final = {
    COMPLETIONS: "chat/completions",
    RESPONSES: "responses",
    EMBEDDINGS: "embeddings",
    RERANK: "rerank",
}
_CLAUDE: Final = {
    MESSAGES: "/anthropic/v1/messages",
    COUNT: "/anthropic/v1/messages/count_tokens",
}
_OPENAI_FORMATS: Final = frozenset(_OPENAI)
_CLAUDE_FORMATS: Final = frozenset((*_CLAUDE, EMBEDDINGS, RERANK))
_ANTHROPIC: Final = ((b"anthropic-version", b"2023-06-01"),)
_KEYS: Final = KeyPlace(b"api-key", never=(b"eyJ",))
"""Tokens of Microsoft Entra are JWTs and stay bearer tokens."""
_CLAUDE_KEYS: Final = KeyPlace(b"x-api-key", never=(b"eyJ",))
_OURS: Final = frozenset(("api-version",))
"""It goes with the path: where the path has none, Azure refuses one."""
_CLAUDE_NAME: Final = re.compile(r"(?<![a-z])claude(?![a-z])", re.IGNORECASE)
"""`claude-opus-4-5`, also `team-a_Claude`."""
_CLAUDE_TAG: Final = "anthropic_messages"
_OPENAI_TAGS: Final = frozenset(("openai_completions", "openai_responses"))


@final
class Azure:
    """One resource. `project`: of Foundry, by default the resource's name. `tags`: what the
    catalogue says of a deployment."""

    kind = "azure"
    name = "azure"

    def __init__(
        self,
        site: Site,
        resource: str,
        *,
        is_foundry: bool,
        api_version: str | None = None,
        project: str | None = None,
        model: str | None = None,
        tags: Tags | None = None,
    ) -> None:
        self.model = model
        self._tags = tags
        self._site = site
        self._is_foundry = is_foundry
        self._version = api_version or "v1"
        self._project = segment(project or resource)
        if is_foundry:
            self._authority = site.at(f"{resource}.services.ai.azure.com")
            self.auth = DefaultAuth("azure", "https://ai.azure.com/.default")
        else:
            self._authority = site.at(f"{resource}.openai.azure.com")
            self.auth = DefaultAuth("azure", "https://cognitiveservices.azure.com/.default")

    def authorities(self) -> tuple[Authority, ...]:
        """See Provider."""
        return (self._authority,)

    def _is_claude(self, model: str) -> bool:
        if not self._is_foundry:
            return False
        tags = self._tagged(model)
        if _CLAUDE_TAG in tags or _claude(tags):
            return True
        return tags.isdisjoint(_OPENAI_TAGS) and _CLAUDE_NAME.search(model) is not None

    def _tagged(self, model: str) -> frozenset[str]:
        return frozenset() if self._tags is None else self._tags(self.name, model)

    def formats(self, model: str) -> frozenset[str]:
        """See Provider."""
        return _CLAUDE_FORMATS if self._is_claude(model) else _OPENAI_FORMATS

    def dialect(self, format: str, model: str) -> str:
        """See Provider."""
        return ""

    def target(self, call: Call) -> Target:
        """See Provider."""
        site = self._site
        if call.format in UNTOUCHED:
            return self._untouched(call)
        if call.format not in self.formats(call.model):
            raise unsupported("Azure", call.format)
        if call.format in _CLAUDE:
            path = site.prepended(call, _CLAUDE[call.format])
            return Target(self._authority, path, _ANTHROPIC, key_place=_CLAUDE_KEYS)
        where, query = self._openai(call, _OPENAI[call.format])
        drop = _OURS if query or not site.keeps_path else frozenset[str]()
        path = site.prepended(call, where, query, drop)
        return Target(self._authority, path, key_place=_KEYS)

    def _untouched(self, call: Call) -> Target:
        if "/anthropic/" in call.path:
            path = self._site.prepended(call, "")
            return Target(self._authority, path, _ANTHROPIC, key_place=_CLAUDE_KEYS)
        return Target(self._authority, self._site.prepended(call, ""), key_place=_KEYS)

    def _openai(self, call: Call, suffix: str) -> tuple[str, str]:
        if self._is_foundry:
            return f"/api/projects/{self._project}/openai/v1/{suffix}", ""
        version = self._version
        if version == "v1":
            return f"/openai/v1/{suffix}", ""
        if version == "preview":
            return f"/openai/v1/{suffix}", "api-version=preview"
        query = f"api-version={segment(version)}"
        if call.format == RESPONSES:
            return "/openai/responses", query
        return f"/openai/deployments/{segment(call.model)}/{suffix}", query

    def edit(self, body: Json, call: Call) -> None:
        """See Provider."""
        complete_schemas(body, call)

    def error_family(self, format: str, model: str) -> ErrorFamily:
        """See Provider."""
        return "anthropic" if format in _CLAUDE else "openai"

    def excludes_cache(self, format: str, model: str) -> bool:
        """See Provider."""
        return self._is_claude(model) and format not in _OPENAI

    def settings(self, model: str) -> Json:
        """See Provider."""
        name = _claude(self._tagged(model)) if self._is_foundry else ""
        return {"knownAs": name} if name else {}


def _claude(tags: frozenset[str]) -> str:
    """The model that the tags name: what it can do is told by that; "" for none."""
    return min((tag for tag in tags if tag.startswith("claude-")), default="")
