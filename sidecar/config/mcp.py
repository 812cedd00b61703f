"""`mcp` backends become targets of the snapshot, and the `mcp` section what it stands for.

A target is `{"mcp": {"targets": […], …}}` with the other keys of the document as they are. Each
server has `name`, `kind` (mcp, sse, stdio or openapi), `policies` (its own, and those of the
backend it names), the document's further keys for it, and where it is reached over HTTP:
`reference` (a target of its own), `path` and `authority` ("" when the backend says it).

Source: spec/config.md sections 1.8, 4.1 and 6.1; spec/mcp_a2a.md section 2.1.
"""

from __future__ import annotations

from typing import Final

from sidecar.config.attach import GATEWAY, Places, own_port, places_of
from sidecar.config.internal import internal_route, path_match
from sidecar.config.payloads import policies
from sidecar.config.run import Node, Run
from sidecar.config.servers import BACKEND, servers_target
from sidecar.config.validate import mcp_port

_ROUTE: Final = "default"
_PATHS: Final = ("/mcp", "/sse", "/.well-known")


def mcp_gateway(data: Node, places: Places, run: Run) -> None:
    """Everything of the section, if there is one."""
    mcp = data.get("mcp")
    if mcp is None:
        return
    if mcp.get("gateways") and mcp.get("port") is not None:
        run.problem("mcp.gateways", "mcp.gateways cannot be used with mcp.port")
        return
    port = mcp_port(data)
    if port is not None:
        found = [own_port(port, "mcp", {}, "mcp", run)]
    else:
        found = places_of(mcp.get("gateways") or GATEWAY, places, "mcp.gateways", run)
    target = servers_target(mcp, "mcp", run)
    run.make("backend", BACKEND, {"target": target, "policies": {}}, "mcp")
    made = policies(mcp.get("policies"), "mcp.policies", run)
    paths = _PATHS if port is None else ("/",)
    matches = [path_match("prefix", path) for path in paths]
    first = ""
    for place in found:
        backend = (BACKEND, {"ref": BACKEND})
        key = internal_route(place, _ROUTE, made, backend, matches, "mcp", run, first)
        first = first or key
