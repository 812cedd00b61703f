"""A model that says its prompt back, and what tests of guards read of its answers."""

from __future__ import annotations

import orjson

from tests.support.client import Got
from tests.support.models import COMPLETION, EVENTS, JSON, chunk
from tests.support.upstream import Answer, Seen


def parrot(seen: Seen) -> Answer:
    """Streamed by the letter or, from `long` on, at once. Of whole answers `#` becomes `-`."""
    body = orjson.loads(seen.body)
    text = body["messages"][-1]["content"]
    if isinstance(text, list):
        text = text[0]["text"]
    if body.get("stream"):
        cut = len(text) if text.startswith("long") else 1
        texts = [text[at : at + cut] for at in range(0, len(text), cut)]
        events = [chunk({"content": one}) for one in texts]
        return Answer(200, EVENTS, [*events, chunk({}, "stop"), b"data: [DONE]\n\n"])
    message = {"role": "assistant", "content": text.replace("#", "-")}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return Answer(200, JSON, orjson.dumps({**COMPLETION, "choices": [choice]}))


def said(got: Got) -> str:
    """The text of a whole chat completion."""
    return str(orjson.loads(got.body)["choices"][0]["message"]["content"])


def streamed(got: Got) -> str:
    """The text of a streamed one."""
    texts = []
    for line in got.body.split(b"\n\n"):
        if line.startswith(b"data: {"):
            choices = orjson.loads(line[6:]).get("choices", ())
            texts += [choice["delta"].get("content") or "" for choice in choices]
    return "".join(texts)


def last_error(got: Got) -> dict[str, object]:
    """The error that ends a stream of chat completions."""
    last = orjson.loads(got.body.strip().rsplit(b"\n\n", 1)[-1].removeprefix(b"data: "))
    error: dict[str, object] = last["error"]
    return error
