"""The guards of clouds as a test meets them: one server that speaks all of their APIs.

What it says of a text hangs on the words in it: `bad` is refused, `blue` is masked where the
service masks, `crash` is a failure of its own, `busy` is one twice and `later` one for an hour,
`garbage` an answer that makes no sense, `hang` none at all. Shapes are those of the services'
references: OpenAI moderations, Bedrock ApplyGuardrail (the service model in botocore),
google.cloud.modelarmor.v1, Azure Content Safety 2024-09-01 and 2024-02-15-preview.
"""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime
from typing import Any, Final, Self

import orjson
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.support.upstream import Answer, Seen, Upstream

Json = dict[str, Any]
KEY: Final = "AKIAIOSFODNN7EXAMPLE"
SECRET: Final = "not-a-real-secret"
TOKEN: Final = "a-token-of-the-cloud"
_JSON: Final = [("content-type", "application/json")]
_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})"
)


class GuardServices(Upstream):
    """The services, at one address. `wrong`: what was wrong with calls, in words."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self._gate = threading.Event()
        self._asked = 0
        super().__init__(self._answer)

    def __exit__(self, *problem: Any) -> None:
        self._gate.set()
        super().__exit__(*problem)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def _answer(self, seen: Seen) -> Answer:
        path = seen.target
        if path == "/token":
            return _as_json({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
        if path.startswith("/msi?"):
            expiry = str(int(datetime.now(UTC).timestamp()) + 3600)
            return _as_json({"access_token": TOKEN, "expires_on": expiry})
        body = orjson.loads(seen.body)
        text = seen.body.decode()
        if "busy" in text:
            self._asked += 1
            if self._asked % 3:
                return Answer(429, [*_JSON, ("retry-after", "0")], b"{}")
        if "later" in text:
            return Answer(503, [*_JSON, ("retry-after", "3600")], b"{}")
        if "crash" in text:
            return Answer(500, _JSON, b'{"error": "crash"}')
        if "garbage" in text:
            return Answer(200, _JSON, b"<html>")
        if "hang" in text:
            self._gate.wait()
        for begin, answer in _SERVICES.items():
            if path.startswith(begin):
                problem = _CREDENTIALS[begin](seen)
                if problem:
                    self.wrong.append(problem)
                    return Answer(403, _JSON, b'{"message": "not you"}')
                return _as_json(answer(path, body))
        self.wrong.append(f"no service at {path}")
        return Answer(404)


def _as_json(value: Json) -> Answer:
    return Answer(200, _JSON, orjson.dumps(value))


# --- who calls ----------------------------------------------------------------------------------


def _bearer(seen: Seen) -> str:
    given = seen.get("authorization")
    return "" if given == f"Bearer {TOKEN}" else "no bearer token"


def _azure(seen: Seen) -> str:
    is_key = seen.get("ocp-apim-subscription-key") == TOKEN
    return "" if is_key else _bearer(seen)


def signature_problem(seen: Seen, service: str = "bedrock", region: str = "us-east-1") -> str:
    """What is wrong with the signature of a call, computed anew by botocore; "" for nothing."""
    found = _AUTHORIZATION.fullmatch(seen.get("authorization") or "")
    if found is None:
        return "no signature"
    key, _, signed_region, signed_service, names, signature = found.groups()
    if (key, signed_region, signed_service) != (KEY, region, service):
        return f"signed for {signed_service} in {signed_region}"
    covered = {name: seen.get(name) or "" for name in names.split(";")}
    if not {"host", "x-amz-date", "content-type"} <= covered.keys():
        return f"the signature covers {names} only"
    url = f"http://{covered['host']}{seen.target}"
    request = AWSRequest(seen.method, url, headers=covered, data=seen.body)
    request.context["timestamp"] = covered["x-amz-date"]
    auth = SigV4Auth(Credentials(KEY, SECRET), service, region)
    wanted = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return "" if wanted == signature else "another signature"


# --- what they say ------------------------------------------------------------------------------


def _moderation(path: str, body: Json) -> Json:
    assert path == "/v1/moderations"
    assert body.keys() == {"input", "model"}
    results = [{"flagged": "bad" in text, "categories": {}} for text in body["input"]]
    return {"id": "modr-1", "model": body["model"], "results": results}


def _bedrock(path: str, body: Json) -> Json:
    assert path == "/guardrail/gr-1/version/7/apply"
    assert body["source"] in ("INPUT", "OUTPUT")
    texts = [block["text"]["text"] for block in body["content"]]
    usage = {
        f"{kind}Units": 0
        for kind in (
            *("topicPolicy", "contentPolicy", "wordPolicy", "sensitiveInformationPolicy"),
            "contextualGroundingPolicy",
        )
    } | {"sensitiveInformationPolicyFreeUnits": 0}
    if any("bad" in text for text in texts):
        topic = {"name": "bad", "type": "DENY", "action": "BLOCKED", "detected": True}
        return {
            "usage": usage,
            "action": "GUARDRAIL_INTERVENED",
            "outputs": [{"text": "Sorry."}],
            "assessments": [{"topicPolicy": {"topics": [topic]}}],
        }
    if any("blue" in text for text in texts):
        entity = {"match": "blue", "type": "NAME", "action": "ANONYMIZED", "detected": True}
        return {
            "usage": usage,
            "action": "GUARDRAIL_INTERVENED",
            "outputs": [{"text": text.replace("blue", "{NAME}")} for text in texts],
            "assessments": [
                {"sensitiveInformationPolicy": {"piiEntities": [entity], "regexes": []}}
            ],
        }
    return {"usage": usage, "action": "NONE", "outputs": [], "assessments": []}


def _armor(path: str, body: Json) -> Json:
    begin, _, method = path.partition(":")
    assert begin == "/v1/projects/p-1/locations/us-central1/templates/t-1"
    key = {"sanitizeUserPrompt": "user_prompt_data", "sanitizeModelResponse": "model_response_data"}
    text = body[key[method]]["text"]
    ran = {"executionState": "EXECUTION_SUCCESS"}

    def state(is_found: bool) -> Json:
        return {**ran, "matchState": "MATCH_FOUND" if is_found else "NO_MATCH_FOUND"}

    is_bad, is_blue = "bad" in text, "blue" in text
    deidentified = state(is_blue)
    if is_blue:
        masked = text.replace("blue", "[NAME]")
        deidentified |= {"data": {"text": masked}, "infoTypes": ["PERSON_NAME"]}
    filters = {
        "rai": {"raiFilterResult": {**state(is_bad), "raiFilterTypeResults": {}}},
        "pi_and_jailbreak": {"piAndJailbreakFilterResult": state(False)},
        "malicious_uris": {"maliciousUriFilterResult": state(False)},
        "csam": {"csamFilterFilterResult": state(False)},
        "sdp": {"sdpFilterResult": {"deidentifyResult": deidentified}},
    }
    return {
        "sanitizationResult": {
            "filterMatchState": "MATCH_FOUND" if is_bad or is_blue else "NO_MATCH_FOUND",
            "filterResults": filters,
            "invocationResult": "SUCCESS",
        }
    }


def _safety(path: str, body: Json) -> Json:
    text = body["text"]
    if path == "/contentsafety/text:detectJailbreak?api-version=2024-02-15-preview":
        assert len(text) <= 1000
        return {"jailbreakAnalysis": {"detected": "jail" in text}}
    assert path == "/contentsafety/text:analyze?api-version=2024-09-01"
    assert len(text) <= 10_000
    severity = 4 if "bad" in text else 0
    categories = [{"category": name, "severity": 0} for name in ("Hate", "SelfHarm", "Sexual")]
    return {
        "blocklistsMatch": [],
        "categoriesAnalysis": [*categories, {"category": "Violence", "severity": severity}],
    }


_SERVICES: Final = {
    "/v1/moderations": _moderation,
    "/guardrail/": _bedrock,
    "/v1/projects/": _armor,
    "/contentsafety/": _safety,
}
_CREDENTIALS: Final = {
    "/v1/moderations": _bearer,
    "/guardrail/": signature_problem,
    "/v1/projects/": _bearer,
    "/contentsafety/": _azure,
}
