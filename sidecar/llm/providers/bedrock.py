"""Amazon Bedrock: Converse for every chat model, and the runtime's other calls.

Source: spec llm section 1.2; Amazon Bedrock API reference.
"""

from __future__ import annotations

from typing import Final, final
from urllib.parse import quote

from sidecar.errors import RequestError
from sidecar.llm.providers.address import Site, unsupported
from sidecar.llm.providers.base import (
    CONVERSE,
    COUNT,
    EMBEDDINGS,
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

_FORMATS: Final = frozenset((CONVERSE, EMBEDDINGS, RERANK))
_WITH_COUNT: Final = _FORMATS | {COUNT}
_DIALECTS: Final = frozenset((EMBEDDINGS, RERANK, COUNT))
_ACTIONS: Final = {EMBEDDINGS: "invoke", COUNT: "count-tokens"}
_SESSION: Final = frozenset((b"conversation_id", b"session_id"))
"""Sent by clients of the responses format; Amazon refuses names with an underscore."""


@final
class Bedrock:
    """One region. `guardrail`: `(identifier, version)` to apply to every Converse call."""

    kind = "bedrock"
    name = "aws.bedrock"

    def __init__(
        self,
        site: Site,
        region: str,
        model: str | None = None,
        guardrail: tuple[str, str] | None = None,
    ) -> None:
        self.model = model
        self.auth = DefaultAuth("aws", region=region, service="bedrock")
        self._site = site
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        self._authority = site.at(f"bedrock-runtime.{region}.{domain}")
        self._agent = site.at(f"bedrock-agent-runtime.{region}.{domain}")
        # Of the model's ARN, which reranking wants in the body.
        self._settings: Json = {"region": region}
        if guardrail is not None:
            self._settings["guardrailConfig"] = {
                "guardrailIdentifier": guardrail[0],
                "guardrailVersion": guardrail[1],
                "trace": "enabled",
            }

    def authorities(self) -> tuple[Authority, ...]:
        """See Provider."""
        if self._agent == self._authority:
            return (self._authority,)
        return (self._authority, self._agent)

    def formats(self, model: str) -> frozenset[str]:
        """See Provider."""
        return _WITH_COUNT if "anthropic.claude" in model else _FORMATS

    def dialect(self, format: str, model: str) -> str:
        """See Provider."""
        return "bedrock" if format in _DIALECTS else ""

    def target(self, call: Call) -> Target:
        """See Provider."""
        if call.format == RERANK:
            return Target(self._agent, self._site.foreign(call, "/rerank"))
        if call.format in UNTOUCHED:
            return Target(self._authority, self._site.prepended(call, ""))
        if call.format not in self.formats(call.model):
            raise unsupported("Bedrock", call.format)
        if call.format == CONVERSE:
            action = "converse-stream" if call.is_streaming else "converse"
        else:
            action = _ACTIONS[call.format]
        path = f"/model/{_model(call.model)}/{action}"
        gone = _SESSION if call.client_format == RESPONSES else frozenset[bytes]()
        return Target(self._authority, self._site.foreign(call, path), headers_remove=gone)

    def edit(self, body: Json, call: Call) -> None:
        """See Provider."""

    def error_family(self, format: str, model: str) -> ErrorFamily:
        """See Provider."""
        return "bedrock"

    def excludes_cache(self, format: str, model: str) -> bool:
        """See Provider."""
        return True

    def settings(self, model: str) -> Json:
        """See Provider."""
        return self._settings


def _model(model: str) -> str:
    # An ARN holds slashes; they are part of the name, not of the path.
    if model in ("", ".", ".."):
        raise RequestError(400, "InvalidRequest", "the model's name cannot be part of a path")
    return quote(model, safe=":@=+,!$&'()*;")
