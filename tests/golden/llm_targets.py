"""Which code the `group` and `target` of a golden case mean, and the settings it assumes.

Source: spec llm sections 6.3 to 6.5.
"""

from __future__ import annotations

from typing import Final

from tests.golden.llm_cases import Json

CLIENTS: Final = {
    "completions": "completions",
    "messages": "messages",
    "responses": "responses",
    "count-tokens": "anthropicTokenCount",
    "embeddings": "embeddings",
    "rerank": "rerank",
    "gemini": "generateContent",
}
"""Folder of requests → client format."""

REQUESTS: Final[dict[tuple[str, str], str]] = {
    ("completions", "anthropic"): "completions_to_messages",
    ("completions", "bedrock"): "completions_to_converse",
    ("completions", "vertex-gemini"): "completions_to_gemini",
    ("completions", "responses"): "completions_to_responses",
    ("messages", "completions"): "messages_to_completions",
    ("messages", "responses"): "messages_to_responses",
    ("messages", "bedrock"): "messages_to_converse",
    ("messages", "vertex"): "vertex_claude",
    ("responses", "bedrock"): "responses_to_converse",
    ("responses", "gemini"): "responses_to_completions",
    ("responses", "anthropic"): "responses_to_messages",
    ("count-tokens", "bedrock"): "count_tokens_to_bedrock",
    ("count-tokens", "vertex"): "count_tokens_to_vertex",
    ("embeddings", "bedrock-titan"): "embeddings_to_bedrock",
    ("embeddings", "bedrock-cohere"): "embeddings_to_bedrock",
    ("embeddings", "bedrock-nova"): "embeddings_to_bedrock",
    ("embeddings", "vertex"): "embeddings_to_vertex",
    ("rerank", "bedrock"): "rerank_to_bedrock",
    ("rerank", "vertex"): "rerank_to_vertex",
}
"""(folder, target) → module of the conversion. Pairs not here are the same format both sides."""

ANSWERS: Final[dict[str, tuple[str, str, str]]] = {
    "messages-completions": ("messages", "completions", "completions_to_messages"),
    "completions-messages": ("completions", "messages", "messages_to_completions"),
    "completions-responses": ("completions", "responses", "responses_to_completions"),
    "responses-messages": ("responses", "messages", "messages_to_responses"),
    "responses-completions": ("responses", "completions", "completions_to_responses"),
    "messages-responses": ("messages", "responses", "responses_to_messages"),
    "bedrock-completions": ("converse", "completions", "completions_to_converse"),
    "bedrock-messages": ("converse", "messages", "messages_to_converse"),
    "bedrock-responses": ("converse", "responses", "responses_to_converse"),
    "vertex-gemini-completions": ("generateContent", "completions", "completions_to_gemini"),
    "bedrock-titan": ("detect", "embeddings", "embeddings_to_bedrock"),
    "bedrock-cohere": ("detect", "embeddings", "embeddings_to_bedrock"),
    "bedrock-nova": ("detect", "embeddings", "embeddings_to_bedrock"),
    "bedrock": ("detect", "rerank", "rerank_to_bedrock"),
    "vertex": ("detect", "rerank", "rerank_to_vertex"),
}
"""Target of a converted answer → (provider's format, client's format, module)."""

SAME: Final = {
    "messages-messages": "messages",
    "completions-completions": "completions",
    "responses-responses": "responses",
    "messages-detect": "detect",
    "completions-detect": "detect",
    "responses-detect": "detect",
    "bedrock-detect": "detect",
    "gemini-native": "generateContent",
    "openai": "embeddings",
    "cohere": "rerank",
    "anthropic": "anthropicTokenCount",
}
"""Target of an answer that goes by untouched → its format."""

DIFFERENT: Final = {
    r"response__bedrock__reasoning.*__bedrock-responses(-streaming)?": (
        "Bedrock's reasoning stays reasoning in responses"
    ),
}
"""Names of published cases that we answer otherwise → the section of docs/llm-differences.md."""

MODELS: Final = {
    "bedrock": "anthropic.claude-3-5-sonnet-20241022-v2:0",
    "vertex": "anthropic/claude-sonnet-4-5",
    "vertex-gemini": "gemini-2.5-pro",
    "bedrock-titan": "amazon.titan-embed-text-v2:0",
    "bedrock-cohere": "cohere.embed-english-v3",
    "bedrock-nova": "amazon.nova-2-multimodal-embeddings-v1:0",
    "rerank/bedrock": "cohere.rerank-v3-5:0",
    "rerank/vertex": "semantic-ranker-default@latest",
    "embeddings/vertex": "text-embedding-004",
}
"""The model the provider's configuration names (spec 6.5), by target or by folder and target."""

PREPEND: Final[list[Json]] = [
    {"role": "system", "content": "prepend system prompt"},
    {"role": "user", "content": "prepend user message"},
    {"role": "assistant", "content": "prepend assistant message"},
]
APPEND: Final[list[Json]] = [
    {"role": "user", "content": "append user message"},
    {"role": "system", "content": "append system prompt"},
    {"role": "assistant", "content": "append assistant prompt"},
]
FORMAT_LABELS: Final = {
    "Completions": "completions",
    "Messages": "messages",
    "Responses": "responses",
    "CountTokens": "anthropicTokenCount",
    "Embeddings": "embeddings",
    "Rerank": "rerank",
    "Gemini": "generateContent",
}
