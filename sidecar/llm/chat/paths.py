"""Which format a request path means, and what else a path says: model and streaming.

Source: spec llm sections 0 (route types), 1.2 and 2.14; Gemini, Vertex and Bedrock URL formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, final
from urllib.parse import quote, unquote, unquote_plus

LLM_MODE: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "completions",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "anthropicTokenCount",
    ":rawPredict": "messages",
    ":streamRawPredict": "messages",
    ":generateContent": "generateContent",
    ":streamGenerateContent": "generateContent",
    ":countTokens": "geminiCountTokens",
    "/v1/responses": "responses",
    "/v1/responses/compact": "detect",
    "/v1/images/generations": "detect",
    "/v1/images/edits": "detect",
    "/v1/images/variations": "detect",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v2/rerank": "rerank",
    "/v1/realtime": "realtime",
    "*": "passthrough",
}
"""The map of `llm` mode; realtime is ours. A model's `passthrough: detect` changes `*` alone."""

_STREAMS: Final = (
    ":streamGenerateContent",
    ":streamRawPredict",
    "/converse-stream",
    "/invoke-with-response-stream",
)
_MODEL: Final = re.compile(
    r"/(?:models|tunedModels)/(?P<google>[^/:]+):[A-Za-z]+$"
    r"|/model/(?P<bedrock>[^/]+)/(?:invoke|invoke-with-response-stream|converse|converse-stream)$"
)
_SAFE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*")
MAX_MODEL_CHARS: Final = 256
_IN_QUERY: Final = ":@/,"
_REMEMBERED: Final = 1024
_REMEMBERED_CHARS: Final = 256


@final
class RouteTypes:
    """A `routes` map: path suffix → format. The longest suffix that fits wins, `*` comes last."""

    __slots__ = ("_default", "_known", "_suffixes")

    def __init__(self, routes: Mapping[str, str]) -> None:
        """`routes` empty: everything is chat completions, as in routing mode without a map."""
        suffixes = [suffix for suffix in routes if suffix != "*"]
        self._suffixes = tuple(
            (suffix, routes[suffix]) for suffix in sorted(suffixes, key=len, reverse=True)
        )
        self._default = routes.get("*", "completions")
        self._known: dict[str, str] = {}

    def resolve(self, path: str) -> str:
        """The format of a path (without its query)."""
        found = self._known.get(path)
        if found is None:
            found = self._resolved(path)
            # Paths come from clients: the memory of them is bounded.
            if len(path) <= _REMEMBERED_CHARS:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[path] = found
        return found

    def _resolved(self, path: str) -> str:
        for suffix, name in self._suffixes:
            if path.endswith(suffix):
                return name
        return self._default


def model_of(path: str) -> str | None:
    """The model that a Gemini, Vertex or Bedrock path names.

    None when it names none, or one that is not safe to be put into another path again.
    """
    # Fast path: most requests name their model in the body.
    if ":" not in path and "/model/" not in path:
        return None
    found = _MODEL.search(path)
    if found is None:
        return None
    model = unquote(found["google"] or found["bedrock"])
    if len(model) > MAX_MODEL_CHARS or ".." in model or not _SAFE.fullmatch(model):
        return None
    return model


def with_model(path: str, model: str) -> str:
    """The same path with another model in it; unchanged when it names none."""
    found = _MODEL.search(path)
    if found is None:
        return path
    group = "google" if found["google"] else "bedrock"
    encoded = model.replace("%", "%25").replace("/", "%2F")
    return path[: found.start(group)] + encoded + path[found.end(group) :]


def model_of_query(query: str) -> str:
    """The first `model` of a query, as realtime sessions name theirs; "" for none."""
    return next((value for name, value in _parameters(query) if name == "model" and value), "")


def query_with_model(query: str, model: str) -> str:
    """The same query with this model, and no other: the peer may believe another of several."""
    if [value for name, value in _parameters(query) if name == "model"] == [model]:
        return query
    kept = [item for item in query.split("&") if item and _parameter(item)[0] != "model"]
    return "&".join((*kept, f"model={quote(model, safe=_IN_QUERY)}"))


def _parameters(query: str) -> Iterator[tuple[str, str]]:
    return (_parameter(item) for item in query.split("&"))


def _parameter(item: str) -> tuple[str, str]:
    name, _, value = item.partition("=")
    return unquote_plus(name), unquote_plus(value)


def is_stream(path: str) -> bool:
    """Whether the path itself asks for a stream."""
    return path.endswith(_STREAMS)


def is_sse_query(query: str) -> bool:
    """Whether `alt=sse` is asked for, without which Google would stream a JSON list."""
    return "alt=sse" in query.split("&")
