"""Estimates of how many tokens a prompt has, before a provider says so.

Source: spec llm sections 1.1 and 4.6; OpenAI's published rule for chat messages.

Encodings are OpenAI's: exact for its models, an estimate for all others. They come with the package
`toktok`, whose time is linear in the text whatever a client sends. An encoding takes about
40 MB, and a quarter of a second to load: `prepare` does that outside of requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import toktok  # type: ignore[import-untyped] # the package has no types

from sidecar.llm.shape import Json

Encoding = Literal["cl100k_base", "o200k_base"]

_PER_MESSAGE: Final = 4
_PER_PROMPT: Final = 3
_CL100K: Final = ("gpt-4-", "gpt-3.5", "gpt-35", "text-embedding-")
"""Older names; all that is newer, and other makers' models, take the newer encoding."""
_IMAGE_TOKENS: Final = 85
"""OpenAI's cost of an image at low detail: the least that it can be."""
_NO_TEXT: Final = frozenset(("type", "id", "signature", "data", "cache_control", "media_type"))


def encoding_of(model: str) -> Encoding:
    """The encoding that fits a model's name best."""
    name = model.rpartition("/")[2]
    if name == "gpt-4" or name.startswith(_CL100K):
        return "cl100k_base"
    return "o200k_base"


def prepare(encodings: Iterable[Encoding] = ("o200k_base",)) -> None:
    """Load encodings ahead of the first request."""
    for encoding in encodings:
        count_texts(("",), encoding)


def count_texts(texts: Iterable[str], encoding: Encoding) -> int:
    """Tokens of all texts. Text that looks like a special token is text."""
    found = list(texts)
    try:
        return sum(toktok.batch_count(found, encoding, threads=1))
    except UnicodeEncodeError:
        # Half a surrogate pair is no Unicode; a provider would replace it, too.
        clean = [text.encode("utf-8", "replace").decode() for text in found]
        return sum(toktok.batch_count(clean, encoding, threads=1))


def count_prompt(prompt: Iterable[Json], model: str) -> int:
    """Tokens of `[{role, content}]` (`WireFormat.prompt`): texts, 4 a message, and 3."""
    messages = list(prompt)
    texts = [message["content"] for message in messages]
    return count_texts(texts, encoding_of(model)) + _PER_MESSAGE * len(messages) + _PER_PROMPT


def count_messages_request(body: Json, model: str) -> int:
    """What Anthropic's count_tokens is asked for, estimated here: system, messages and tools.

    Wrong shapes count as nothing, since who sent them finds out from the provider.
    """
    texts: list[str] = []
    images = _collect(body.get("system"), texts)
    messages = body.get("messages")
    many = len(messages) if isinstance(messages, list) else 0
    if isinstance(messages, list):
        for message in messages:
            if isinstance(message, dict):
                images += _collect(message.get("content"), texts)
    # Of a schema every word is prompt, of a content block the names of its form are not.
    _collect(body.get("tools"), texts, frozenset())
    counted = count_texts(texts, encoding_of(model))
    return counted + images * _IMAGE_TOKENS + _PER_MESSAGE * many + _PER_PROMPT


def _collect(value: Any, texts: list[str], without: frozenset[str] = _NO_TEXT) -> int:
    """Gather the texts of a JSON value, keys of tool inputs and schemas included; gives the number
    of images. Keys in `without` are left out. No recursion: clients choose how deep JSON nests."""
    images = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            if item.get("type") == "image" and "source" in item:
                images += 1
                continue
            for key, inner in item.items():
                if key not in without:
                    if key not in ("text", "content"):
                        texts.append(key)
                    waiting.append(inner)
        elif item is not None:
            texts.append(str(item))
    return images
