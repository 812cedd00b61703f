"""Bodies for Bedrock against Amazon's own description of the service, which botocore ships."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Final

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from tests.sidecar.llm.convert import cloud_samples as samples
from tests.sidecar.llm.convert.calls import context

Json = dict[str, Any]
SETTINGS: Final[Json] = {
    "region": "eu-west-1",
    "guardrailConfig": {
        "guardrailIdentifier": "g",
        "guardrailVersion": "1",
        "trace": "enabled",
    },
    "promptCaching": {"cacheTools": True, "minTokens": 1},
}


@cache
def service(name: str) -> ServiceModel:
    return ServiceModel(Loader().load_service_model(name, "service-2"))


def without_none(value: Any) -> Any:
    """JSON's null is an absent member to AWS."""
    if isinstance(value, list):
        return [without_none(item) for item in value]
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return value


def faults(body: Json, name: str, operation: str, **path: str) -> str:
    shape = service(name).operation_model(operation).input_shape
    assert shape is not None
    report: str = ParamValidator().validate(without_none(body) | path, shape).generate_report()
    return report


CHATS: Final = {
    "completions_to_converse": samples.COMPLETIONS_REQUEST,
    "messages_to_converse": samples.MESSAGES_REQUEST,
    "responses_to_converse": samples.RESPONSES_REQUEST,
}


def convert(module: str, body: Json) -> Json:
    headers = {"x-bedrock-metadata": '{"team":"blue"}'}
    call = context("anthropic.claude-x", settings=SETTINGS, headers=headers)
    out: Json = importlib.import_module(f"sidecar.llm.convert.{module}").CONVERSION.request(
        body, call
    )
    return out


@pytest.mark.parametrize("operation", ["Converse", "ConverseStream"])
@pytest.mark.parametrize(("module", "body"), CHATS.items())
def test_converse(module: str, body: Json, operation: str) -> None:
    out = convert(module, body)
    assert {"guardrailConfig", "requestMetadata", "toolConfig"} <= out.keys()
    assert faults(out, "bedrock-runtime", operation, modelId="m") == ""


def test_history_without_tools() -> None:
    body = {"messages": samples.COMPLETIONS_REQUEST["messages"]}
    out = convert("completions_to_converse", body)
    assert faults(out, "bedrock-runtime", "Converse", modelId="m") == ""


def test_faults_are_found() -> None:
    out = convert("messages_to_converse", samples.MESSAGES_REQUEST) | {"toolConfig": {"tool": []}}
    assert "toolConfig" in faults(out, "bedrock-runtime", "Converse", modelId="m")


def test_count_tokens() -> None:
    out = convert("count_tokens_to_bedrock", samples.COUNT_REQUEST)
    assert faults(out, "bedrock-runtime", "CountTokens", modelId="m") == ""


def test_rerank() -> None:
    out = convert("rerank_to_bedrock", samples.RERANK_REQUEST)
    assert faults(out, "bedrock-agent-runtime", "Rerank") == ""
