"""Chats on the direct way: answered from there, or handed over; asked of the provider once."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.gateway.pipeline import Pipeline
from sidecar.http.message import Request, Response
from sidecar.net.host import Cancellable
from sidecar.net.outbox import Outbox
from tests.support.authority import Authority
from tests.support.compiled import InProcess, ask_for
from tests.support.models import COMPLETION, COMPLETION_STREAM, anthropic, openai
from tests.support.upstream import Answer, Seen, Upstream

PORT = 4000
PATH = "/v1/chat/completions"
FAILURE = {"error": {"message": "failed", "type": "server_error", "code": None}}
TARGETS = [{"model": "fail-503", "priority": 0}, {"model": "claude", "priority": 1}]


def script(seen: Seen) -> Answer:
    """OpenAI, but for models that answer with something else."""
    model = orjson.loads(seen.body).get("model")
    if model == "dropped":
        return Answer(drop=True)
    if model == "html":
        return Answer(200, [("content-type", "text/html")], b"<html>")
    return openai(seen)


@dataclass
class Transport:
    """How providers are reached."""

    scheme: str
    server: ssl.SSLContext | None = None
    model: dict[str, Any] = field(default_factory=dict)
    """What a model says of it."""


@pytest.fixture(scope="module", params=["http", "https"])
def transport(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Transport:
    if request.param == "http":
        return Transport("http")
    folder: Path = tmp_path_factory.mktemp("tls")
    root = Authority()
    pair = root.issue(["provider.test"])
    for name, text in (("root", root.root), ("pair", pair.cert + pair.key)):
        (folder / name).write_text(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair")
    tls = {"root": str(folder / "root"), "hostname": "provider.test"}
    return Transport("https", context, {"backendTLS": tls})


@pytest.fixture(scope="module")
def one(transport: Transport) -> Iterator[Upstream]:
    with Upstream(script, tls=transport.server) as made:
        yield made


@pytest.fixture(scope="module")
def two(transport: Transport) -> Iterator[Upstream]:
    with Upstream(anthropic, tls=transport.server) as made:
        yield made


@pytest.fixture
async def gateway(transport: Transport, one: Upstream, two: Upstream) -> AsyncIterator[InProcess]:
    def model(name: str, kind: str, up: Upstream) -> dict[str, Any]:
        url = f"{transport.scheme}://{up.address}/v1"
        params = {"baseUrl": url, "apiKey": "sk-provider"}
        return {"name": name, "provider": kind, "params": params, **transport.model}

    names = ("gpt-test", "fail-503", "fail-400", "dropped", "html")
    config = {
        "llm": {
            "port": PORT,
            "models": [
                *(model(name, "openAI", one) for name in names),
                model("claude", "anthropic", two),
            ],
            "virtualModels": [{"name": "over", "routing": {"failover": {"targets": TARGETS}}}],
            "policies": {
                "localRateLimit": [
                    {"maxTokens": 4, "tokensPerFill": 1, "fillInterval": "1h", "type": "requests"},
                    {"maxTokens": 999, "tokensPerFill": 1, "fillInterval": "1h", "type": "tokens"},
                ]
            },
        }
    }
    async with InProcess(config) as made:
        for name in ("gpt-test", "claude"):  # so that there are kept connections
            assert (await made.text(chat(name)))[0] == 200
        one.take()
        two.take()
        yield made


def chat(model: str, **more: Any) -> Request:
    """A request for a chat."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
    fields = {"content-type": "application/json", "authorization": "Bearer client"}
    return ask_for(PATH, "POST", fields, body=orjson.dumps(body))


@dataclass
class Front:
    """What a connection does for its requests: see net.native."""

    gateway: InProcess
    pipeline: Pipeline = field(init=False)
    call: Cancellable | None = None
    is_handed_over: bool = False

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        bind = next(iter(self.gateway.gateway.binds))
        self.pipeline = Pipeline(bind, self.gateway, self.gateway.random, Outbox(loop))
        self._next: asyncio.Future[Response | None] = loop.create_future()

    def start(self, request: Request) -> bool:
        """Whether the direct way takes it."""
        self.call = self.pipeline.start(
            request, self._next.set_result, lambda: self._next.set_result(None)
        )
        return self.call is not None

    async def handed_over(self) -> None:
        """The task has to go on with it."""
        assert await asyncio.wait_for(self._next, 20) is None

    async def serve(self, request: Request) -> tuple[int, bytes]:
        """Status and body of an answer, whichever way it comes."""
        assert self.start(request)
        response = await asyncio.wait_for(self._next, 20)
        if response is None:
            self.is_handed_over = True
            response = await self.pipeline(request)
        return await ended(response)


async def ended(response: Response) -> tuple[int, bytes]:
    """The answer, ended as a front door does."""
    body = b""
    while piece := await asyncio.wait_for(response.body.read(), 20):
        body += piece
    assert response.on_done is not None
    response.on_done(len(body), "")
    return response.status, body


def tokens_left(request: Request) -> int:
    """What the tighter of the limits has left."""
    return int(dict(request.response_headers)[b"x-ratelimit-remaining"])


async def test_a_whole_answer(gateway: InProcess, one: Upstream) -> None:
    front = Front(gateway)
    assert await front.serve(chat("gpt-test")) == (200, orjson.dumps(COMPLETION))
    assert not front.is_handed_over
    (seen,) = one.take()
    assert (seen.target, seen.get("authorization")) == (PATH, "Bearer sk-provider")
    assert orjson.loads(seen.body)["model"] == "gpt-test"
    assert gateway.in_flight == 0
    assert gateway.count("agentgateway_requests_total") == 3


async def test_a_converted_answer(gateway: InProcess, two: Upstream) -> None:
    front = Front(gateway)
    status, body = await front.serve(chat("claude"))
    answer = orjson.loads(body)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "hi")
    assert not front.is_handed_over
    assert [one.target for one in two.take()] == ["/v1/messages"]


async def test_a_stream_goes_on_in_the_task(gateway: InProcess, one: Upstream) -> None:
    front = Front(gateway)
    status, body = await front.serve(chat("gpt-test", stream=True))
    assert (status, body) == (200, b"".join(COMPLETION_STREAM))
    assert front.is_handed_over
    assert len(one.take()) == 1
    assert gateway.in_flight == 0


async def test_another_provider_is_asked(gateway: InProcess, one: Upstream, two: Upstream) -> None:
    front = Front(gateway)
    status, body = await front.serve(chat("over"))
    assert (status, orjson.loads(body)["model"]) == (200, "claude-test")
    assert (len(one.take()), len(two.take())) == (1, 1)
    assert gateway.in_flight == 0


@pytest.mark.parametrize(
    ("model", "status", "text"),
    [
        ("fail-400", 400, "failed"),
        ("fail-503", 503, "failed"),
        ("dropped", 503, "upstream call failed"),
        ("html", 502, "not a JSON object"),
    ],
)
async def test_failures_look_as_on_the_long_way(
    model: str, status: int, text: str, gateway: InProcess, one: Upstream
) -> None:
    front = Front(gateway)
    found, body = await front.serve(chat(model))
    assert found == status
    assert text in orjson.loads(body)["error"]["message"]
    assert len(one.take()) == 1
    assert gateway.in_flight == 0


async def test_limits_refuse_at_once(gateway: InProcess, one: Upstream) -> None:
    for left in (1, 0):
        asked = chat("gpt-test")
        assert (await Front(gateway).serve(asked))[0] == 200
        assert tokens_left(asked) == left
    one.take()
    front = Front(gateway)
    status, body = await front.serve(chat("gpt-test"))
    assert (status, orjson.loads(body)["error"]["message"]) == (429, "rate limit exceeded")
    assert not front.is_handed_over
    assert one.take() == []


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model":"nobody","messages":[]}'])
async def test_what_is_wrong_is_told_by_the_long_way(body: bytes, gateway: InProcess) -> None:
    asked = ask_for(PATH, "POST", {"content-type": "application/json"}, body=body)
    assert not Front(gateway).start(asked)
    assert (gateway.in_flight, len(asked.endings)) == (0, 1)
    status, _ = await gateway.text(asked)
    assert status in (400, 404)
    # The limit was asked once, though two ways were tried.
    assert tokens_left(asked) == 1


async def test_the_client_leaves_before_the_answer(gateway: InProcess) -> None:
    front = Front(gateway)
    assert front.start(chat("gpt-test"))
    assert front.call is not None
    for _ in range(2):
        front.call.cancel()
        assert gateway.in_flight == 0


async def test_the_client_leaves_before_the_task_goes_on(gateway: InProcess) -> None:
    front = Front(gateway)
    assert front.start(chat("gpt-test", stream=True))
    await front.handed_over()
    assert (gateway.in_flight, front.call is not None) == (1, True)
    for _ in range(2):
        assert front.call is not None
        front.call.cancel()
        assert gateway.in_flight == 0
