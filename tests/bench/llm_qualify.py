"""The check, before any load, that a peer does what is to be measured."""

from __future__ import annotations

import http.client
import time

import orjson

from tests.bench.llm_peers import (
    CONVERTED_MODEL,
    LIMITED,
    PLAIN_MODEL,
    SAID,
    STREAMED_MODEL,
    LlmPeer,
    LlmStage,
    ask,
    chat,
)
from tests.bench.llm_upstream import MARK

_CHARGED_SECONDS = 10.0


def qualify(stage: LlmStage, peer: LlmPeer) -> str:
    """ "" when the peer does what is to be measured, else what it gets wrong."""
    try:
        return _flaw(stage, peer)
    except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
        return f"not qualified: {type(error).__name__}: {error}"


def _flaw(stage: LlmStage, peer: LlmPeer) -> str:
    asked = [(peer.plain, PLAIN_MODEL)]
    if peer.converts:
        asked.append((peer.plain, CONVERTED_MODEL))
    for port, model in asked:
        status, body, headers = ask(port, chat(model, "hello"))
        said = orjson.loads(body)["choices"][0]["message"]["content"] if status == 200 else ""
        if said != SAID:
            return f"not qualified: {model} answered {status} {body[:200]!r}"
        if peer.name == LIMITED and "x-ratelimit-limit" not in headers:
            return "not qualified: no limits in force"
    status, body, _ = ask(peer.streamed, chat(STREAMED_MODEL, "bench-3-1", stream=True))
    if status != 200 or body.count(MARK) != 3 or b"[DONE]" not in body:
        return f"not qualified: the stream was {status} {body[:200]!r}"
    if peer.checks_keys and ask(peer.plain, chat(PLAIN_MODEL, "hello"), "sk-wrong")[0] < 400:
        return "not qualified: a wrong key was let in"
    if peer.name == LIMITED and not _is_charged(stage):
        return "not qualified: no budget was charged"
    return ""


def _is_charged(stage: LlmStage) -> bool:
    until = time.monotonic() + _CHARGED_SECONDS
    while not stage.spent_usd():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)  # it is charged when a response has ended, and shown a moment later
    return True
