"""The three servers of control: admin, stats and readiness.

Source: spec/config.md sections 8.3, 8.4 and 10.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from sidecar.admin.api import AdminState, admin_app, stats_app
from sidecar.admin.health import readiness_app
from sidecar.admin.server import AdminServer, parse_address
from sidecar.version import package_version


async def start_servers(
    config: Mapping[str, Any],
    state: AdminState,
    routes: Callable[[], Sequence[Route]],
    *,
    shares_ports: bool,
) -> list[AdminServer]:
    """Listen on the three addresses, as far as they are given. Raises: ConfigError.

    `routes()`: of admin, beside those of every control. `shares_ports`: see ControlContext.
    """

    def admin(local: bool) -> Starlette:
        return admin_app(
            state,
            version=package_version(),
            is_loopback=local,
            sensitive_headers=config.get("sensitiveHeaders") or (),
            routes=routes(),
        )

    def stats(local: bool) -> Starlette:
        return stats_app(state, config.get("histograms") or "classic")

    def readiness(local: bool) -> Starlette:
        return readiness_app(state.pending)

    started: list[AdminServer] = []
    apps = (("adminAddr", admin), ("statsAddr", stats), ("readinessAddr", readiness))
    for key, make in apps:
        address = parse_address(config.get(key) or "off", f"config.{key}")
        if address is None:
            continue
        app = make(address.is_local)
        server = AdminServer(app, address, f"config.{key}", shares_port=shares_ports)
        await server.start()
        started.append(server)
    return started
