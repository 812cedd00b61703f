"""What it costs to use a child process, or a stream, that another worker holds.

Both ends of the way run in this process, so that its CPU time is that of both.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from typing import Final, final

import uvloop

from sidecar.http.headers import Headers
from sidecar.jsonrpc import Json
from sidecar.mcp.peers import OwnedTarget, Peers
from sidecar.mcp.upstream.base import Answered, Held, Inbound, Messages, Outbound, Scope, Target
from sidecar.mcp.upstream.inbox import Whole
from tests.support.messages import request

_KEY: Final = "held"
_ROUNDS: Final = 3000
_RESULT: Final[Json] = {"content": [{"type": "text", "text": "a fixed answer " * 14}]}


@final
class _Held:
    """A target that answers at once. See base.Target."""

    name = _KEY

    async def request(self, outbound: Outbound) -> Answered:
        answer = {"jsonrpc": "2.0", "id": outbound.message["id"], "result": _RESULT}
        return Answered(Whole([Inbound(answer)], is_json=True), outbound.held)

    async def send(self, outbound: Outbound) -> None:
        return

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        return None

    async def end(self, outbound: Outbound) -> None:
        return


def hop_us() -> float:
    """CPU of a tools/call at another worker, above that of one at home; microseconds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_measured(folder))


async def _measured(folder: str) -> float:
    held: Target = _Held()
    nothing: dict[str, Target] = {}
    here, there = Peers(folder, 0, nothing.get), Peers(folder, 1, {_KEY: held}.get)
    await here.start()
    await there.start()
    try:
        away, home = OwnedTarget(held, _KEY, here), OwnedTarget(held, _KEY, there)
        await _spent(away)
        return min([await _spent(away) - await _spent(home) for _ in range(5)])
    finally:
        await here.close()
        await there.close()


async def _spent(target: OwnedTarget) -> float:
    made = request("POST", "/mcp", [("user-agent", "bench"), ("accept", "application/json")])
    params = {"name": "tool_1", "arguments": {"argument_0": "some text"}}
    began = time.process_time()
    for number in range(_ROUNDS):
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        scope = Scope("session", b"k" * 16, 1)
        outbound = Outbound(
            message, "legacy", "2025-11-25", made, Headers(), scope, Held("", "2025-11-25")
        )
        answered = await target.request(outbound)
        while await answered.messages.next() is not None:
            pass
        answered.messages.close()
    return (time.process_time() - began) / _ROUNDS * 1e6


if __name__ == "__main__":
    print(f"hop: {hop_us():.0f} us")
