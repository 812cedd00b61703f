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
from sidecar.config.payloads import policies
from sidecar.config.routes import Place
from sidecar.config.run import Node, Run
from sidecar.config.servers import BACKEND, servers_target
from sidecar.config.snapshot import Json
from sidecar.config.validate import mcp_port

_ROUTE: Final = "default"
_NAMESPACE: Final = "internal"
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
    first = ""
    for place in found:
        first = _route(place, made, first, run, has_own_port=port is not None)


def _route(place: Place, made: Json, first: str, run: Run, *, has_own_port: bool) -> str:
    key = f"{place.prefix}/{_NAMESPACE}/{_ROUTE}"
    paths = ("/",) if has_own_port else _PATHS
    data: Json = {
        "listener": place.listener,
        "name": _ROUTE,
        "namespace": _NAMESPACE,
        "rule_name": None,
        "hostnames": [],
        "policies": made,
        "backends": [{"name": BACKEND, "weight": 1, "target": {"ref": BACKEND}, "policies": {}}],
        "tcp": False,
        "group": None,
        "matches": [
            {"path": {"kind": "prefix", "value": path}, "method": None, "headers": [], "query": []}
            for path in paths
        ],
    }
    if first:
        data["same"] = first
    run.make("route", key, data, "mcp")
    return first or key
