"""Cohere's rerank, version 2, and the answers of those who speak nearly the same.

Source: Cohere API reference (v2 rerank); Voyage and Jina references (usage); spec llm 2.13.
"""

from __future__ import annotations

from typing import final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, WireFormat
from sidecar.llm.chat.plain import PlainFormat
from sidecar.llm.pieces import RERANK_SEARCH
from sidecar.llm.usage import Usage


@final
class _Rerank(PlainFormat):
    """RR."""

    name = "rerank"

    def check(self, body: Json) -> None:
        super().check(body)
        if not isinstance(body.get("query"), str):
            raise loose.refuse("query", "a string")
        if not isinstance(body.get("documents"), list):
            raise loose.refuse("documents", "a list")

    def is_streaming(self, body: Json) -> bool:
        return False

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        """Input is all that counts: a ranking has no output tokens to pay for."""
        tokens = loose.obj(loose.obj(body.get("meta")).get("tokens"))
        sent = loose.count(tokens.get("input_tokens"))
        if sent is None:
            sent = loose.count(loose.obj(body.get("usage")).get("total_tokens"))
        model = loose.name(body.get("model"))
        usage = Usage(input_tokens=sent, total_tokens=sent, provider_model=model)
        billed = loose.obj(loose.obj(body.get("meta")).get("billed_units"))
        usage.piece(RERANK_SEARCH, billed.get("search_units"))
        return usage


FORMAT: WireFormat = _Rerank()
