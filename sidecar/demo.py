"""`agentgateway-sidecar demo`: an upstream that answers with what it was asked, for trying things.

With `--gateway` the same command also runs a gateway in front of it, on the packaged example. The
gateway is then the main process, because it knows how to take signals; the echo server is a child
that lives as long as the pipe which is its standard input. So the upstream outlives the
gateway's drain, and nothing is left behind however the gateway ends.
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

ECHO_PORT: Final = 8080
GATEWAY_PORT: Final = 3000
ECHO_VARIABLE: Final = "DEMO_ECHO_PORT"
GATEWAY_VARIABLE: Final = "DEMO_GATEWAY_PORT"
"""How the packaged example is told of other ports than the usual ones."""

_LISTENING: Final = b"listening\n"
_CONNECT_INTERVAL_SECONDS: Final = 0.05
_END_SECONDS: Final = 10.0


def main(arguments: Sequence[str]) -> int:
    """Run the demonstration until told to stop; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.gateway:
        return _with_gateway(options.port, options.gateway_port)
    try:
        return asyncio.run(_serve(options.port, options.attached))
    except OSError as error:
        print(f"error: 127.0.0.1:{options.port}: {error.strerror}", file=sys.stderr)
        return 1


def quickstart() -> Path:
    """The example that `--gateway` runs; in the source tree a link to that of deploy/examples."""
    return (Path(__file__).parent / "examples" / "quickstart.yaml").resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentgateway-sidecar demo",
        description="Run a server on 127.0.0.1 that answers with the request as JSON, and streams"
        " events on /sse.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--port", type=_port, default=ECHO_PORT, help="port of the server (default: %(default)s)"
    )
    parser.add_argument(
        "--gateway", action="store_true", help="also run a gateway in front of it on an example"
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


async def _serve(port: int, attached: int) -> int:
    """Serve until a signal, or, attached to the gateway at that port, until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A terminal's Ctrl+C reaches us too, yet the gateway drains before it ends.
        loop.add_signal_handler(number, (lambda: None) if attached else ended.set)
    server = EchoServer(loop)
    server.start(port)
    if attached:
        loop.add_reader(sys.stdin.fileno(), ended.set)
        os.write(sys.stdout.fileno(), _LISTENING)
        announcing = loop.create_task(_announce(attached))
        await ended.wait()
        announcing.cancel()
        await asyncio.wait({announcing})
    else:
        print(f"echo server on http://127.0.0.1:{server.port}/, events on /sse", flush=True)
        await ended.wait()
    await server.stop()
    return 0


async def _announce(port: int) -> None:
    """Print what to try, once the gateway takes connections."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            break
        await asyncio.sleep(_CONNECT_INTERVAL_SECONDS)
    url = f"http://127.0.0.1:{port}"
    print(
        f"\nTry it:  curl -i {url}/hello\n         curl -N {url}/sse\n", file=sys.stderr, flush=True
    )


# --- the server behind a gateway -----------------------------------------------------------------


def _with_gateway(port: int, gateway_port: int) -> int:
    from sidecar.gateway.run import run

    command = [sys.executable, "-m", "sidecar", "demo"]
    command += ["--port", str(port), "--attached", str(gateway_port)]
    pipe = subprocess.PIPE
    # The command is our own interpreter and numbers.
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as echo:  # noqa: S603
        assert echo.stdin is not None
        assert echo.stdout is not None
        if echo.stdout.read(len(_LISTENING)) != _LISTENING:
            return 1  # it has said why
        os.environ.update({ECHO_VARIABLE: str(port), GATEWAY_VARIABLE: str(gateway_port)})
        path = quickstart()
        try:
            return run(Source(str(path), path), "text")
        finally:
            echo.stdin.close()
            try:
                echo.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                echo.kill()
