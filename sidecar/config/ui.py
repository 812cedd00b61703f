"""The `ui` section: the admin service's page and APIs on gateways, behind policies.

Source: spec/config.md sections 1.8 and 1.9.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from sidecar.config.attach import GATEWAY, Places, places_of
from sidecar.config.payloads import policies
from sidecar.config.routes import Place
from sidecar.config.run import Node, Run
from sidecar.config.snapshot import Json

_ROUTE: Final = "ui"
_NAMESPACE: Final = "internal"
_PREFIXES: Final = (
    "/ui",
    "/api/runtime",
    "/api/config",
    "/api/cel",
    "/api/logs",
    "/api/costs",
)


def ui_gateway(data: Node, places: Places, run: Run) -> None:
    """The routes of the section, if there is one."""
    ui = data.get("ui")
    if ui is None:
        return
    if not ui.get("gateways") and GATEWAY not in places.by_reference:
        run.problem("ui", "ui.gateways must be set, as no gateway is called `default`")
        return
    made = policies(ui.get("policies"), "ui.policies", run)
    for place in places_of(ui.get("gateways") or GATEWAY, places, "ui.gateways", run):
        _route(place, made, ui.get("policies") or {}, run)


def _route(place: Place, made: Json, given: Node, run: Run) -> None:
    # The page itself, and where the login of `oidc` comes back to.
    exact = ["/", *_callback(given)]
    matches: list[Json] = [
        {"path": {"kind": kind, "value": path}, "method": None, "headers": [], "query": []}
        for kind, paths in (("exact", exact), ("prefix", _PREFIXES))
        for path in paths
    ]
    data: Json = {
        "listener": place.listener,
        "name": _ROUTE,
        "namespace": _NAMESPACE,
        "rule_name": None,
        "hostnames": [],
        "policies": made,
        "backends": [
            {"name": _ROUTE, "weight": 1, "target": {"internal": "forward"}, "policies": {}}
        ],
        "tcp": False,
        "group": None,
        "matches": matches,
    }
    run.make("route", f"{place.prefix}/{_NAMESPACE}/{_ROUTE}", data, "ui")


def _callback(given: Node) -> list[str]:
    oidc = given.get("oidc")
    uri = oidc.get("redirectURI") if isinstance(oidc, dict) else None
    path = urlsplit(uri).path if isinstance(uri, str) else ""
    return [path] if path else []
