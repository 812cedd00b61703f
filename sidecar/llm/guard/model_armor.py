"""Google Model Armor.

Source: google.cloud.modelarmor.v1 (SanitizeUserPrompt, SanitizeModelResponse, SanitizationResult)
in its JSON form; spec/llm.md section 4.2.

All texts are asked about as one. Where only Sensitive Data Protection found something, and gave the
text without it, that text passes: of several texts each is asked about again, to know its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final
from urllib.parse import quote

import orjson

from sidecar.llm.guard.verdict import (
    MAX_ASKS,
    Ask,
    GuardError,
    Json,
    Judging,
    Phase,
    parsed,
    values_of,
)

_FOUND: Final = "MATCH_FOUND"
_NOT_FOUND: Final = "NO_MATCH_FOUND"
_METHODS: Final[Mapping[Phase, tuple[str, str]]] = {
    "Request": ("sanitizeUserPrompt", "user_prompt_data"),
    "Response": ("sanitizeModelResponse", "model_response_data"),
}


@final
class ModelArmor:
    """See CloudService."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        location = config.get("location") or "us-central1"
        project, place, template = (
            quote(text, safe="") for text in (config["projectId"], location, config["templateId"])
        )
        self.host = f"https://modelarmor.{location}.rep.googleapis.com"
        self._template = f"/v1/projects/{project}/locations/{place}/templates/{template}"

    def auth(self, given: Any) -> Any:
        """See CloudService."""
        return {"gcp": {}} if given is None else given

    def judging(self, phase: Phase, texts: Sequence[str]) -> Judging:
        """See CloudService."""
        joined = "\n".join(texts)
        (answer,) = yield [self._ask(phase, joined)]
        verdict = _verdict(answer)
        if isinstance(verdict, bool):
            return verdict
        if len(texts) == 1:
            return [verdict]
        if len(texts) > MAX_ASKS:
            raise GuardError(f"more than {MAX_ASKS} texts to mask")
        answers = yield [self._ask(phase, text) for text in texts]
        masked = list(texts)
        for index, one in enumerate(answers):
            single = _verdict(one)
            if single is True:
                return True
            if isinstance(single, str):
                masked[index] = single
        # What was found across the texts, and in none of them, cannot be masked.
        return masked if masked != list(texts) else True

    def _ask(self, phase: Phase, text: str) -> Ask:
        method, key = _METHODS[phase]
        return Ask(f"{self._template}:{method}", orjson.dumps({key: {"text": text}}))


def _verdict(answer: bytes) -> bool | str:
    """Refused, passed, or the text that may pass. Raises: GuardError."""
    result = parsed(answer).get("sanitizationResult")
    if not isinstance(result, dict):
        raise GuardError("its answer has no `sanitizationResult`")
    _check_invocation(result)
    overall = result.get("filterMatchState")
    filters = result.get("filterResults")
    if not filters and overall in (_FOUND, _NOT_FOUND):
        return bool(overall == _FOUND)
    if not isinstance(filters, dict | list) or not filters:
        raise GuardError("its answer has no `filterResults`")
    rest, masked = _without_deidentified(filters)
    if _FOUND in values_of(rest, "matchState"):
        return True
    return masked if masked is not None else bool(overall == _FOUND)


def _check_invocation(result: Json) -> None:
    """Raises: GuardError when filters did not run, unless the template takes that."""
    metadata = result.get("sanitizationMetadata")
    ignores = isinstance(metadata, dict) and metadata.get("ignorePartialInvocationFailures") is True
    outcome = result.get("invocationResult")
    if outcome == "FAILURE" or (outcome == "PARTIAL" and not ignores):
        raise GuardError(f"not all of its filters ran: {outcome}")


def _without_deidentified(filters: Json | list[Any]) -> tuple[list[Any], str | None]:
    """The results but for the deidentification that gave a text, and that text."""
    masked = None
    rest: list[Any] = []
    # A map in the reference, but also seen as a list of one-entry maps.
    given = filters if isinstance(filters, list) else [filters]
    results = [
        (name, found) for one in given if isinstance(one, dict) for name, found in one.items()
    ]
    for name, found in results:
        text = _deidentified(name, found)
        if text is None:
            rest.append({name: found})
        elif masked is not None:
            raise GuardError("its answer has two texts")
        else:
            masked = text
    return rest, masked


def _deidentified(name: str, found: object) -> str | None:
    # In a list the entry may be the filter's result itself.
    inner = found if name == "sdpFilterResult" else _at(found, "sdpFilterResult")
    result = _at(inner, "deidentifyResult")
    text = _at(_at(result, "data"), "text")
    is_found = _at(result, "matchState") == _FOUND
    return text if is_found and isinstance(text, str) else None


def _at(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None
