"""Requests, responses and services for tests of what works on messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shm.budgets import BudgetTable
from shm.rates import RateTable
from sidecar.cel.engine import Engine
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request, Response
from sidecar.policies.base import Services
from sidecar.policies.order import make
from sidecar.telemetry.clock import Clock, SystemClock

ENGINE = Engine()


def services(
    max_buffer_bytes: int = 2 * 1024 * 1024,
    *,
    rates: RateTable | None = None,
    budgets: BudgetTable | None = None,
    clock: Clock | None = None,
    attachment: str = "",
) -> Services:
    """Services as a worker has them; without tables where none is given."""
    return Services(
        clock=SystemClock() if clock is None else clock,
        cel=ENGINE,
        max_buffer_bytes=max_buffer_bytes,
        rates=rates,
        budgets=budgets,
        attachment=attachment,
        cookie_secret="0f" * 32,
    )


def policy(key: str, payload: object, max_buffer_bytes: int = 2 * 1024 * 1024) -> Any:
    """The policy of a payload."""
    return make(key, payload, services(max_buffer_bytes))


def request(
    method: str = "GET",
    target: str = "/",
    headers: Mapping[str, str] | list[tuple[str, str]] | None = None,
    *,
    body: bytes = b"",
    authority: str = "shop.example",
    scheme: str = "http",
    match: tuple[str, str] | None = None,
    peer: str = "10.0.0.9",
) -> Request:
    """A request as the front door makes it. `match` is what the router noted."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers or []
    made = Request(
        method,
        scheme,
        authority,
        target,
        "HTTP/1.1",
        Headers((name.encode(), value.encode("latin-1")) for name, value in pairs),
        FixedBody(body),
        Connection(peer, 4711, "10.0.0.1", 8080, peer, 4711),
        started_ns=0,
    )
    if match is not None:
        made.state["route_match"] = match
    return made


def response(
    status: int = 200, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Response:
    """A response as a backend gives it."""
    pairs = (headers or {}).items()
    return Response(
        status,
        Headers((name.encode(), value.encode("latin-1")) for name, value in pairs),
        FixedBody(body),
    )


def text_of(headers: Headers) -> list[str]:
    """Fields as `name: value`, in order."""
    return [f"{name.decode()}: {value.decode('latin-1')}" for name, value in headers]
