from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import IO

import pytest

from sidecar import demo
from sidecar.echo import MAX_BODY_BYTES, MAX_EVENTS, EchoServer, EventBody, respond
from sidecar.http.message import FixedBody, read_all
from tests.support.gateway import free_ports
from tests.support.messages import request

ROOT = Path(__file__).resolve().parents[2]
DEMO = [sys.executable, "-m", "sidecar", "demo"]
EVENTS = b"id: 1\ndata: event 1 of 2\n\nid: 2\ndata: event 2 of 2\n\n"


async def test_the_answer_is_the_request() -> None:
    headers = [("x-a", "1"), ("x-a", "2"), ("x-b", "\xe9")]
    response = await respond(request("PUT", "/a%20b?c=d", headers, body=b"hello"))
    assert response.status == 200
    assert json.loads(await read_all(response.body, 10_000)) == {
        "method": "PUT",
        "authority": "shop.example",
        "path": "/a%20b?c=d",
        "headers": {"x-a": "1, 2", "x-b": "\xe9"},
        "body": "hello",
    }


async def test_a_body_past_the_limit_is_refused() -> None:
    asked = request("POST", "/")
    asked.body = FixedBody(b"x" * (MAX_BODY_BYTES + 1))
    assert (await respond(asked)).status == 413


async def test_events() -> None:
    response = await respond(request("GET", "/sse?events=2"))
    assert response.headers.get(b"content-type") == b"text/event-stream"
    assert response.body.length is None
    assert await read_all(response.body, 10_000) == EVENTS


@pytest.mark.parametrize("count", ["", "-1", "x", "1e3", str(MAX_EVENTS + 1), "9" * 5000])
async def test_wrong_counts_of_events(count: str) -> None:
    response = await respond(request("GET", f"/sse?events={count}&events={count or 'x'}"))
    assert response.status == 400


async def test_a_closed_stream_of_events_ends() -> None:
    body = EventBody(5)
    assert body.read_nowait() == b"id: 1\ndata: event 1 of 5\n\n"
    assert body.read_nowait() is None
    body.close()
    assert await body.read() == b""
    assert body.read_nowait() == b""


async def exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return answer


async def test_server() -> None:
    server = EchoServer(asyncio.get_running_loop())
    server.start(0)
    ask = b"GET /%s HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    answer = await exchange(server.port, ask % b"x")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\ndate: " in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["path"] == "/x"
    assert (await exchange(server.port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    assert b"event 1 of 1" in await exchange(server.port, ask % b"sse?events=1")
    await server.stop()
    await server.stop()  # for good
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_a_port_in_use_is_refused() -> None:
    server = EchoServer(asyncio.get_running_loop())
    server.start(0)
    with pytest.raises(OSError, match="in use"):
        EchoServer(asyncio.get_running_loop()).start(server.port)
    await server.stop()


@pytest.mark.parametrize(
    "arguments", [["--port", "0"], ["--port", "65536"], ["--port", "x"], ["y"]]
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.main(arguments)
    assert ended.value.code == 2
    assert "usage: agentgateway-sidecar demo" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_echo_command_ends_by_signal(number: signal.Signals) -> None:
    port, models, tools = free_ports(3)
    command = [*DEMO, "--port", str(port), "--models-port", str(models), "--tools-port", str(tools)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert f"127.0.0.1:{port}".encode() in process.stdout.readline()
        assert f"127.0.0.1:{models}".encode() in process.stdout.readline()
        assert f"127.0.0.1:{tools}/mcp".encode() in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(20) == 0


@pytest.mark.parametrize("option", ["--port", "--models-port", "--tools-port"])
@pytest.mark.parametrize("gateway", [[], ["--gateway"]])
async def test_command_says_that_its_port_is_taken(gateway: list[str], option: str) -> None:
    server = EchoServer(asyncio.get_running_loop())
    server.start(0)
    echo, models, tools = free_ports(3)
    command = [*DEMO, "--port", str(echo), "--models-port", str(models)]
    command += ["--tools-port", str(tools), *gateway]
    command[command.index(option) + 1] = str(server.port)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert f"127.0.0.1:{server.port}: Address already in use" in errors.decode()
    await server.stop()


def test_gateway_before_the_upstreams() -> None:
    echo, models, tools, gateway, admin, stats, readiness = free_ports(7)
    command = [*DEMO, "--gateway", "--port", str(echo), "--gateway-port", str(gateway)]
    command += ["--models-port", str(models), "--tools-port", str(tools)]
    env = {
        **os.environ,
        "ADMIN_ADDR": f"127.0.0.1:{admin}",
        "STATS_ADDR": f"127.0.0.1:{stats}",
        "READINESS_ADDR": f"127.0.0.1:{readiness}",
        "WORKER_THREADS": "1",
    }
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(b"Try it:"):
                break
        else:
            pytest.fail(f"ended with {process.wait(20)} before it served")
        assert line.decode().strip().endswith(f"curl -i http://127.0.0.1:{gateway}/hello")
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway}/hello", timeout=20) as answer:
            assert json.load(answer)["path"] == "/hello"
        with urllib.request.urlopen(
            f"http://127.0.0.1:{gateway}/sse?events=2", timeout=10
        ) as answer:
            assert answer.read() == EVENTS
        assert b'"content":" hello"' in run_printed(process.stderr, b"/v1/chat/completions")
        assert b'"text":"5"' in run_printed(process.stderr, b"/mcp")
        process.send_signal(signal.SIGINT)
        process.stderr.read()  # to the end: nobody keeps it open
        assert process.wait(20) == 0


def run_printed(lines: IO[bytes], path: bytes) -> bytes:
    """What the printed command gives when it is pasted into a shell."""
    while path not in (line := lines.readline()):
        assert line
    command = line.decode()
    while command.endswith("\\\n"):
        command = command.removesuffix("\\\n") + lines.readline().decode()
    return subprocess.run(["sh", "-c", command], capture_output=True, timeout=20, check=True).stdout
