"""The `ui` section: the admin service's page and APIs on gateways, behind policies.

Source: spec/config.md sections 1.8 and 1.9.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from sidecar.config.attach import GATEWAY, Places, places_of
from sidecar.config.internal import internal_route, path_match
from sidecar.config.payloads import policies
from sidecar.config.routes import Place
from sidecar.config.run import Node, Run
from sidecar.config.snapshot import Json

_ROUTE: Final = "ui"
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
    matches = [path_match("exact", path) for path in exact]
    matches += [path_match("prefix", path) for path in _PREFIXES]
    backend = (_ROUTE, {"internal": "forward"})
    internal_route(place, _ROUTE, made, backend, matches, "ui", run)


def _callback(given: Node) -> list[str]:
    oidc = given.get("oidc")
    uri = oidc.get("redirectURI") if isinstance(oidc, dict) else None
    path = urlsplit(uri).path if isinstance(uri, str) else ""
    return [path] if path else []
