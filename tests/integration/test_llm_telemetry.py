"""What is told of a model call: every attribute of its span and its log line, and every series.

Source: spec/llm.md sections 5.1 and 5.3.
"""

from __future__ import annotations

import queue
import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.sidecar.telemetry.collectors import GrpcCollector
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import COMPLETION, EVENTS, JSON, chunk
from tests.support.upstream import Answer, Seen, Upstream

Json = dict[str, Any]
(PORT,) = free_ports(1)
RATES = {
    "input": "10",
    "output": "20",
    "cacheRead": "1",
    "cacheWrite": "2",
    "reasoning": "30",
    "inputAudio": "40",
    "outputAudio": "50",
}
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 10, "audio_tokens": 5},
    "completion_tokens_details": {
        "reasoning_tokens": 15,
        "audio_tokens": 4,
        "image_tokens": 3,
    },
}
PARAMS = {
    "temperature": 0.5,
    "top_p": 0.25,
    "max_tokens": 90,
    "frequency_penalty": 0.125,
    "presence_penalty": 0.75,
    "seed": 11,
}
COSTS = {
    "input": 65 * 10,
    "output": 31 * 20,
    "cache_read": 20 * 1,
    "cache_write": 10 * 2,
    "reasoning": 15 * 30,
    "input_audio": 5 * 40,
    "output_audio": 4 * 50,
}
"""Micro-USD; each token is in one class only."""
TOTAL = sum(COSTS.values()) / 1e6
CHAT: Json = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "asked",
    "gen_ai.response.model": "gpt-test-0125",
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.output_tokens": 50,
    "gen_ai.usage.cache_read.input_tokens": 20,
    "gen_ai.usage.cache_creation.input_tokens": 10,
    "gen_ai.usage.reasoning_tokens": 15,
    "gen_ai.usage.output_image_tokens": 3,
    "gen_ai.usage.input_audio_tokens": 5,
    "gen_ai.usage.output_audio_tokens": 4,
    **{f"gen_ai.request.{name}": value for name, value in PARAMS.items()},
    "agw.ai.usage.cost.total": TOTAL,
}
PARTS = {f"agw.ai.usage.cost.{name}": value / 1e6 for name, value in COSTS.items()}
TIMES = {"agw.ai.time_to_first_token", "agw.ai.time_per_output_token"}
EMBEDDING: Json = {
    "gen_ai.operation.name": "embeddings",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "asked",
    "gen_ai.response.model": "gpt-test-0125",
    "gen_ai.usage.input_tokens": 7,
    "gen_ai.embeddings.dimension.count": 2,
    "gen_ai.request.encoding_formats": "float",
    "agw.ai.usage.cost.total": 70 / 1e6,
}


def provider(seen: Seen) -> Answer:
    """All that an answer can tell."""
    body = orjson.loads(seen.body)
    if seen.target.endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        usage = {"prompt_tokens": 7, "total_tokens": 7}
        made = {"object": "list", "model": "gpt-test-0125", "data": data, "usage": usage}
        return Answer(200, JSON, orjson.dumps(made))
    if body.get("stream"):
        events = [chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, usage=USAGE)]
        return Answer(200, EVENTS, iter([*events, b"data: [DONE]\n\n"]))
    return Answer(200, JSON, orjson.dumps({**COMPLETION, "usage": USAGE}))


@pytest.fixture(scope="module")
def collector() -> Iterator[GrpcCollector]:
    made = GrpcCollector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(provider) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, collector: GrpcCollector) -> Iterator[GatewayProcess]:
    params = {"baseUrl": f"http://{upstream.address}/v1"}
    tracing = {"host": collector.address, "protocol": "grpc", "randomSampling": True}
    models = {"gpt-test-0125": {"rates": RATES}}
    config = {
        "config": {"modelCatalog": [{"inline": {"providers": {"openai": {"models": models}}}}]},
        "frontendPolicies": {"tracing": tracing},
        "llm": {
            "port": PORT,
            "models": [{"name": "asked", "provider": "openAI", "params": params}],
        },
    }
    with GatewayProcess(config) as made:
        yield made


def spans_of(collector: GrpcCollector) -> tuple[Json, Json]:
    """Attributes of the next request's span, and of that of its call."""
    found: dict[int, Json] = {}
    while len(found) < 2:
        try:
            request, _ = collector.received.get(timeout=30)
        except queue.Empty:
            raise AssertionError(found) from None
        for resource in request.resource_spans:
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                found[span.kind] = {item.key: _plain(item.value) for item in span.attributes}
    return found[2], found[3]


def _plain(value: Any) -> object:
    return getattr(value, value.WhichOneof("value"))


def told(attributes: Json) -> Json:
    """What is told of the model, by name."""
    return {name: value for name, value in attributes.items() if re.match(r"gen_ai|agw\.", name)}


def ask(path: str, body: Json) -> None:
    headers = {"content-type": "application/json"}
    got = fetch(PORT, path, "POST", headers=headers, body=orjson.dumps({"model": "asked", **body}))
    assert got.status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat(gateway: GatewayProcess, collector: GrpcCollector, stream: bool) -> None:
    turns = [{"role": "user", "content": "hello"}]
    ask("/v1/chat/completions", {"messages": turns, "stream": stream, **PARAMS})
    root, call = spans_of(collector)
    times = {name: root.pop(name) for name in TIMES if name in root}
    assert told(root) == {**CHAT, **PARTS}
    assert times.keys() == (TIMES if stream else set())
    assert all(value > 0 for value in times.values())
    assert call["agentgateway.outbound.subtype"] == "Llm"
    assert call["agentgateway.outbound.kind"] == "Primary"


def test_embeddings(gateway: GatewayProcess, collector: GrpcCollector) -> None:
    body = {"input": "x", "dimensions": 2, "encoding_format": "float"}
    ask("/v1/embeddings", body)
    root, call = spans_of(collector)
    found = told(root)
    parts = {name: found.pop(name) for name in PARTS}
    assert found == EMBEDDING
    assert parts == {**dict.fromkeys(PARTS, 0.0), "agw.ai.usage.cost.input": 70 / 1e6}
    assert call["agentgateway.outbound.subtype"] == "Llm"


def test_the_log_line_leaves_out_the_parts_of_the_cost(gateway: GatewayProcess) -> None:
    turns = [{"role": "user", "content": "hello"}]
    ask("/v1/chat/completions", {"messages": turns, **PARAMS, "seed": 23})
    line = gateway.wait_line("gen_ai.request.seed=23")
    names = set(re.findall(r"(?:gen_ai|agw)\.[\w.]+(?==)", line))
    assert names == CHAT.keys()


def test_the_series(gateway: GatewayProcess) -> None:
    turns = [{"role": "user", "content": "hello"}]
    labels = {
        "gen_ai_operation_name": "chat",
        "gen_ai_system": "openai",
        "gen_ai_request_model": "asked",
        "gen_ai_response_model": "gpt-test-0125",
    }
    singles = (
        "gen_ai_server_request_duration_count",
        "gen_ai_server_time_to_first_token_count",
        "gen_ai_server_time_per_output_token_count",
        "gen_ai_client_cost_usd_total",
        "cost_catalog_lookups_total",
    )
    tokens = {"input": 100, "output": 50, "input_cache_read": 20, "input_cache_write": 10}
    usage = "agentgateway_gen_ai_client_token_usage_sum"
    before = {name: gateway.metric(f"agentgateway_{name}", **labels) for name in singles}
    counted = {kind: gateway.metric(usage, gen_ai_token_type=kind, **labels) for kind in tokens}
    calls = gateway.metric("agentgateway_upstream_call_duration_seconds_count", subtype="Llm")
    ask("/v1/chat/completions", {"messages": turns, "stream": True})
    # Written together at the end; the last of them says that all are there.
    gateway.wait_metric(
        "agentgateway_upstream_call_duration_seconds_count", calls + 1, subtype="Llm"
    )
    for name in singles:
        more = TOTAL if "cost_usd" in name else 1
        gateway.wait_metric(f"agentgateway_{name}", before[name] + more, **labels)
    for kind, count in tokens.items():
        gateway.wait_metric(usage, counted[kind] + count, gen_ai_token_type=kind, **labels)
