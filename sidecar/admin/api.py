"""The admin API and the metrics endpoint, as ASGI applications over a small view of the gateway.

Whatever changes something is POST only. Secrets leave the process nowhere.

Source: spec/config.md sections 8.3 and 8.4.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, final

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from shm.cells import Series
from shm.errors import ShmError
from sidecar.admin.guard import DEVELOPMENT_ORIGINS, OriginGuard
from sidecar.admin.metrics import (
    OPENMETRICS_TYPE,
    TEXT_TYPE,
    exposition,
    forms_of,
    wants_openmetrics,
)
from sidecar.admin.metrics_protobuf import PROTOBUF_TYPE, protobuf_exposition, wants_protobuf
from sidecar.admin.redact import Redactor
from sidecar.errors import ConfigError
from sidecar.telemetry.native import Mode

_INDEX = """<!doctype html><title>agentgateway-sidecar</title>
<h1>agentgateway-sidecar</h1>
<ul><li><a href="/config_dump">/config_dump</a>
<li><a href="/api/runtime">/api/runtime</a>
<li><a href="/memory">/memory</a>
<li><a href="/state">/state</a>, /state/{table}, POST /state/{table}/{key}/reset
<li>POST /logging?level=info,sidecar.net=debug, POST /logging?reset
<li>POST /debug/trace?expression=CEL
<li>POST /quitquitquit</ul>
"""
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_MEMORY_FIELDS = {"Rss": "rss_bytes", "Pss": "pss_bytes", "Swap": "swap_bytes"}


@final
@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of the gateway. `role`: `control`, `worker 0`, …"""

    role: str
    pid: int
    generation: int
    """Of the configuration it applied."""
    error: str = ""
    """Why it did not apply the latest one."""


class AdminState(Protocol):
    """What the applications may ask of the gateway, and tell it."""

    def config_dump(self) -> Mapping[str, object]:
        """Plain data: the running configuration, secrets included."""

    def statuses(self) -> Sequence[ProcessStatus]:
        """Every process that should run."""

    def collect(self) -> Iterable[Series]:
        """The metric series, summed over the workers."""

    def pending(self) -> Sequence[str]:
        """What keeps the gateway from being ready."""

    def quit(self) -> None:
        """Begin a graceful shutdown."""

    async def set_levels(self, spec: str | None) -> str:
        """Set the log levels of all processes, None to reset. Gives those in force.

        Raises: ConfigError; ShmError, when they could not be told, and nothing was changed.
        """


def admin_app(
    state: AdminState,
    *,
    version: str,
    is_loopback: bool,
    git_revision: str = "",
    sensitive_headers: Iterable[str] = (),
    routes: Iterable[Route] = (),
) -> Starlette:
    """The application of `adminAddr`. `is_loopback`: it is bound where only this machine comes.

    `routes`: what else is served there, behind the same guard.
    """
    build = {
        "version": version,
        "gitRevision": git_revision or "unknown",
        "pythonVersion": platform.python_version(),
        "buildProfile": "release",
    }
    admin = _Admin(state, Redactor(sensitive_headers), build)
    return Starlette(
        routes=[
            Route("/", _to_ui, methods=["GET"]),
            Route("/ui", _index, methods=["GET"]),
            Route("/ui/", _index, methods=["GET"]),
            Route("/config_dump", admin.config_dump, methods=["GET"]),
            Route("/logging", admin.logging_levels, methods=["POST"]),
            Route("/quitquitquit", admin.quit_gateway, methods=["POST"]),
            Route("/api/runtime", admin.runtime, methods=["GET"]),
            Route("/memory", admin.memory, methods=["GET"]),
            *routes,
        ],
        middleware=[
            Middleware(OriginGuard, checks_host=is_loopback),
            Middleware(
                CORSMiddleware,
                allow_origins=DEVELOPMENT_ORIGINS,
                allow_methods=["GET", "POST"],
                allow_headers=["content-type"],
            ),
        ],
    )


@final
class _Admin:
    """The endpoints of the admin API."""

    __slots__ = ("_build", "_redactor", "_state")

    def __init__(self, state: AdminState, redactor: Redactor, build: Mapping[str, str]) -> None:
        self._state = state
        self._redactor = redactor
        self._build = build

    async def config_dump(self, request: Request) -> Response:
        """What runs, without secrets."""
        processes = [asdict(one) for one in self._state.statuses()]
        return _json(self._redactor.redact({**self._state.config_dump(), "processes": processes}))

    async def logging_levels(self, request: Request) -> Response:
        """Sets or resets the levels, and tells them."""
        spec = request.query_params.get("level")
        if spec is None and "reset" not in request.query_params:
            return PlainTextResponse("expected ?level=LEVELS or ?reset\n", 400)
        try:
            levels = await self._state.set_levels(spec)
        except ConfigError as exc:
            return PlainTextResponse(f"{exc.message}\n", 400)
        except ShmError as exc:
            return PlainTextResponse(f"the levels stay as they were: {exc}\n", 503)
        return PlainTextResponse(f"{levels}\n")

    async def quit_gateway(self, request: Request) -> Response:
        """Begins the end."""
        self._state.quit()
        return PlainTextResponse("shutting down now\n")

    async def runtime(self, request: Request) -> Response:
        """What was built, and how."""
        return _json({"build": self._build, "ui": {"available": False}})

    async def memory(self, request: Request) -> Response:
        """What each process uses."""
        processes = [
            {"role": one.role, "pid": one.pid, **process_memory(one.pid)}
            for one in self._state.statuses()
        ]
        return _json({"processes": processes})


def stats_app(state: AdminState, histograms: Mode = "classic") -> Starlette:
    """The application of `statsAddr`. `histograms`: `config.histograms`."""
    forms = forms_of(histograms)

    async def metrics(request: Request) -> Response:
        accept = request.headers.get("accept", "")
        if wants_protobuf(accept):
            made = protobuf_exposition(state.collect(), forms)
            return Response(made, headers={"content-type": PROTOBUF_TYPE})
        is_open = wants_openmetrics(accept)
        body = exposition(state.collect(), openmetrics=is_open, forms=forms)
        return Response(body, headers={"content-type": OPENMETRICS_TYPE if is_open else TEXT_TYPE})

    return Starlette(
        routes=[
            Route("/metrics", metrics, methods=["GET"]),
            Route("/stats/prometheus", metrics, methods=["GET"]),
        ]
    )


async def _to_ui(request: Request) -> Response:
    return RedirectResponse("/ui", 308)


async def _index(request: Request) -> Response:
    return HTMLResponse(_INDEX, headers=_PAGE_HEADERS)


def _json(value: object) -> Response:
    body = orjson.dumps(
        value,
        default=str,
        option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE,
    )
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


def process_memory(pid: int) -> dict[str, int]:
    """Bytes a process uses, by `/proc/<pid>/smaps_rollup`; empty for one that is gone or hidden."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return {}
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in _MEMORY_FIELDS and rest.strip().endswith("kB"):
            found[_MEMORY_FIELDS[name]] = int(rest.split()[0]) * 1024
    return found
