"""Azure AI Content Safety: harmful text, blocklists, jailbreaks.

Source: Azure AI Content Safety REST reference (text:analyze 2024-09-01, text:detectJailbreak
2024-02-15-preview); spec/llm.md section 4.2. Longer texts than the service takes go in pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final
from urllib.parse import quote

import orjson

from sidecar.errors import ConfigError
from sidecar.llm.guard.verdict import (
    MAX_ASKS,
    Ask,
    GuardError,
    Json,
    Judging,
    Phase,
    parsed,
    pieces,
)

_CATEGORIES: Final = ("Hate", "SelfHarm", "Sexual", "Violence")
_THRESHOLD: Final = 2
_ANALYZE_CHARS: Final = 10_000
_JAILBREAK_CHARS: Final = 1_000
_OVERLAP_CHARS: Final = 200
_KEY_HEADER: Final = {"header": {"name": "ocp-apim-subscription-key"}}


@final
class AzureContentSafety:
    """See CloudService. Raises: ConfigError, its path below the key."""

    def __init__(self, config: Mapping[str, Any], phase: Phase) -> None:
        endpoint = config["endpoint"].rstrip("/")
        self.host = endpoint if "://" in endpoint else f"https://{endpoint}"
        jailbreak = config.get("detectJailbreak")
        analyze = config.get("analyzeText")
        if phase == "Response" and jailbreak is not None and analyze is None:
            text = "answers are not looked at for jailbreaks; `analyzeText` is needed"
            raise ConfigError("detectJailbreak", text)
        self._jailbreak = ""
        if jailbreak is not None and phase == "Request":
            version = jailbreak.get("apiVersion") or "2024-02-15-preview"
            self._jailbreak = _target("detectJailbreak", version)
        self._analyze = ""
        if analyze is not None or jailbreak is None:
            self._analyze = _target("analyze", (analyze or {}).get("apiVersion") or "2024-09-01")
        given = analyze or {}
        threshold = given.get("severityThreshold")
        self._threshold = _THRESHOLD if threshold is None else threshold
        self._options: Json = {"categories": _CATEGORIES}
        for key in ("blocklistNames", "haltOnBlocklistHit"):
            if given.get(key) is not None:
                self._options[key] = given[key]

    def auth(self, given: Any) -> Any:
        """See CloudService. A plain key goes where the service looks for keys."""
        if given is None:
            return {"azure": {}}
        if isinstance(given, dict) and isinstance(given.get("key"), str):
            return {**given, "key": {"value": given["key"], "location": _KEY_HEADER}}
        return given

    def judging(self, phase: Phase, texts: Sequence[str]) -> Judging:
        """See CloudService. It never masks."""
        joined = "\n".join(texts)
        asks = _asks(self._analyze, joined, _ANALYZE_CHARS, self._options)
        count = len(asks)
        asks += _asks(self._jailbreak, joined, _JAILBREAK_CHARS, {})
        if len(asks) > MAX_ASKS:
            raise GuardError("the text is too long for it")
        answers = yield asks
        # All are read: one that cannot be understood is a failure, whatever the others say.
        harmful = [self._is_harmful(answer) for answer in answers[:count]]
        return any(harmful + [_is_jailbreak(answer) for answer in answers[count:]])

    def _is_harmful(self, answer: bytes) -> bool:
        value = parsed(answer)
        categories = value.get("categoriesAnalysis")
        matches = value.get("blocklistsMatch") or []
        if not isinstance(categories, list) or not isinstance(matches, list):
            raise GuardError("its answer has no `categoriesAnalysis`")
        severities = [one.get("severity") if isinstance(one, dict) else None for one in categories]
        if not all(type(one) is int for one in severities):
            raise GuardError("a category of its answer has no `severity`")
        if not severities and not matches:
            raise GuardError("its answer judges no category")
        return bool(matches) or any(one >= self._threshold for one in severities if one is not None)


def _target(operation: str, version: str) -> str:
    return f"/contentsafety/text:{operation}?api-version={quote(version, safe='')}"


def _asks(target: str, text: str, size: int, options: Json) -> list[Ask]:
    """Of each piece of the text; none without a target."""
    if not target:
        return []
    cut = pieces(text, size, _OVERLAP_CHARS)
    return [Ask(target, orjson.dumps({"text": piece, **options})) for piece in cut]


def _is_jailbreak(answer: bytes) -> bool:
    analysis = parsed(answer).get("jailbreakAnalysis")
    detected = analysis.get("detected") if isinstance(analysis, dict) else None
    if not isinstance(detected, bool):
        raise GuardError("its answer has no `jailbreakAnalysis.detected`")
    return detected
