"""What the LLM gateway costs: `python -m tests.bench.llm_bench [--requests N]`.

CPU of one worker for a chat and for a streamed chunk, same format and converted, before the
simulator of model providers; and the conversion of a request by itself. LiteLLM and nginx are not
measured here. Numbers are of this machine, and only comparable within a run.
"""

from __future__ import annotations

import argparse
import http.client
import time
from typing import Any

import orjson

from sidecar.llm.convert.base import Context
from sidecar.llm.convert.completions_to_messages import CONVERSION
from tests.bench.usage import cpu_seconds
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.providers import PROVIDERS, simulated

CHUNKS = 200
PROMPT_BYTES = {"4 KiB": 4096, "100 KiB": 102_400}


def body(model: str, size: int, **more: Any) -> bytes:
    """A chat with a prompt of that size."""
    said = ("tell me more " * (size // 13 + 1))[:size]
    return orjson.dumps({"model": model, "messages": [{"role": "user", "content": said}], **more})


def per_request_us(
    gateway: GatewayProcess, port: int, data: bytes, count: int, **fields: str
) -> float:
    """CPU of the worker for one request, microseconds, on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"content-type": "application/json", **fields}

    def run(times: int) -> None:
        for _ in range(times):
            connection.request("POST", "/v1/chat/completions", data, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"the gateway answered {answer.status}")

    run(max(count // 10, 5))
    pids = gateway.worker_pids()
    before = cpu_seconds(pids)
    run(count)
    spent = cpu_seconds(pids) - before
    connection.close()
    return spent / count * 1e6


def conversion_us(count: int) -> float:
    """completions → messages of a 4 KiB chat."""
    given = orjson.loads(body("gpt-4o-mini", 4096))
    started = time.process_time()
    for _ in range(count):
        CONVERSION.request(given, Context("claude", "claude", False, 0, str))
    return (time.process_time() - started) / count * 1e6


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=2000)
    count = parser.parse_args().requests
    print(f"conversion completions to messages, 4 KiB: {conversion_us(count):.0f} us")
    (port,) = free_ports(1)
    with simulated(port) as (gateway, _):
        for name in ("openai", "anthropic"):
            own = "same format" if PROVIDERS[name][0] == "openAI" else "converted"
            for label, size in PROMPT_BYTES.items():
                spent = per_request_us(gateway, port, body(name, size), count)
                print(f"chat {own}, {label}: {spent:.0f} us CPU a request")
            whole = per_request_us(gateway, port, body(name, 20), count)
            streamed = per_request_us(
                gateway,
                port,
                body(name, 20, stream=True),
                max(count // 20, 10),
                **{"x-simulate": f"words-{CHUNKS}"},
            )
            print(f"stream {own}: {(streamed - whole) / CHUNKS:.1f} us CPU a chunk")


if __name__ == "__main__":
    main()
