"""What the guards of clouds are asked, and what their answers mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigError
from sidecar.llm.guard.azure_content_safety import AzureContentSafety
from sidecar.llm.guard.bedrock import BedrockGuardrails
from sidecar.llm.guard.model_armor import ModelArmor
from sidecar.llm.guard.openai_moderation import OpenAiModeration
from sidecar.llm.guard.verdict import (
    MAX_TEXT_BYTES,
    Ask,
    CloudService,
    GuardError,
    Phase,
    Verdict,
    check_size,
    pieces,
)

BEDROCK = BedrockGuardrails(
    {
        "guardrailIdentifier": "arn:aws:bedrock:us-east-1:1:guardrail/g1",
        "guardrailVersion": "DRAFT",
        "region": "eu-west-1",
    }
)
ARMOR = ModelArmor({"templateId": "t", "projectId": "p"})
MODERATION = OpenAiModeration({})
AZURE = AzureContentSafety({"endpoint": "r1.cognitiveservices.azure.com"}, "Request")
BOTH = {"endpoint": "https://r1.example/", "analyzeText": {}, "detectJailbreak": {}}


def judged(
    service: CloudService, texts: Sequence[str], *answers: Any, phase: Phase = "Request"
) -> tuple[Verdict, list[Ask]]:
    """The verdict when the service answers so, round after round, and all that it was asked."""
    waiting = [one if isinstance(one, bytes) else orjson.dumps(one) for one in answers]
    steps = service.judging(phase, texts)
    asked: list[Ask] = []
    try:
        asks = next(steps)
        while True:
            asked += asks
            given_now, waiting = waiting[: len(asks)], waiting[len(asks) :]
            asks = steps.send(given_now)
    except StopIteration as done:
        return done.value, asked


# --- OpenAI -------------------------------------------------------------------------------------


def test_moderation_asks_for_all_texts() -> None:
    verdict, (ask,) = judged(MODERATION, ["a", "b"], {"results": [{"flagged": False}] * 2})
    assert verdict is False
    assert ask.target == "/v1/moderations"
    assert orjson.loads(ask.body) == {"input": ["a", "b"], "model": "omni-moderation-latest"}
    assert MODERATION.host == "https://api.openai.com"


def test_moderation_refuses_what_is_flagged_anywhere() -> None:
    results = [{"flagged": False}, {"flagged": True}]
    assert judged(MODERATION, ["a", "b"], {"results": results})[0] is True


# --- Bedrock ------------------------------------------------------------------------------------


def intervened(outputs: list[str], *actions: str) -> dict[str, Any]:
    entities = [{"type": "NAME", "match": "x", "action": action} for action in actions]
    return {
        "action": "GUARDRAIL_INTERVENED",
        "outputs": [{"text": text} for text in outputs],
        "assessments": [{"sensitiveInformationPolicy": {"piiEntities": entities}}],
    }


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ({"action": "NONE", "outputs": [], "assessments": []}, False),
        (intervened(["{NAME}", "b"], "ANONYMIZED"), ["{NAME}", "b"]),
        (intervened(["{NAME}", "b"], "ANONYMIZED", "NONE"), ["{NAME}", "b"]),
        (intervened(["{NAME}", "b"], "ANONYMIZED", "BLOCKED"), True),
        (intervened(["{NAME}"], "ANONYMIZED"), True),
        (intervened(["no"], "BLOCKED"), True),
        (intervened([]), True),
    ],
)
def test_bedrock(answer: dict[str, Any], wanted: Verdict) -> None:
    verdict, (ask,) = judged(BEDROCK, ["a", "b"], answer, phase="Response")
    assert verdict == wanted
    name = "arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aguardrail%2Fg1"
    assert ask.target == f"/guardrail/{name}/version/DRAFT/apply"
    content = [{"text": {"text": "a"}}, {"text": {"text": "b"}}]
    assert orjson.loads(ask.body) == {"source": "OUTPUT", "content": content}


def test_bedrock_signs_for_its_region_unless_told_otherwise() -> None:
    assert BEDROCK.host == "https://bedrock-runtime.eu-west-1.amazonaws.com"
    assert BEDROCK.auth(None) == {"aws": {"region": "eu-west-1", "serviceName": "bedrock"}}
    given_auth = {"aws": {"accessKeyId": "a", "region": "us-east-1"}}
    assert BEDROCK.auth(given_auth) == {
        "aws": {"region": "us-east-1", "serviceName": "bedrock", "accessKeyId": "a"}
    }
    assert BEDROCK.auth({"key": "bearer"}) == {"key": "bearer"}


# --- Model Armor --------------------------------------------------------------------------------

CLEAN = {"raiFilterResult": {"matchState": "NO_MATCH_FOUND"}}


def found(**state: Any) -> dict[str, Any]:
    return {"sanitizationResult": {"invocationResult": "SUCCESS", **state}}


def sdp(text: str, state: str = "MATCH_FOUND") -> dict[str, Any]:
    result = {"matchState": state, "data": {"text": text}}
    return {"sdpFilterResult": {"deidentifyResult": result}}


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        ({"filterMatchState": "NO_MATCH_FOUND", "filterResults": {"rai": CLEAN}}, False),
        ({"filterMatchState": "NO_MATCH_FOUND"}, False),
        ({"filterMatchState": "MATCH_FOUND"}, True),
        ({"filterMatchState": "MATCH_FOUND", "filterResults": {"rai": CLEAN}}, True),
        (
            {"filterResults": {"csam": {"csamFilterFilterResult": {"matchState": "MATCH_FOUND"}}}},
            True,
        ),
        ({"filterResults": [{"raiFilterResult": {"matchState": "MATCH_FOUND"}}]}, True),
        (
            {
                "filterResults": {
                    "sdp": {"sdpFilterResult": {"inspectResult": {"matchState": "MATCH_FOUND"}}}
                }
            },
            True,
        ),
        (
            {"filterMatchState": "MATCH_FOUND", "filterResults": {"sdp": sdp("x"), "rai": CLEAN}},
            ["x"],
        ),
        ({"filterResults": [sdp("x"), CLEAN]}, ["x"]),
        ({"filterResults": {"sdp": sdp("x", "NO_MATCH_FOUND")}}, False),
        (
            {
                "filterResults": {
                    "sdp": sdp("x"),
                    "rai": {"raiFilterResult": {"matchState": "MATCH_FOUND"}},
                }
            },
            True,
        ),
        (
            {
                "invocationResult": "PARTIAL",
                "sanitizationMetadata": {"ignorePartialInvocationFailures": True},
                "filterMatchState": "NO_MATCH_FOUND",
            },
            False,
        ),
    ],
)
def test_model_armor(result: dict[str, Any], wanted: Verdict) -> None:
    verdict, (ask,) = judged(ARMOR, ["a"], found(**result))
    assert verdict == wanted
    assert ask.target == "/v1/projects/p/locations/us-central1/templates/t:sanitizeUserPrompt"
    assert orjson.loads(ask.body) == {"user_prompt_data": {"text": "a"}}


def test_model_armor_is_asked_again_whose_mask_it_is() -> None:
    masked, clean = (found(filterResults={"sdp": sdp("[X]")}), found(filterResults={"rai": CLEAN}))
    verdict, asks = judged(ARMOR, ["a", "b"], masked, clean, masked, phase="Response")
    assert verdict == ["a", "[X]"]
    texts = [orjson.loads(ask.body)["model_response_data"]["text"] for ask in asks]
    assert texts == ["a\nb", "a", "b"]
    # Found in the texts together, and in none alone.
    assert judged(ARMOR, ["a", "b"], masked, clean, clean)[0] is True


# --- Azure --------------------------------------------------------------------------------------


def severities(*given_ones: int) -> dict[str, Any]:
    analysis = [{"category": "Hate", "severity": one} for one in given_ones]
    return {"blocklistsMatch": [], "categoriesAnalysis": analysis}


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (severities(0, 0), False),
        (severities(0, 2), True),
        ({**severities(0), "blocklistsMatch": [{"blocklistName": "b"}]}, True),
        ({**severities(), "blocklistsMatch": [{"blocklistName": "b"}]}, True),
        ({"categoriesAnalysis": [{"category": "Hate", "severity": 0}]}, False),
    ],
)
def test_azure(answer: dict[str, Any], wanted: bool) -> None:
    verdict, (ask,) = judged(AZURE, ["a", "b"], answer)
    assert verdict is wanted
    assert ask.target == "/contentsafety/text:analyze?api-version=2024-09-01"
    categories = ["Hate", "SelfHarm", "Sexual", "Violence"]
    assert orjson.loads(ask.body) == {"text": "a\nb", "categories": categories}
    assert AZURE.host == "https://r1.cognitiveservices.azure.com"


def test_azure_options() -> None:
    analyze = {
        "severityThreshold": 4,
        "apiVersion": "2025-01-01",
        "blocklistNames": ["b"],
        "haltOnBlocklistHit": True,
    }
    service = AzureContentSafety({"endpoint": "h", "analyzeText": analyze}, "Response")
    verdict, (ask,) = judged(service, ["a"], severities(2))
    assert verdict is False
    assert ask.target.endswith("?api-version=2025-01-01")
    sent = orjson.loads(ask.body)
    assert (sent["blocklistNames"], sent["haltOnBlocklistHit"]) == (["b"], True)


def test_azure_jailbreaks() -> None:
    service = AzureContentSafety(BOTH, "Request")
    jailbreak = {"jailbreakAnalysis": {"detected": True}}
    verdict, (_, ask) = judged(service, ["a"], severities(0), jailbreak)
    assert verdict is True
    assert ask.target == "/contentsafety/text:detectJailbreak?api-version=2024-02-15-preview"
    assert orjson.loads(ask.body) == {"text": "a"}
    assert service.host == "https://r1.example"
    answers = AzureContentSafety(BOTH, "Response")
    assert len(judged(answers, ["a"], severities(0))[1]) == 1
    with pytest.raises(ConfigError, match="answers"):
        AzureContentSafety({"endpoint": "h", "detectJailbreak": {}}, "Response")


def test_azure_places_a_plain_key() -> None:
    place = {"header": {"name": "ocp-apim-subscription-key"}}
    assert AZURE.auth({"key": "k"}) == {"key": {"value": "k", "location": place}}
    placed = {"key": {"value": "k", "location": {"header": {"name": "x"}}}}
    assert AZURE.auth(placed) == placed
    assert AZURE.auth(None) == {"azure": {}}


# --- all ----------------------------------------------------------------------------------------

ALL: dict[str, CloudService] = {
    "moderation": MODERATION,
    "bedrock": BEDROCK,
    "armor": ARMOR,
    "azure": AzureContentSafety(BOTH, "Request"),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"<html>", b"[]", b"{}", b"null", b'{"results": [{}]}', b'{"results": []}'),
        *(b'{"action": "MAYBE"}', b'{"sanitizationResult": {}}', b'{"sanitizationResult": []}'),
        b'{"sanitizationResult": {"invocationResult": "FAILURE", "filterResults": {}}}',
        b'{"sanitizationResult": {"invocationResult": "PARTIAL", "filterResults": {}}}',
        *(b'{"categoriesAnalysis": []}', b'{"categoriesAnalysis": [{"severity": "0"}]}'),
        *(b'{"jailbreakAnalysis": {"detected": "no"}}', b'{"categoriesAnalysis": [{}]}'),
        b'{"sanitizationResult": {"invocationResult": "SUCCESS", "filterResults": {}}}',
    ],
)
def test_what_nobody_understands_is_no_judgement(name: str, answer: bytes) -> None:
    with pytest.raises(GuardError):
        judged(ALL[name], ["a"], answer, answer)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from(["MATCH_FOUND", "BLOCKED", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "results",
                        "flagged",
                        "action",
                        "outputs",
                        "assessments",
                        "sanitizationResult",
                    ),
                    *("filterResults", "sdp", "sdpFilterResult", "deidentifyResult", "matchState"),
                    *("categoriesAnalysis", "severity", "blocklistsMatch", "jailbreakAnalysis"),
                    *("data", "text", "invocationResult", "filterMatchState", "detected"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON, JSON, st.sampled_from(sorted(ALL)))
def test_any_answer_is_a_verdict_or_an_error(first: object, then: object, name: str) -> None:
    try:
        verdict, _ = judged(ALL[name], ["a", "b"], first, then, then)
    except GuardError:
        return
    assert verdict in (True, False) or (isinstance(verdict, list) and len(verdict) == 2)


@given(st.text("ab", max_size=60), st.integers(4, 20), st.integers(0, 3))
def test_pieces_share_their_borders(text: str, size: int, overlap: int) -> None:
    cut = pieces(text, size, overlap)
    assert all(len(one) <= size for one in cut)
    assert cut[0] + "".join(one[overlap:] for one in cut[1:]) == text


def test_too_much_text_is_not_judged() -> None:
    check_size(["a" * MAX_TEXT_BYTES])
    with pytest.raises(GuardError, match="more than"):
        check_size(["é" * (MAX_TEXT_BYTES // 2), "a"])
