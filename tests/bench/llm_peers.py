"""The proxies that are compared in front of one canned provider, each on the core that is its own.

Plain answers come from nginx, streams from llm_upstream.py. Who has no way to tell a stream by the
model's name (nginx, and the direct way) listens on a port for each.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from typing import Any, Final

import orjson

from tests.bench import llm_litellm
from tests.bench.environments import AbsentError
from tests.bench.peers import NGINX, wait_open
from tests.bench.processes import Processes
from tests.bench.usage import LOAD_CORE, PROXY_CORE, descendants, pinned
from tests.support.gateway import GatewayProcess, free_ports

Json = dict[str, Any]
CHAT: Final = "/v1/chat/completions"
KEY: Final = "sk-bench"
PLAIN_MODEL: Final = "gpt-4o-mini"
STREAMED_MODEL: Final = "gpt-4o"
CONVERTED_MODEL: Final = "claude-sonnet-4-5"
NGINX_NAME: Final = "nginx"
LITELLM: Final = "LiteLLM"
LIMITED: Final = "gateway"
BARE: Final = "gateway, no policies"
DIRECT: Final = "direct"
SAID: Final = (
    "A fixed answer of some length, so that there is something to be read and counted. " * 5
)
_ENOUGH: Final = 2**50
_LITELLM_SECONDS: Final = 120.0
MAX_STREAMS: Final = 8000

_COMPLETION: Final[Json] = {
    "id": "chatcmpl-bench0000000000000000000000",
    "object": "chat.completion",
    "created": 1760000000,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": SAID, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 120,
        "completion_tokens": 80,
        "total_tokens": 200,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
    "service_tier": "default",
    "system_fingerprint": "fp_bench00000",
}
_MESSAGE: Final[Json] = {
    "id": "msg_bench0000000000000000000000",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [{"type": "text", "text": SAID}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 900, "output_tokens": 80},
}
_UPSTREAM: Final = """\
  server {{
    listen 127.0.0.1:{port}; default_type application/json;
    location = /v1/chat/completions {{ return 200 '{completion}'; }}
    location = /v1/messages {{ return 200 '{message}'; }}
  }}
}}
"""
_PROXY: Final = """\
  upstream bodies {{ server 127.0.0.1:{bodies}; keepalive 512; keepalive_requests 1000000000; }}
  upstream streams {{ server 127.0.0.1:{streams}; keepalive 512; keepalive_requests 1000000000; }}
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
  proxy_request_buffering off; proxy_buffers 16 16k; proxy_max_temp_file_size 0;
  server {{ listen 127.0.0.1:{plain}; location / {{ proxy_pass http://bodies; }} }}
  server {{
    listen 127.0.0.1:{streamed} backlog=8192;
    location / {{ proxy_pass http://streams; proxy_buffering off; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class LlmPeer:
    """Who is measured. `load_pids`: whose CPU counts; `all_pids`: whose memory counts."""

    name: str
    plain: int = 0
    streamed: int = 0
    load_pids: tuple[int, ...] = ()
    all_pids: tuple[int, ...] = ()
    why_absent: str = ""
    checks_keys: bool = False
    converts: bool = False


class LlmStage(Processes):
    """`with LlmStage() as stage:` everything runs; `stage.peers` are ready for load."""

    def __init__(self, *, with_litellm: bool = True) -> None:
        super().__init__()
        self.bodies, self.streams = free_ports(2)
        self.direct = LlmPeer(DIRECT, self.bodies, self.streams)
        self.peers: list[LlmPeer] = []
        self._with_litellm = with_litellm
        self._by_name: dict[str, GatewayProcess] = {}

    def peer(self, name: str) -> LlmPeer:
        """By its name."""
        return next(one for one in self.peers if one.name == name)

    def spent_usd(self) -> float:
        """What the limited gateway's budget was charged."""
        port = self._by_name[LIMITED].admin_port
        url = f"http://127.0.0.1:{port}/api/budgets/status"
        with urllib.request.urlopen(url, timeout=10) as answer:
            budgets = orjson.loads(answer.read())["budgets"]
        return sum(float(one["usage"]["used"]) for one in budgets)

    def _start(self) -> None:
        self.folder.chmod(0o755)  # nginx's worker is nobody, who must get at the files
        with pinned(LOAD_CORE):
            texts = {"completion": _quoted(_COMPLETION), "message": _quoted(_MESSAGE)}
            self._nginx("upstream", _UPSTREAM, self.bodies, port=self.bodies, **texts)
            command = [sys.executable, "-m", "tests.bench.llm_upstream", str(self.streams)]
            process = self._spawn(command)
            wait_open(process, f"http://127.0.0.1:{self.streams}/")
        with pinned(PROXY_CORE):
            self.peers.append(self._nginx_peer())
            self.peers.append(self._gateway(BARE, {}))
            self.peers.append(self._gateway(LIMITED, _POLICIES))
            self.peers.append(self._litellm())

    def _nginx(self, name: str, text: str, ready: int, **values: Any) -> subprocess.Popen[bytes]:
        path = self.folder / f"{name}.conf"
        path.write_text((NGINX + text).format(folder=self.folder, name=name, **values))
        process = self._spawn(["nginx", "-p", str(self.folder), "-c", str(path)])
        wait_open(process, f"http://127.0.0.1:{ready}/")
        return process

    def _nginx_peer(self) -> LlmPeer:
        plain, streamed = free_ports(2)
        ports = {"bodies": self.bodies, "streams": self.streams}
        process = self._nginx("proxy", _PROXY, plain, plain=plain, streamed=streamed, **ports)
        pids = descendants(process.pid)
        return LlmPeer(NGINX_NAME, plain, streamed, tuple(pids[1:]), tuple(pids))

    def _gateway(self, name: str, policies: Json) -> LlmPeer:
        (port,) = free_ports(1)
        process = GatewayProcess(self._config(port, policies))
        self._gateways.append(process)
        self._by_name[name] = process
        process.start()
        load = tuple(pid for one in process.worker_pids() for pid in descendants(one))
        everyone = tuple(descendants(process.process.pid))
        checks = bool(policies)
        return LlmPeer(name, port, port, load, everyone, checks_keys=checks, converts=True)

    def _config(self, port: int, policies: Json) -> Json:
        models = [
            _model(PLAIN_MODEL, "openAI", self.bodies),
            _model(STREAMED_MODEL, "openAI", self.streams),
            _model(CONVERTED_MODEL, "anthropic", self.bodies),
        ]
        config: Json = {
            "logging": {"level": "info,request=warn"},
            "maxRequestsInFlight": MAX_STREAMS,
        }
        if policies:
            config["state"] = {"journal": str(self.folder / "spend.db")}
        return {"config": config, "llm": {"port": port, "models": models, "policies": policies}}

    def _litellm(self) -> LlmPeer:
        if not self._with_litellm:
            return LlmPeer(LITELLM, why_absent="left out")
        (port,) = free_ports(1)
        bases = {
            f"openai/{PLAIN_MODEL}": f"http://127.0.0.1:{self.bodies}/v1",
            f"openai/{STREAMED_MODEL}": f"http://127.0.0.1:{self.streams}/v1",
            f"anthropic/{CONVERTED_MODEL}": f"http://127.0.0.1:{self.bodies}",
        }
        try:
            process = llm_litellm.start(self.folder, port, KEY, bases)
        except AbsentError as error:
            return LlmPeer(LITELLM, why_absent=str(error))
        self._processes.append(process)
        try:
            wait_open(process, f"http://127.0.0.1:{port}/health/liveliness", _LITELLM_SECONDS)
        except OSError:
            return LlmPeer(LITELLM, why_absent=f"no start: {llm_litellm.log_tail(self.folder)}")
        pids = tuple(descendants(process.pid))
        return LlmPeer(LITELLM, port, port, pids, pids, checks_keys=True, converts=True)


_POLICIES: Final[Json] = {
    "apiKey": {
        "mode": "strict",
        "keys": [
            {
                "key": KEY,
                "metadata": {"name": "bench"},
                "budgets": [
                    {
                        "name": "daily",
                        "limit": {"unit": "USD", "amount": 1_000_000},
                        "window": {"rolling": "24h"},
                    }
                ],
            }
        ],
    },
    "localRateLimit": [
        {
            "maxTokens": _ENOUGH,
            "tokensPerFill": _ENOUGH,
            "fillInterval": "1m",
            "key": "apiKey.name",
            "type": kind,
        }
        for kind in ("requests", "tokens")
    ],
}


def _model(name: str, provider: str, port: int) -> Json:
    params = {"apiKey": "sk-upstream", "baseUrl": f"http://127.0.0.1:{port}/v1"}
    return {"name": name, "provider": provider, "params": params}


def _quoted(body: Json) -> str:
    text = orjson.dumps(body).decode()
    assert not set("'$\\") & set(text), "nginx would read it differently"
    return text


def chat(model: str, prompt: str, *, turns: int = 1, stream: bool = False) -> bytes:
    """The request of a chat; `prompt` is cut into so many turns of user and assistant."""
    size = -(-len(prompt) // turns)
    said = [prompt[at : at + size] for at in range(0, len(prompt), size)]
    messages = [{"role": "system", "content": "You are a terse assistant."}]
    for number, text in enumerate(said):
        messages.append({"role": ("user", "assistant")[number % 2], "content": text})
    body: Json = {"model": model, "messages": messages, "temperature": 0.2, "max_tokens": 256}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return orjson.dumps(body)


def ask(port: int, body: bytes, key: str = KEY) -> tuple[int, bytes, dict[str, str]]:
    """One request by a client that is no load generator: status, body, lower-case headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    fields = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    try:
        connection.request("POST", CHAT, body, fields)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, answer.read(), headers
    finally:
        connection.close()
