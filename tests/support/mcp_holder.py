"""A worker that holds stdio servers for others, as a process of its own.

Run as a module with the folder, the number of the worker and flags of the servers; says "listens".
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from sidecar.mcp.peers import Peers
from sidecar.mcp.upstream.children import Children
from sidecar.mcp.upstream.process import StdioSpec
from sidecar.mcp.upstream.stdio import StdioTarget

SERVER = str(Path(__file__).with_name("mcp_stdio.py"))


async def main(directory: str, worker: int, flags: list[str]) -> None:
    spec = StdioSpec((sys.executable, "-I", "-S", SERVER, *flags))
    target = StdioTarget("t", "t1", spec, Children())
    peers = Peers(directory, worker, {"t1": target}.get)
    await peers.start()
    print("listens", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
