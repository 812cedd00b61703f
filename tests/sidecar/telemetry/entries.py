"""Entries, routes and expressions for the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.cel.engine import Engine
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request, Response, TlsInfo
from sidecar.telemetry.expressions import Compiler
from sidecar.telemetry.fields import AccessEntry


@dataclass(frozen=True, eq=False)
class Route:
    bind: str = "bind/8080"
    gateway: str = "default/default"
    listener: str = "listener0"
    route: str = "default/route0"
    route_rule: str = ""
    backend: str = "127.0.0.1:9000"
    protocol: str = "http"


ROUTE = Route()


def connection(**facts) -> Connection:
    return Connection("10.0.0.1", 40774, "10.0.0.2", 8080, **facts)


def request(
    method: str = "GET", target: str = "/a/b?secret=1", *, headers: Headers | None = None, **facts
) -> Request:
    return Request(
        method,
        "http",
        "example.com",
        target,
        "HTTP/1.1",
        Headers() if headers is None else headers,
        FixedBody(),
        connection(**facts),
        0,
    )


def entry(made: Request | None = None, **facts) -> AccessEntry:
    made = made or request()
    defaults = {
        "route": ROUTE,
        "status": 200,
        "duration_ns": 12_345_678,
        "reason": "Upstream",
        "endpoint": "127.0.0.1:9000",
        "ended_ns": 1_700_000_000_000_000_000,
    }
    facts = defaults | facts
    return AccessEntry(made.connection, made, Response(facts["status"]), **facts)


TLS = TlsInfo("sni.example.com", "h2", "TLSv1.3")


def compiler() -> Compiler:
    return Compiler(Engine())
