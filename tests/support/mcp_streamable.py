"""A server over Streamable HTTP whose octets a test controls, as its target knows it."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import UpstreamError
from sidecar.mcp.upstream.base import Held
from sidecar.mcp.upstream.streamable import Limits, Lingerers, StreamableTarget
from tests.support.mcp_http import Script, Sender, drained, http_server, outbound

RESULT = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
LOG = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x"}}
HELD = Held("up-1", "2025-11-25")


def target_of(sender: Sender, limits: Limits | None = None) -> StreamableTarget:
    return StreamableTarget(
        "t", sender, "mcp.example:8080", "/mcp?x=1", Lingerers(), limits or Limits()
    )


async def asked(script: Script, limits: Limits | None = None, **kwargs: Any) -> list[Any]:
    async with http_server(script) as sender:
        answered = await target_of(sender, limits).request(outbound(**kwargs))
        return await drained(answered.messages)


async def failure(script: Script, limits: Limits | None = None, **kwargs: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await asked(script, limits, **kwargs)
    return caught.value
