"""Hostile JSON, codings and streams on the way to models and back.

Source: spec/hardening.md cases 46 to 49; the others of these cases, and 50, are in
`test_llm_faults` and `test_llm_charges`.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Iterator
from typing import Any

import brotli  # type: ignore[import-untyped]
import orjson
import pytest
from backports import zstd

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import COMPLETION, COMPLETION_STREAM, EVENTS, JSON, anthropic, texts
from tests.support.octets import read_all
from tests.support.upstream import Answer, Seen, Upstream

Json = dict[str, Any]
PORT, SMALL = free_ports(2)
CHAT = "/v1/chat/completions"
MEGABYTES_10 = 10 * 1024 * 1024
SPOKEN = "héllo 🌍 ok"
LIMIT = 64 * 1024


def _event(text: str, **more: Any) -> bytes:
    delta = {"role": "assistant", "content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": None, **more}
    # Not escaped: the octets of a character may come in different pieces.
    return b"data: " + orjson.dumps({"model": "m", "choices": [choice]}) + b"\n\n"


PLAIN = b"".join([*(_event(letter) for letter in SPOKEN), b"data: [DONE]\n\n"])
FRAMINGS = {
    "49-lf": PLAIN,
    "49-cr": PLAIN.replace(b"\n", b"\r"),
    "49-crlf": PLAIN.replace(b"\n", b"\r\n"),
    "49-bom": b"\xef\xbb\xbf" + PLAIN,
    "49-comments": PLAIN.replace(b"data: {", b": keep-alive\nretry: 5\nid: 7\ndata: {"),
    "49-no-blank": PLAIN.replace(b"data: {", b"data:{"),
    "49-multi-line": PLAIN.replace(b',"choices"', b',\ndata: "choices"'),
    "49-unknown-fields": PLAIN.replace(b"data: {", b"x-vendor: 1\nevent\ndata: {"),
    "49-empty-events": PLAIN.replace(b"data: {", b"\n\n\ndata: {"),
}


def provider(seen: Seen) -> Answer:
    """Does what the model's name says."""
    body = orjson.loads(seen.body)
    model = str(body.get("model"))
    framing, _, size = model.partition("/")
    if framing in FRAMINGS:
        data, step = FRAMINGS[framing], int(size)
        return Answer(200, EVENTS, [data[at : at + step] for at in range(0, len(data), step)])
    if model in BOMBS:
        coding, data = BOMBS[model]
        return Answer(200, [*JSON, ("content-encoding", coding)], data)
    if model == "short":
        # More is announced than comes: the other half is closed.
        return Answer(200, [*JSON, ("content-length", "5000")], iter([b'{"choices":']))
    if model == "deep":
        levels = b"[" * 500 + b"]" * 500
        made = b'{"model":"m","choices":[],"x":%b}' % levels
        if body.get("stream"):
            return Answer(200, EVENTS, [_event("a"), b"data: " + made + b"\n\n"])
        return Answer(200, JSON, made)
    if body.get("stream"):
        return Answer(200, EVENTS, iter(COMPLETION_STREAM))
    return Answer(200, JSON, orjson.dumps(COMPLETION))


BLANKS = b" " * 30_000_000
BOMBS = {
    "48-gzip": ("gzip", zlib.compress(BLANKS, wbits=31)),
    "48-br": ("br", brotli.compress(BLANKS, quality=5)),
    "48-zstd": ("zstd", zstd.compress(BLANKS)),
    "48-deflate": ("deflate", zlib.compress(BLANKS)),
    "48-twice": ("gzip, gzip", zlib.compress(zlib.compress(BLANKS, wbits=31), wbits=31)),
}


@pytest.fixture(scope="module")
def open_ai() -> Iterator[Upstream]:
    with Upstream(provider) as made:
        yield made


@pytest.fixture(scope="module")
def claude() -> Iterator[Upstream]:
    with Upstream(anthropic) as made:
        yield made


def config(port: int, open_ai: Upstream, claude: Upstream, limit: int, **policies: Any) -> Json:
    def model(name: str, kind: str, up: Upstream) -> Json:
        return {
            "name": name,
            "provider": kind,
            "params": {"baseUrl": f"http://{up.address}/v1", "apiKey": "sk-own"},
        }

    models = [model("claude", "anthropic", claude), model("*", "openAI", open_ai)]
    return {
        "frontendPolicies": {"http": {"maxBufferSize": limit}},
        "llm": {"port": port, "models": models, "policies": policies},
    }


@pytest.fixture(scope="module")
def gateway(open_ai: Upstream, claude: Upstream) -> Iterator[GatewayProcess]:
    with GatewayProcess(config(PORT, open_ai, claude, 32 * 1024 * 1024)) as made:
        yield made


@pytest.fixture(scope="module")
def small(open_ai: Upstream, claude: Upstream) -> Iterator[GatewayProcess]:
    keys = [{"key": "k-one", "allowedModels": ["m"]}]
    given = config(SMALL, open_ai, claude, LIMIT, apiKey={"keys": keys, "mode": "strict"})
    with GatewayProcess(given) as made:
        yield made


def post(port: int, raw: bytes, path: str = CHAT, **headers: str) -> Got:
    fields = {"content-type": "application/json", **headers}
    return fetch(port, path, "POST", headers=fields, body=raw, seconds=60)


def chat(model: str, content: str = "hello", **more: Any) -> Json:
    turns = [{"role": "user", "content": content}]
    return {"model": model, "messages": turns, "max_tokens": 9, **more}


# --- requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
def test_46_the_last_of_equal_keys_is_the_one_that_everybody_sees(
    gateway: GatewayProcess, open_ai: Upstream, claude: Upstream, path: str
) -> None:
    open_ai.take()
    claude.take()
    raw = (
        b'{"model":"m","messages":[{"role":"user","content":"first","content":"hello"}],'
        b'"model":"claude","max_tokens":5,"max_tokens":7,"stream":true,"stream":false}'
    )
    assert post(PORT, raw, path).status == 200
    assert open_ai.take() == []
    (seen,) = claude.take()
    for key in (b'"model"', b'"max_tokens"', b'"content"'):
        # Whoever reads the first of two would have another request than we.
        assert seen.body.count(key) == 1, key
    sent = orjson.loads(seen.body)
    assert (sent["model"], sent["max_tokens"]) == ("claude", 7)
    assert "first" not in seen.body.decode()


@pytest.mark.parametrize("levels", [225, 300, 1000])
@pytest.mark.parametrize("model", ["m", "claude"])
def test_46_what_can_be_read_but_not_written_again(
    gateway: GatewayProcess, model: str, levels: int
) -> None:
    tool = b'{"type":"function","function":{"name":"f","parameters":%b}}'
    deep = b'{"a":' * levels + b"1" + b"}" * levels
    raw = orjson.dumps(chat(model))[:-1] + b',"tools":[' + tool % deep + b"]}"
    assert_too_deep(post(PORT, raw), 400)
    # Only who converts a call looks into its arguments.
    function = {"name": "f", "arguments": deep.decode()}
    call = {"id": "c", "type": "function", "function": function}
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    got = post(PORT, orjson.dumps({**chat(model), "messages": turns}))
    if model == "claude" and levels > 225:
        assert_too_deep(got, 400)
    else:
        assert got.status == 200


def assert_too_deep(got: Got, status: int) -> None:
    assert got.status == status, got.body
    error = orjson.loads(got.body)["error"]
    assert "too deeply" in error["message"] or "fewer levels" in error["message"]


@pytest.mark.parametrize("model", ["m", "claude"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param("a\0b", id="46-nul"),
        pytest.param("\U0001f30d\u2028\u2029\ufeff\x7f", id="46-odd-characters"),
        pytest.param("x" * MEGABYTES_10, id="46-ten-megabytes"),
    ],
)
def test_46_texts_arrive_unharmed(
    gateway: GatewayProcess, open_ai: Upstream, claude: Upstream, content: str, model: str
) -> None:
    upstream = claude if model == "claude" else open_ai
    upstream.take()
    assert post(PORT, orjson.dumps(chat(model, content))).status == 200
    (seen,) = upstream.take()
    found = orjson.loads(seen.body)["messages"][0]["content"]
    assert (found if isinstance(found, str) else found[0]["text"]) == content


@pytest.mark.parametrize("form", ["declared", "chunked"])
def test_47_what_is_too_large_to_be_judged_is_refused(
    small: GatewayProcess, open_ai: Upstream, form: str
) -> None:
    open_ai.take()
    raw = orjson.dumps(chat("m", "x" * LIMIT))
    headers = {"authorization": "Bearer k-one"}
    if form == "chunked":
        headers["transfer-encoding"] = "chunked"
        raw = b"%x\r\n%b\r\n0\r\n\r\n" % (len(raw), raw)
    got = post(SMALL, raw, **headers)
    assert (got.status, open_ai.take()) == (413, [])
    assert orjson.loads(got.body)["error"]["message"]


@pytest.mark.parametrize("name", BOMBS)
def test_48_bombs_of_clients(small: GatewayProcess, open_ai: Upstream, name: str) -> None:
    open_ai.take()
    coding, raw = BOMBS[name]
    headers = {"authorization": "Bearer k-one", "content-encoding": coding}
    assert (post(SMALL, raw, **headers).status, open_ai.take()) == (413, [])


def test_a_client_that_closes_its_half_gets_all_or_nothing(gateway: GatewayProcess) -> None:
    raw = orjson.dumps(chat("m"))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {len(raw)}"
    with socket.create_connection(("127.0.0.1", PORT), timeout=20) as client:
        client.sendall(head.encode() + b"\r\n\r\n" + raw)
        client.shutdown(socket.SHUT_WR)
        got = read_all(client)
    # To the gateway it is a client that has left, unless the answer was there already.
    assert got == b"" or got.endswith(orjson.dumps(COMPLETION))
    assert post(PORT, raw).status == 200


# --- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
def test_48_bombs_of_providers_are_no_answers(
    gateway: GatewayProcess, name: str, path: str
) -> None:
    got = post(PORT, orjson.dumps(chat(name)), path)
    assert got.status == 502
    assert orjson.loads(got.body)["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_46_answers_that_nest_too_deeply(gateway: GatewayProcess, stream: bool) -> None:
    got = post(PORT, orjson.dumps(chat("deep", stream=stream)), "/v1/messages")
    if stream:
        assert got.status == 200
        assert b"event: error\n" in got.body
        assert b"nested too deeply" in got.body
    else:
        assert got.status == 502
        assert orjson.loads(got.body)["error"]["message"]


def test_an_answer_that_ends_early_is_none(gateway: GatewayProcess) -> None:
    got = post(PORT, orjson.dumps(chat("short")))
    assert got.status in (502, 503)
    assert orjson.loads(got.body)["error"]["message"]


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_49_streams_however_they_are_written(
    gateway: GatewayProcess, framing: str, size: int
) -> None:
    got = post(PORT, orjson.dumps(chat(f"{framing}/{size}", stream=True)), "/v1/messages")
    assert (got.status, texts(got.body)) == (200, SPOKEN), got.body
    assert b"event: message_stop\n" in got.body


@pytest.mark.parametrize("framing", FRAMINGS)
def test_49_a_stream_in_the_clients_format_is_untouched(
    gateway: GatewayProcess, framing: str
) -> None:
    got = post(PORT, orjson.dumps(chat(f"{framing}/1", stream=True)))
    assert (got.status, got.body) == (200, FRAMINGS[framing])
