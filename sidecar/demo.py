"""`agentgateway-sidecar demo`: upstreams for trying things, which need no key and no network.

One answers with what it was asked, the other is a simulator of model providers. With `--gateway`
the same command also runs a gateway in front of them, on the packaged example. The gateway is then
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
from typing import Final

from sidecar.config.text import Source
from sidecar.echo import EchoServer
from sidecar.simulator.server import Simulator

ECHO_PORT: Final = 8080
MODELS_PORT: Final = 8081
GATEWAY_PORT: Final = 3000
ECHO_VARIABLE: Final = "DEMO_ECHO_PORT"
MODELS_VARIABLE: Final = "DEMO_MODELS_PORT"
GATEWAY_VARIABLE: Final = "DEMO_GATEWAY_PORT"
"""How the packaged example is told of other ports than the usual ones."""

_LISTENING: Final = b"listening\n"
_PACE_SECONDS: Final = 0.03
"""Between two words of a simulated answer, so that one sees it stream."""
_CONNECT_INTERVAL_SECONDS: Final = 0.05
_END_SECONDS: Final = 10.0


def main(arguments: Sequence[str]) -> int:
    """Run the demonstration until told to stop; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.gateway:
        return _with_gateway(options.port, options.models_port, options.gateway_port)
    return asyncio.run(_serve(options.port, options.models_port, options.attached))


def quickstart() -> Path:
    """The example that `--gateway` runs; in the source tree a link to that of deploy/examples."""
    return (Path(__file__).parent / "examples" / "quickstart.yaml").resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentgateway-sidecar demo",
        description="Run two servers on 127.0.0.1: one answers with the request as JSON, and"
        " streams events on /sse; the other simulates model providers.",
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


async def _serve(port: int, models_port: int, attached: int) -> int:
    """Serve until a signal, or, attached to the gateway at that port, until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A terminal's Ctrl+C reaches us too, yet the gateway drains before it ends.
        loop.add_signal_handler(number, (lambda: None) if attached else ended.set)
    server, models = EchoServer(loop), Simulator(loop, _PACE_SECONDS)
    if not await _start(server, port):
        return 1
    if not await _start(models, models_port):
        await server.stop()
        return 1
    if attached:
        loop.add_reader(sys.stdin.fileno(), ended.set)
        os.write(sys.stdout.fileno(), _LISTENING)
        announcing = loop.create_task(_announce(attached))
        await ended.wait()
        announcing.cancel()
        await asyncio.wait({announcing})
    else:
        print(f"echo server on http://127.0.0.1:{server.port}/, events on /sse")
        print(f"simulator of model providers on http://127.0.0.1:{models.port}/v1", flush=True)
        await ended.wait()
    await asyncio.gather(server.stop(), models.stop())
    return 0


async def _start(server: EchoServer | Simulator, port: int) -> bool:
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
    print(
        f"\nTry it:  curl -i {url}/hello\n"
        f"         curl -N {url}/sse\n"
        f"         curl -N {url}/v1/chat/completions -H 'content-type: application/json' \\\n"
        f"              -d '{chat}'\n"
        "The chat is answered by a simulator of model providers; no key is needed.\n",
        file=sys.stderr,
        flush=True,
    )


# --- the server behind a gateway -----------------------------------------------------------------


def _with_gateway(port: int, models_port: int, gateway_port: int) -> int:
    from sidecar.gateway.run import run

    command = [sys.executable, "-m", "sidecar", "demo"]
    command += ["--port", str(port), "--models-port", str(models_port)]
    command += ["--attached", str(gateway_port)]
    pipe = subprocess.PIPE
    # The command is our own interpreter and numbers.
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as echo:  # noqa: S603
        assert echo.stdin is not None
        assert echo.stdout is not None
        if echo.stdout.read(len(_LISTENING)) != _LISTENING:
            return 1  # it has said why
        os.environ[ECHO_VARIABLE] = str(port)
        os.environ[MODELS_VARIABLE] = str(models_port)
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
