"""`agentgateway-sidecar demo`: upstreams for trying things, which need no key and no network.

One answers with what it was asked; the others are a simulator of model providers and one of an MCP
server. With `--gateway` the same command also runs a gateway in front of them, on the packaged
example. The gateway is then
the main process, because it knows how to take signals; the upstreams are a child that lives as
long as the pipe which is its standard input. So they outlive the gateway's drain, and nothing is
left behind however the gateway ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.config.text import Source
from sidecar.echo import EchoServer
from sidecar.simulator.server import Simulator
from sidecar.simulator.tools import PATH, ToolServer

ECHO_PORT: Final = 8080
MODELS_PORT: Final = 8081
TOOLS_PORT: Final = 8082
GATEWAY_PORT: Final = 3000
ECHO_VARIABLE: Final = "DEMO_ECHO_PORT"
MODELS_VARIABLE: Final = "DEMO_MODELS_PORT"
TOOLS_VARIABLE: Final = "DEMO_TOOLS_PORT"
GATEWAY_VARIABLE: Final = "DEMO_GATEWAY_PORT"
"""How the packaged example is told of other ports than the usual ones."""

_LISTENING: Final = b"listening\n"
_PACE_SECONDS: Final = 0.03
"""Between two words of a simulated answer, so that one sees it stream."""
_CONNECT_INTERVAL_SECONDS: Final = 0.05
_END_SECONDS: Final = 10.0


_Server = EchoServer | Simulator | ToolServer


class Ports(NamedTuple):
    """Of the upstreams."""

    echo: int
    models: int
    tools: int


def main(arguments: Sequence[str]) -> int:
    """Run the demonstration until told to stop; returns the exit code."""
    options = _parser().parse_args(arguments)
    ports = Ports(options.port, options.models_port, options.tools_port)
    if options.gateway:
        return _with_gateway(ports, options.gateway_port)
    return asyncio.run(_serve(ports, options.attached))


def quickstart() -> Path:
    """The example that `--gateway` runs; in the source tree a link to that of deploy/examples."""
    return (Path(__file__).parent / "examples" / "quickstart.yaml").resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentgateway-sidecar demo",
        description="Run three servers on 127.0.0.1: one answers with the request as JSON, and"
        " streams events on /sse; the others simulate model providers and an MCP server.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=ECHO_PORT,
        help="port of the echo server (default: %(default)s)",
    )
    parser.add_argument(
        "--models-port",
        type=_port,
        default=MODELS_PORT,
        help="port of the simulator of model providers (default: %(default)s)",
    )
    parser.add_argument(
        "--tools-port",
        type=_port,
        default=TOOLS_PORT,
        help="port of the simulator of an MCP server (default: %(default)s)",
    )
    parser.add_argument(
        "--gateway", action="store_true", help="also run a gateway in front of them on an example"
    )
    parser.add_argument(
        "--gateway-port",
        type=_port,
        default=GATEWAY_PORT,
        help="port of the gateway (default: %(default)s)",
    )
    # For the child of `--gateway`: serve until standard input ends, and say when that port answers.
    parser.add_argument("--attached", type=_port, default=0, help=argparse.SUPPRESS)
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 < int(text[:6]) < 65536:
        raise argparse.ArgumentTypeError("expected a port, 1 to 65535")
    return int(text)


async def _serve(ports: Ports, attached: int) -> int:
    """Serve until a signal, or, attached to the gateway at that port, until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A terminal's Ctrl+C reaches us too, yet the gateway drains before it ends.
        loop.add_signal_handler(number, (lambda: None) if attached else ended.set)
    echo, models, tools = EchoServer(loop), Simulator(loop, _PACE_SECONDS), ToolServer(loop)
    servers: tuple[_Server, ...] = (echo, models, tools)
    for count, (server, port) in enumerate(zip(servers, ports, strict=True)):
        if not _start(server, port):
            await asyncio.gather(*(started.stop() for started in servers[:count]))
            return 1
    if attached:
        loop.add_reader(sys.stdin.fileno(), ended.set)
        os.write(sys.stdout.fileno(), _LISTENING)
        announcing = loop.create_task(_announce(attached))
        await ended.wait()
        announcing.cancel()
        await asyncio.wait({announcing})
    else:
        print(f"echo server on http://127.0.0.1:{echo.port}/, events on /sse")
        print(f"simulator of model providers on http://127.0.0.1:{models.port}/v1")
        where = f"http://127.0.0.1:{tools.port}{PATH}"
        print(f"simulator of an MCP server on {where}", flush=True)
        await ended.wait()
    await asyncio.gather(*(server.stop() for server in servers))
    return 0


def _start(server: _Server, port: int) -> bool:
    """Whether it listens; else it was said why not."""
    try:
        server.start(port)
    except OSError as error:
        print(f"error: 127.0.0.1:{port}: {error.strerror}", file=sys.stderr)
        return False
    return True


async def _announce(port: int) -> None:
    """Print what to try, once the gateway takes connections."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            break
        await asyncio.sleep(_CONNECT_INTERVAL_SECONDS)
    url = f"http://127.0.0.1:{port}"
    chat = (
        '{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"hello there"}]}'
    )
    call = (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add",'
        '"arguments":{"a":2,"b":3},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
        '"io.modelcontextprotocol/clientCapabilities":{}}}}'
    )
    print(
        f"\nTry it:  curl -i {url}/hello\n"
        f"         curl -N {url}/sse\n"
        f"         curl -N {url}/v1/chat/completions -H 'content-type: application/json' \\\n"
        f"              -d '{chat}'\n"
        f"         curl -N {url}/mcp -H 'content-type: application/json' \\\n"
        "              -H 'accept: application/json, text/event-stream' \\\n"
        "              -H 'mcp-protocol-version: 2026-07-28' -H 'mcp-method: tools/call' \\\n"
        f"              -H 'mcp-name: add' -d '{call}'\n"
        "The chat is answered by a simulator of model providers, the call of a tool by a simulator"
        " of an MCP server; no key is needed.\n",
        file=sys.stderr,
        flush=True,
    )


# --- the server behind a gateway -----------------------------------------------------------------


def _with_gateway(ports: Ports, gateway_port: int) -> int:
    from sidecar.gateway.run import run

    command = [sys.executable, "-m", "sidecar", "demo"]
    command += ["--port", str(ports.echo), "--models-port", str(ports.models)]
    command += ["--tools-port", str(ports.tools), "--attached", str(gateway_port)]
    pipe = subprocess.PIPE
    # The command is our own interpreter and numbers.
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as echo:  # noqa: S603
        assert echo.stdin is not None
        assert echo.stdout is not None
        if echo.stdout.read(len(_LISTENING)) != _LISTENING:
            return 1  # it has said why
        os.environ[ECHO_VARIABLE] = str(ports.echo)
        os.environ[MODELS_VARIABLE] = str(ports.models)
        os.environ[TOOLS_VARIABLE] = str(ports.tools)
        os.environ[GATEWAY_VARIABLE] = str(gateway_port)
        path = quickstart()
        try:
            return run(Source(str(path), path), "text")
        finally:
            echo.stdin.close()
            try:
                echo.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                echo.kill()
