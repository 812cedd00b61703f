"""OpenAI's moderation service.

Source: OpenAI API reference (moderations); spec/llm.md section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import orjson

from sidecar.llm.guard.verdict import Ask, GuardError, Judging, Phase, parsed

_MODEL: Final = "omni-moderation-latest"


@final
class OpenAiModeration:
    """See CloudService."""

    host = "https://api.openai.com"

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._model = config.get("model") or _MODEL

    def auth(self, given: Any) -> Any:
        """See CloudService."""
        return given

    def judging(self, phase: Phase, texts: Sequence[str]) -> Judging:
        """See CloudService. What is flagged in any text refuses all."""
        body = orjson.dumps({"input": list(texts), "model": self._model})
        (answer,) = yield [Ask("/v1/moderations", body)]
        results = parsed(answer).get("results")
        # A text without a result was not judged.
        if not isinstance(results, list) or len(results) != len(texts):
            raise GuardError("its answer has not one result for each text")
        flags = [one.get("flagged") if isinstance(one, dict) else None for one in results]
        if not all(isinstance(flag, bool) for flag in flags):
            raise GuardError("a result does not say whether it is flagged")
        return any(flags)
