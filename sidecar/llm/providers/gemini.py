"""Google's Gemini API: the native form, and the compatibility shim beside it.

Source: spec llm sections 1.1 and 1.2; Gemini API reference.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.providers.address import Site, segment, unsupported
from sidecar.llm.providers.base import (
    COMPLETIONS,
    EMBEDDINGS,
    GEMINI_COUNT,
    GENERATE,
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

_SHIM: Final = {
    COMPLETIONS: "/v1beta/openai/chat/completions",
    EMBEDDINGS: "/v1beta/openai/embeddings",
    RERANK: "/rerank",
}
_NATIVE: Final = frozenset((GENERATE, GEMINI_COUNT))
_FORMATS: Final = _NATIVE | _SHIM.keys()
_KEYS: Final = KeyPlace(b"x-goog-api-key", only=(b"AIza", b"AQ."))
"""As keys begin, old and new; OAuth tokens do not."""
_BEARER: Final = KeyPlace()
_OURS: Final = frozenset(("alt",))
"""The gateway decides whether a stream is asked for as SSE."""


@final
class Gemini:
    """Gemini models with an API key."""

    kind = "gemini"
    name = "gcp.gemini"
    auth = DefaultAuth()

    def __init__(self, site: Site, model: str | None = None) -> None:
        self.model = model
        self._site = site
        self._authority = site.at("generativelanguage.googleapis.com")

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
        site = self._site
        if call.format in _NATIVE:
            path, query = _native(call)
            if call.client_format in _NATIVE:
                raw = site.prepended(call, path, query, _OURS)
            else:
                raw = site.foreign(call, path, query)
            return Target(self._authority, raw, key_place=_KEYS)
        if call.format in UNTOUCHED:
            # Their path is the client's: whether it is native decides where its key belongs.
            native = "/openai/" not in call.path
            keys = _KEYS if native else _BEARER
            return Target(self._authority, site.prepended(call, ""), key_place=keys)
        shim = _SHIM.get(call.format)
        if shim is None:
            raise unsupported("Gemini", call.format)
        return Target(self._authority, site.foreign(call, shim))

    def edit(self, body: Json, call: Call) -> None:
        """See Provider."""

    def error_family(self, format: str, model: str) -> ErrorFamily:
        """See Provider."""
        return "google"

    def excludes_cache(self, format: str, model: str) -> bool:
        """See Provider."""
        return False

    def settings(self, model: str) -> Json:
        """See Provider."""
        return {}


def _native(call: Call) -> tuple[str, str]:
    kind, slash, name = call.model.partition("/")
    if not slash or kind not in ("models", "tunedModels"):
        kind, name = "models", call.model
    where = f"/v1beta/{kind}/{segment(name)}"
    if call.format == GEMINI_COUNT:
        return f"{where}:countTokens", ""
    if call.is_streaming:
        return f"{where}:streamGenerateContent", "alt=sse"
    return f"{where}:generateContent", ""
