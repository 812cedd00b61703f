"""What the simulator serves: the paths of each provider, and who answers them.

Paths are told by their end, as the bases differ: `/v1`, `/openai/v1`, `/v1beta`,
`/openai/deployments/{model}`, `/v1/projects/{project}/locations/{location}/publishers/{publisher}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, final

from sidecar.simulator import anthropic, bedrock, google, openai, responses
from sidecar.simulator.ask import Json, texts, tokens
from sidecar.simulator.reply import Reply

EVENTS: Final = b"text/event-stream"
JSON: Final = b"application/json"
AWS_EVENTS: Final = b"application/vnd.amazon.eventstream"

Whole = Callable[[str, Reply], Json]
Stream = Callable[[str, Reply, Json], Iterator[bytes]]
Plain = Callable[[str, Json], Json]


@final
@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation. `is_streamed`: None where the body's `stream` says."""

    family: str
    whole: Whole
    stream: Stream
    is_streamed: bool | None = None
    media_type: bytes = EVENTS


@final
@dataclass(frozen=True, slots=True)
class Once:
    """Anything else: a body for a body. Raises: BadAskError."""

    family: str
    answer: Plain


Operation = Chat | Once

_MESSAGES: Final = (anthropic.message, anthropic.message_stream)
_CONTENT: Final = (google.content, google.content_stream)
_CONVERSE: Final = (bedrock.converse, bedrock.converse_stream)


def _count_messages(_: str, body: Json) -> Json:
    prompt = " ".join(texts([body.get("system"), body.get("messages")]))
    return {"input_tokens": tokens(prompt)}


def _rerank(model: str, body: Json) -> Json:
    """Bedrock's has the same path as Cohere's; the body tells."""
    return bedrock.rerank(body) if "sources" in body else openai.rerank(model, body)


_PATHS: Final[tuple[tuple[re.Pattern[str], Operation], ...]] = tuple(
    (re.compile(pattern + r"$"), operation)
    for pattern, operation in (
        # Azure names a deployment in the path.
        (
            r"(?:/deployments/(?P<model>[^/]+))?/chat/completions",
            Chat("openai", openai.completion, openai.completion_stream),
        ),
        (r"/responses", Chat("openai", responses.response, responses.response_stream)),
        (r"(?:/deployments/(?P<model>[^/]+))?/embeddings", Once("openai", openai.embeddings)),
        (r"/rerank", Once("openai", _rerank)),
        (r"/moderations", Once("openai", lambda _, body: openai.moderation(body))),
        (r"/messages", Chat("anthropic", *_MESSAGES)),
        (r"/messages/count_tokens", Once("anthropic", _count_messages)),
        # Claude on Vertex; its counting is a model of its own there.
        (r"/models/count-tokens:rawPredict", Once("anthropic", _count_messages)),
        (r"/models/(?P<model>[^/]+):rawPredict", Chat("anthropic", *_MESSAGES)),
        (r"/models/(?P<model>[^/]+):streamRawPredict", Chat("anthropic", *_MESSAGES)),
        (r"/models/(?P<model>[^/]+):generateContent", Chat("google", *_CONTENT, False)),
        (r"/models/(?P<model>[^/]+):streamGenerateContent", Chat("google", *_CONTENT, True)),
        (r"/models/[^/]+:countTokens", Once("google", lambda _, body: google.count(body))),
        (
            r"/models/(?P<model>[^/]+):(?:batchEmbedContents|embedContent)",
            Once("google", lambda _, body: google.embed(body)),
        ),
        (
            r"/models/(?P<model>[^/]+):predict",
            Once("google", lambda _, body: google.predict(body)),
        ),
        (r"/rankingConfigs/[^/]+:rank", Once("google", lambda _, body: google.rank(body))),
        (r"/model/(?P<model>[^/]+)/converse", Chat("bedrock", *_CONVERSE, False)),
        (
            r"/model/(?P<model>[^/]+)/converse-stream",
            Chat("bedrock", *_CONVERSE, True, AWS_EVENTS),
        ),
        (
            r"/model/(?P<model>[^/]+)/invoke",
            Once("bedrock", lambda model, body: bedrock.embed(model, body)[0]),
        ),
        (
            r"/model/[^/]+/count-tokens",
            Once("bedrock", lambda _, body: bedrock.count(body)),
        ),
    )
)

_ARRAY: Final = Chat("google", google.content, google.content_array, True, JSON)
_MODELS: Final = re.compile(r"/models(?:/(?P<model>[^/:]+))?$")


def find(path: str, query: str) -> tuple[Operation, str] | None:
    """Who answers a POST, and the model that the path names, still encoded."""
    for pattern, operation in _PATHS:
        if (found := pattern.search(path)) is not None:
            if path.endswith(":streamGenerateContent") and "alt=sse" not in query:
                operation = _ARRAY
            return operation, found.groupdict().get("model") or ""
    return None


def models(path: str, *, is_anthropic: bool) -> Json | None:
    """A GET of the list of models, or of one; each provider's own shape."""
    found = _MODELS.search(path)
    if found is None:
        return None
    identity = found["model"] or ""
    if is_anthropic:
        return anthropic.models(identity, openai.MODELS)
    if "/v1beta" in path and "/openai/" not in path:
        return google.models(identity, openai.MODELS)
    return openai.models(identity)
