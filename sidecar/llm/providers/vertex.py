"""Google Vertex AI: Gemini models, Claude models, and others behind an OpenAI-like shim.

Source: spec llm section 1.2; Vertex AI API reference.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal, NamedTuple, final

from sidecar.llm.providers.address import Site, segment, unsupported
from sidecar.llm.providers.base import (
    COMPLETIONS,
    COUNT,
    EMBEDDINGS,
    GEMINI_COUNT,
    GENERATE,
    MESSAGES,
    RERANK,
    UNTOUCHED,
    Authority,
    Call,
    DefaultAuth,
    ErrorFamily,
    Json,
    KeyPlace,
    Target,
)

_DATED: Final = re.compile(r"(.+)-(20[0-9]{6})")
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
_FORMATS: Final = {
    "claude": frozenset((MESSAGES, COUNT, EMBEDDINGS, RERANK)),
    "gemini": frozenset((GENERATE, GEMINI_COUNT, COMPLETIONS, EMBEDDINGS, RERANK)),
    "other": frozenset((COMPLETIONS, EMBEDDINGS, RERANK)),
}
_DIALECTS: Final = frozenset((EMBEDDINGS, RERANK, COUNT, MESSAGES))
_KEYS: Final = KeyPlace(b"x-goog-api-key", only=(b"AIza", b"AQ."))
"""As keys begin, old and new; OAuth tokens do not."""
_GOOGLE: Final = frozenset((GENERATE, GEMINI_COUNT))
_OURS: Final = frozenset(("alt",))


class VertexModel(NamedTuple):
    """A model's family, and its id as it stands in paths."""

    family: Literal["claude", "gemini", "other"]
    id: str


@lru_cache(maxsize=1024)
def vertex_model(model: str) -> VertexModel:
    """What kind of model a name means. Names of Claude models end in `@YYYYMMDD` here."""
    for prefix in ("publishers/anthropic/models/", "anthropic/"):
        if model.startswith(prefix):
            return VertexModel("claude", _dated(model[len(prefix) :]))
    if model.startswith("claude-"):
        return VertexModel("claude", _dated(model))
    name = _google(model)
    is_gemini = name.startswith(("gemini-", "gemini@")) and "embedding" not in name
    if is_gemini and _SAFE_NAME.fullmatch(name):
        return VertexModel("gemini", name)
    return VertexModel("other", model)


def _dated(name: str) -> str:
    found = _DATED.fullmatch(name)
    return f"{found[1]}@{found[2]}" if found else name


def _google(model: str) -> str:
    for prefix in ("publishers/google/models/", "models/", "google/"):
        if model.startswith(prefix):
            return model[len(prefix) :]
    return model


@final
class Vertex:
    """One project in one region; `region` None is `global`."""

    kind = "vertex"
    name = "gcp.vertex_ai"
    auth = DefaultAuth("gcp")

    def __init__(
        self, site: Site, project: str, region: str | None = None, model: str | None = None
    ) -> None:
        self.model = model
        self._site = site
        region = region or "global"
        self._base = f"/v1/projects/{segment(project)}/locations/{segment(region)}"
        self._authority = site.at(_host(region))
        self._ranking = site.at("discoveryengine.googleapis.com")
        self._rank_path = f"{self._base}/rankingConfigs/default_ranking_config:rank"

    def authorities(self) -> tuple[Authority, ...]:
        """See Provider."""
        if self._ranking == self._authority:
            return (self._authority,)
        return (self._authority, self._ranking)

    def formats(self, model: str) -> frozenset[str]:
        """See Provider."""
        return _FORMATS[vertex_model(model).family]

    def dialect(self, format: str, model: str) -> str:
        """See Provider."""
        return "vertex" if format in _DIALECTS else ""

    def target(self, call: Call) -> Target:
        """See Provider."""
        if call.format == RERANK:
            return Target(self._ranking, self._site.foreign(call, self._rank_path))
        if call.format in UNTOUCHED:
            return Target(self._authority, self._site.prepended(call, ""), key_place=_KEYS)
        path, query = self._path(call)
        path = self._base + path
        if call.client_format in _GOOGLE:
            raw = self._site.prepended(call, path, query, _OURS)
        else:
            raw = self._site.foreign(call, path, query)
        return Target(self._authority, raw, key_place=_KEYS)

    def _path(self, call: Call) -> tuple[str, str]:
        family, model = vertex_model(call.model)
        wanted = call.format
        if wanted not in _FORMATS[family]:
            raise unsupported("Vertex AI", wanted)
        if wanted == EMBEDDINGS:
            return f"/publishers/google/models/{segment(_google(call.model))}:predict", ""
        if wanted == COMPLETIONS:
            return "/endpoints/openapi/chat/completions", ""
        if wanted == COUNT:
            return "/publishers/anthropic/models/count-tokens:rawPredict", ""
        if wanted == MESSAGES:
            verb = "streamRawPredict" if call.is_streaming else "rawPredict"
            return f"/publishers/anthropic/models/{segment(model)}:{verb}", ""
        where = f"/publishers/google/models/{segment(model)}"
        if wanted == GEMINI_COUNT:
            return f"{where}:countTokens", ""
        if call.is_streaming:
            return f"{where}:streamGenerateContent", "alt=sse"
        return f"{where}:generateContent", ""

    def edit(self, body: Json, call: Call) -> None:
        """See Provider."""
        family, model = vertex_model(call.model)
        if call.format == COMPLETIONS and family == "gemini":
            # The imitation of OpenAI knows models by `publisher/model`.
            body["model"] = f"google/{model}"

    def error_family(self, format: str, model: str) -> ErrorFamily:
        """See Provider."""
        return "anthropic" if format in (MESSAGES, COUNT) else "google"

    def excludes_cache(self, format: str, model: str) -> bool:
        """See Provider."""
        return vertex_model(model).family == "claude"

    def settings(self, model: str) -> Json:
        """See Provider."""
        return {"strictSchemas": True}


def _host(region: str) -> str:
    if region == "global":
        return "aiplatform.googleapis.com"
    if region in ("us", "eu"):
        return f"aiplatform.{region}.rep.googleapis.com"
    return f"{region}-aiplatform.googleapis.com"
