"""OpenAI embeddings.

Source: OpenAI API reference (embeddings); spec llm section 2.13.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, WireFormat
from sidecar.llm.chat.plain import PlainFormat
from sidecar.llm.usage import Usage

_PARAMS: Final = {
    "dimensions": "dimensions",
    "encoding_format": "encoding_format",
}


@final
class _Embeddings(PlainFormat):
    """E. Inputs are texts, lists of texts or token numbers; guards leave them alone."""

    name = "embeddings"

    def check(self, body: Json) -> None:
        super().check(body)
        if not isinstance(body.get("input"), str | list):
            raise loose.refuse("input", "a string or a list")

    def is_streaming(self, body: Json) -> bool:
        return False

    def params(self, body: Json) -> Json:
        return loose.pick(body, _PARAMS)

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        usage = loose.obj(body.get("usage"))
        return Usage(
            input_tokens=loose.count(usage.get("prompt_tokens")),
            total_tokens=loose.count(usage.get("total_tokens")),
            provider_model=loose.name(body.get("model")),
        )


FORMAT: WireFormat = _Embeddings()
