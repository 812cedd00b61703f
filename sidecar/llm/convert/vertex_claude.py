"""Anthropic messages as Vertex takes them for Claude: the format is the same, some keys are not.

Answers and streams are Anthropic's own and go by untouched, so the gateway needs `adjusted` only;
the conversion around it is for buffered calls and for errors, which may be Google's.

Source: spec llm section 1.2; Vertex AI documentation (Claude models).
"""

from __future__ import annotations

from typing import Any, Final, final

import orjson

from sidecar.http.sse import encode_event
from sidecar.llm.convert.base import Context, Conversion, Json, StreamEvent
from sidecar.llm.convert.cloud_error import google_error
from sidecar.llm.convert.provider_error import EARLY_END, ProviderError, as_anthropic
from sidecar.llm.shape import to_objects

VERSION: Final = "vertex-2023-10-16"
_LEFT_OUT: Final = frozenset(("model", "output_format"))
_CACHED: Final = ("system", "messages", "tools")


def adjusted(body: Json) -> Json:
    """The body with what Vertex wants and without what it refuses. `body` is not changed.

    Raises: ShapeError.
    """
    out = {name: value for name, value in body.items() if name not in _LEFT_OUT}
    for name in _CACHED:
        if isinstance(out.get(name), list):
            out[name] = _without_scope(out[name])
    to_objects(out.get("messages"), "messages")
    if isinstance(out.get("cache_control"), dict):
        out["cache_control"] = _unscoped(out["cache_control"])
    out["anthropic_version"] = VERSION
    return out


def _without_scope(value: Any) -> Any:
    """The same list, itself where nothing is cached with a scope, so that big texts stay put."""
    items = [_block(item) for item in value]
    return items if any(new is not old for new, old in zip(items, value, strict=True)) else value


def _block(block: Any) -> Any:
    """A block, tool or message without the scope of its cache_control, nor of those inside it."""
    if not isinstance(block, dict):
        return block
    changes: Json = {}
    control = block.get("cache_control")
    if isinstance(control, dict) and "scope" in control:
        changes["cache_control"] = _unscoped(control)
    content = block.get("content")
    if isinstance(content, list):
        inner = _without_scope(content)
        if inner is not content:
            changes["content"] = inner
    return block | changes if changes else block


def _unscoped(control: Json) -> Json:
    return {name: value for name, value in control.items() if name != "scope"}


@final
class _Stream:
    """Anthropic's events as they come."""

    __slots__ = ("_is_ended",)

    def __init__(self) -> None:
        self._is_ended = False

    def feed(self, event: StreamEvent) -> list[bytes]:
        data = event.data
        if data is None or self._is_ended:
            return []
        self._is_ended = data.get("type") in ("message_stop", "error")
        return [encode_event(orjson.dumps(data), event.name.encode())]

    def finish(self) -> list[bytes]:
        if self._is_ended:
            return []
        self._is_ended = True
        error = as_anthropic(502, ProviderError(EARLY_END))
        return [encode_event(orjson.dumps(error), b"error")]


@final
class _VertexClaude:
    """M → M of Vertex."""

    def request(self, body: Json, context: Context) -> Json:
        return adjusted(body)

    def response(self, body: Json, context: Context) -> Json:
        return body

    def stream(self, context: Context) -> _Stream:
        return _Stream()

    def error(self, status: int, body: bytes, context: Context) -> Json:
        return as_anthropic(status, google_error(body))


CONVERSION: Conversion = _VertexClaude()
