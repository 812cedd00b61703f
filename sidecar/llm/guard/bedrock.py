"""Amazon Bedrock's ApplyGuardrail.

Source: Amazon Bedrock API reference (ApplyGuardrail, GuardrailAssessment); spec/llm.md section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final
from urllib.parse import quote

import orjson

from sidecar.llm.guard.verdict import Ask, GuardError, Json, Judging, Phase, parsed, values_of

_UNRESERVED: Final = "-._~"
_SOURCES: Final[Mapping[Phase, str]] = {"Request": "INPUT", "Response": "OUTPUT"}


@final
class BedrockGuardrails:
    """See CloudService."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        region = config["region"]
        name = quote(config["guardrailIdentifier"], safe=_UNRESERVED)
        version = quote(config["guardrailVersion"], safe=_UNRESERVED)
        self.host = f"https://bedrock-runtime.{region}.amazonaws.com"
        self._aws: Json = {"region": region, "serviceName": "bedrock"}
        self._target = f"/guardrail/{name}/version/{version}/apply"

    def auth(self, given: Any) -> Any:
        """See CloudService. A signature is of this service, and of its region unless one is set."""
        if given is None:
            return {"aws": self._aws}
        if not isinstance(given, dict) or given.get("aws") is None:
            return given
        set_here = {key: value for key, value in given["aws"].items() if value is not None}
        return {**given, "aws": {**self._aws, **set_here}}

    def judging(self, phase: Phase, texts: Sequence[str]) -> Judging:
        """See CloudService."""
        content = [{"text": {"text": text}} for text in texts]
        body = orjson.dumps({"source": _SOURCES[phase], "content": content})
        (answer,) = yield [Ask(self._target, body)]
        value = parsed(answer)
        action = value.get("action")
        if action == "NONE":
            return False
        if action != "GUARDRAIL_INTERVENED":
            raise GuardError("its answer has no known `action`")
        actions = values_of(value.get("assessments"), "action")
        if "ANONYMIZED" not in actions or "BLOCKED" in actions:
            return True
        masked = _outputs(value.get("outputs"))
        # With another number of texts nobody knows which mask is whose.
        return masked if masked is not None and len(masked) == len(texts) else True


def _outputs(outputs: object) -> list[str] | None:
    if not isinstance(outputs, list):
        return None
    texts = [one.get("text") if isinstance(one, dict) else None for one in outputs]
    known = [text for text in texts if isinstance(text, str)]
    return known if len(known) == len(texts) else None
