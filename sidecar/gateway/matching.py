"""What a request meets: listener, route and backend, and how that is noted.

Source: spec/config.md sections 2 and 3.11.
"""

from __future__ import annotations

from sidecar.errors import RequestError
from sidecar.gateway.plan import Backend, Bind, Choice, Listener, Route
from sidecar.gateway.respond import is_grpc
from sidecar.http.message import Request
from sidecar.net.pool import Version, request_line
from sidecar.policies.chain import EMPTY
from sidecar.routing import canonical
from sidecar.routing.match import MatchInfo
from sidecar.routing.table import Found


def chosen(request: Request, bind: Bind) -> Choice | None:
    """What the request meets, when that is nothing it would have to wait for.

    Raises RequestError 400, 404 or 421, UpstreamError.
    """
    listener = bind.listener_of(request)
    if listener.chain is not EMPTY:
        return None
    found, path, target = matched(request, listener)
    route = found[0].payload
    backend = route.only
    if backend is None or not route.is_direct:
        return None
    if backend.start is not None:
        choice = Choice(listener, route, backend, found[1], path, target, "", b"")
        bind.remember(request, choice)
        return choice
    if version_for(backend, request) != "h1":
        return None
    authority = authority_for(request.authority, backend, route)
    line = request_line(request.method, target, authority or backend.default_authority)
    choice = Choice(listener, route, backend, found[1], path, target, authority, line)
    bind.remember(request, choice)
    return choice


def matched(request: Request, listener: Listener) -> tuple[Found[Route], str, str]:
    """`(route met, canonical path, target to forward)`. Raises RequestError 400 (path) or 404."""
    path, query, target = canonical.resolve(request.target)
    front = listener.front
    found = listener.routes.match(
        request.host if front is None else front.host,
        path,
        request.method,
        request.headers,
        query,
        scheme=request.scheme,
        authority=request.authority,
    )
    if found is None and front is not None and front.fallback is not None:
        found = front.fallback.match("", path, request.method, request.headers, query)
    if found is None:
        raise RequestError(404, "NotFound", "route not found")
    return found, path, target


def note_route(request: Request, route: Route, match: MatchInfo, path: str, target: str) -> None:
    """Let policies, expressions and the log see it."""
    request.target = target
    request.route = route
    state = request.state
    state["route_match"] = match
    state["path"] = path
    state["proxy"] = route


def authority_for(authority: str, backend: Backend, route: Route) -> str:
    """What the backend wants in the place of the client's authority, or that."""
    if route.rewrites_host:
        if backend.auto_host:
            return backend.auto_host
        if route.forces_host and backend.default_authority:
            return backend.default_authority
    return authority


def version_for(backend: Backend, request: Request) -> Version:
    """The HTTP version of an upstream call (spec/config.md section 3.11, `http`)."""
    if request.upgrade:
        return "h1"
    if backend.version is not None:
        return backend.version
    if backend.has_tls:
        return "auto"
    if request.version == "HTTP/2.0" and (request.scheme == "http" or is_grpc(request)):
        return "h2"
    return "h1"
