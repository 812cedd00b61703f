"""Golden cases of LLM translation: requests, answers, streams, and what is read from them.

`llm_targets` says which code a case's `group` and `target` mean. Cases stand in `golden/llm`;
the published ones of the reference are run as well where they are (`PUBLISHED`), else skipped.

Source: spec llm section 6; differences on purpose are argued in docs/llm-differences.md.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import importlib
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from sidecar.llm.chat import detect, gemini
from sidecar.llm.chat.base import WireFormat
from sidecar.llm.chat.formats import CHAT, FORMATS
from sidecar.llm.chat.framing import EventDecoder, Framing
from sidecar.llm.chat.passthrough import StreamTap
from sidecar.llm.convert.base import Context, Conversion
from sidecar.llm.usage import Usage
from tests.golden.llm_cases import (
    OWN,
    PUBLISHED,
    Json,
    difference,
    essence,
    float32,
    frames,
    input_bytes,
    load,
    redacted,
    without_nulls,
)
from tests.golden.llm_targets import (
    ANSWERS,
    APPEND,
    CLIENTS,
    DIFFERENT,
    FORMAT_LABELS,
    MODELS,
    PREPEND,
    REQUESTS,
    SAME,
)

CASES: Final = load(OWN) + load(PUBLISHED)


def conversion(module: str) -> Conversion:
    found: Conversion = importlib.import_module(f"sidecar.llm.convert.{module}").CONVERSION
    return found


def context(model: str, *, is_streaming: bool = False) -> Context:
    numbers = itertools.count(1)
    return Context(
        model=model,
        requested_model=model,
        is_streaming=is_streaming,
        now_seconds=123,
        new_id=lambda prefix: f"{prefix}{next(numbers):016x}",
        headers={"anthropic-version": "2023-06-01"},
        settings={"region": "us-west-2", "projectId": "test-project-123"},
        request_id="request_id",
    )


# --- requests -------------------------------------------------------------------------------


def client_format(folder: str, body: Json) -> WireFormat:
    if folder == "policies":
        key = "system" if "max_tokens" in body and "system" in body else ""
        guesses = {"input": "responses", "contents": "generateContent"}
        name = next((guesses[guess] for guess in guesses if guess in body), "completions")
        return FORMATS["messages" if key else name]
    return FORMATS[CLIENTS[folder]]


def run_request(folder: str, target: str, body: Json) -> tuple[WireFormat, Json, Json]:
    """(client format, the body as the gateway reads it, the provider's body)."""
    form = client_format(folder, body)
    form.check(body)
    module = REQUESTS.get((folder, target))
    if module is not None:
        model = MODELS.get(f"{folder}/{target}") or MODELS.get(target) or form.model(body) or ""
        if "cohere.embed-v4" in (form.model(body) or ""):
            model = str(form.model(body))
        before = copy.deepcopy(body)
        call = context(model, is_streaming=form.is_streaming(body))
        converted = conversion(module).request(body, call)
        assert body == before, "a conversion changed the client's body"
        return form, body, converted
    if folder == "policies" or (folder, target) == ("responses", "openai"):
        form.enrich(body, PREPEND, APPEND)
    return form, body, gemini.normalise(body) if form.name == "generateContent" else body


def params_of(cases: list[Json]) -> list[object]:
    """As parameters; those that we answer otherwise must go on doing so."""
    out: list[object] = []
    for case in cases:
        found = [why for name, why in DIFFERENT.items() if re.fullmatch(name, case["name"])]
        marks = [pytest.mark.xfail(strict=True, reason=why) for why in found]
        out.append(pytest.param(case, id=case["name"], marks=marks))
    return out


def test_differences_are_argued() -> None:
    text = (Path(__file__).parents[2] / "docs" / "llm-differences.md").read_text()
    assert [why for why in DIFFERENT.values() if f"\n## {why}\n" not in text] == []


def is_request(case: Json) -> bool:
    return str(case["group"]).startswith("requests/")


def is_stream(case: Json) -> bool:
    return str(case["target"]).endswith("-streaming")


def named(case: Json) -> str:
    return str(case["name"])


@pytest.mark.parametrize("case", params_of([c for c in CASES if is_request(c)]))
def test_request(case: Json) -> None:
    folder, target = case["group"].removeprefix("requests/"), case["target"]
    body = case["input"]["json"]
    if target.startswith("get-messages-"):
        assert client_format(folder, body).prompt(body) == case["expected"]
        return
    form, read, sent = run_request(folder, target, body)
    assert sent == case["expected_request"]
    wanted = case.get("expected_metadata")
    if wanted is None:
        return
    assert form.name == FORMAT_LABELS[wanted["input_format"]]
    assert (form.model(read) or "") == wanted["request_model"]
    assert form.is_streaming(read) == wanted["streaming"]
    params = form.params(read)
    assert {key: float32(value) for key, value in params.items()} == wanted["params"]
    if form.name in CHAT:
        assert form.prompt(read) == wanted["prompt"]


# --- answers --------------------------------------------------------------------------------

_MEDIA: Final = tuple(
    f.name for f in dataclasses.fields(Usage) if f.name.endswith(("_audio_tokens", "_image_tokens"))
)


def converted_usage(provider: Usage, client: Usage, form: str) -> Usage:
    """The published numbers of a converted answer: the client's body, and for messages the kinds
    of media that only the provider's body tells. (The gateway itself charges what the provider's
    body says.)"""
    for name in _MEDIA if form == "messages" else ():
        if getattr(client, name) is None:
            setattr(client, name, getattr(provider, name))
    return client


def usage_dict(usage: Usage, *, with_completion: bool) -> Json:
    out = usage.as_dict()
    out.pop("pieces", None)  # ours alone
    if not with_completion:
        out.pop("completion", None)
    return out


@pytest.mark.parametrize(
    "case", params_of([c for c in CASES if not is_request(c) and not is_stream(c)])
)
def test_answer(case: Json) -> None:
    target = case["target"]
    data = input_bytes(case)
    if target in SAME:
        check_passed_answer(case, FORMATS[SAME[target]], data)
        return
    upstream, client, module = ANSWERS[target]
    if case["group"] == "response/vertex" and "predictions" in case["input"]["json"]:
        client, module = "embeddings", "embeddings_to_vertex"
    model = MODELS.get(f"{client}/{target}") or "input-model"
    model = MODELS.get(target, model) if client == "embeddings" and target != "vertex" else model
    body = orjson.loads(data)
    answer = conversion(module).response(body, context(model))
    assert redacted(answer) == case["expected_response"]
    read = FORMATS[client].usage(answer, with_content=True)
    usage = converted_usage(FORMATS[upstream].usage(body), read, client)
    assert usage_dict(usage, with_completion=False) == case["expected_usage"]


def check_passed_answer(case: Json, form: WireFormat, data: bytes) -> None:
    if form.name == "detect":
        usage = detect.usage_of_bytes(data)
    else:
        usage = form.usage(orjson.loads(data), with_content=True)
    if "expected" in case:
        assert usage.count_tokens == case["expected"]["token_count"]
        return
    assert usage_dict(usage, with_completion=False) == case["expected_usage"]
    expected = case["expected_response"]
    if isinstance(expected, str):
        assert data.decode(errors="replace") == expected
        return
    answer = orjson.loads(data)
    if form.name == "detect":
        assert redacted(answer) == redacted(expected)
    else:
        assert without_nulls(redacted(answer)) == without_nulls(expected)


# --- streams --------------------------------------------------------------------------------


def framing(case: Json) -> Framing:
    return "eventstream" if case["target"].startswith("bedrock") else "sse"


def without_finish(usage: Json) -> Json:
    """A converted stream's finish reason is kept in the provider's words, not the client's."""
    for message in usage.get("output_messages", ()):
        message.pop("finish_reason", None)
    return usage


def contained(wanted: Json, found: Json) -> Json:
    """What is found of what is wanted: we may know more than the published case."""
    return {key: value for key, value in found.items() if key in wanted}


@pytest.mark.parametrize("case", params_of([c for c in CASES if is_stream(c)]))
def test_stream(case: Json) -> None:
    target = case["target"].removesuffix("-streaming")
    data = input_bytes(case)
    wanted = case.get("expected_usage", {})
    if target in SAME:
        form = FORMATS[SAME[target]]
        check_passed_stream(case, data)
    else:
        upstream, _, module = ANSWERS[target]
        form = FORMATS[upstream]
        check_converted_stream(case, module, data)
    tap = StreamTap(form, framing(case), with_content=True)
    tap.feed(data)
    tap.finish()
    found = contained(wanted, tap.usage.as_dict())
    is_same = target in SAME
    assert (found if is_same else without_finish(found)) == (
        wanted if is_same else without_finish(wanted)
    )


def check_passed_stream(case: Json, data: bytes) -> None:
    """It goes by untouched; the published text writes events that are not changed."""
    expected = case["expected_stream"]
    if expected.startswith("base64: "):
        passed = base64.b64decode(expected.removeprefix("base64: "))
        assert passed.decode(errors="replace") == data.decode(errors="replace")
    elif framing(case) == "sse":
        assert difference(as_lists(expected), as_lists(data.decode())) is None


def as_lists(stream: str) -> list[Any]:
    return [list(frame) for frame in frames(stream)]


def convert_stream(module: str, kind: Framing, pieces: list[bytes]) -> bytes:
    stream = conversion(module).stream(context("input-model", is_streaming=True))
    decoder = EventDecoder(kind)
    events = [event for piece in pieces for event in decoder.feed(piece)] + decoder.finish()
    out = [frame for event in events for frame in stream.feed(event)]
    return b"".join(out + stream.finish())


def check_converted_stream(case: Json, module: str, data: bytes) -> None:
    out = convert_stream(module, framing(case), [data])
    assert convert_stream(module, framing(case), [bytes((byte,)) for byte in data]) == out
    expected = frames(case["expected_stream"])
    actual = frames(out.decode())
    if case["target"].endswith("-responses-streaming"):
        assert all(name == data["type"] for name, data in actual)
        assert difference(essence(expected), essence(actual)) is None
        return
    for (name, wanted), (own, got) in zip(expected, actual, strict=False):
        assert difference(wanted, got) is None
        assert own == name
    assert len(actual) == len(expected)


# --- every case, split anywhere --------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if is_stream(c)], ids=named)
def test_tap_split_anywhere(case: Json) -> None:
    target = case["target"].removesuffix("-streaming")
    form = FORMATS[SAME[target] if target in SAME else ANSWERS[target][0]]
    data = input_bytes(case)

    def read(pieces: list[bytes], *, with_content: bool) -> Json:
        tap = StreamTap(form, framing(case), with_content=with_content)
        for piece in pieces:
            tap.feed(piece)
        tap.finish()
        return tap.usage.as_dict()

    for with_content in (True, False):
        whole = read([data], with_content=with_content)
        steps: list[Callable[[int], int]] = [lambda _: 1, lambda i: 7 + i % 13]
        for step in steps:
            pieces, start = [], 0
            while start < len(data):
                pieces.append(data[start : start + step(start)])
                start += len(pieces[-1])
            assert read(pieces, with_content=with_content) == whole
    light = read([data], with_content=False)
    full = read([data], with_content=True)
    counted: dict[str, Any] = {k: v for k, v in full.items() if k.endswith(("tokens", "model"))}
    assert {k: v for k, v in light.items() if k.endswith(("tokens", "model"))} == counted


@pytest.mark.skipif(PUBLISHED.is_dir(), reason="the published cases are here and were run")
def test_published_cases() -> None:
    pytest.skip("the published cases are not beside this tree: only our own were run")
