"""One request from front door to backend and back, in the order of the reference.

Source: spec/config.md section 3.2; design section 3.

Top to bottom: admission → listener → gateway policies → route → route policies → backend, attempt
by attempt → response policies of both levels → the facts of the request into metrics and logs. A
route without policies runs none of the loops below.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, final

from sidecar.errors import RequestError, SidecarError, UpstreamError
from sidecar.gateway.direct import REFUSAL, DirectCall, Refusal, guarded, has_passed
from sidecar.gateway.exchange import Exchange, WorkerState, add_queued
from sidecar.gateway.hooks import hold_response, run_request, run_response
from sidecar.gateway.plan import Backend, Bind, Choice, Gateway, Listener, Route
from sidecar.gateway.respond import error_response, is_grpc
from sidecar.gateway.upstream import Picked
from sidecar.http.headers import Headers
from sidecar.http.message import Body, FixedBody, Request, Response, read_up_to
from sidecar.net.h1_client import H1Client
from sidecar.net.outbox import Outbox
from sidecar.net.pool import Call, Version, field_lines, request_line
from sidecar.policies.chain import EMPTY
from sidecar.policies.retry import REPLAY_LIMIT_BYTES, Retry
from sidecar.routing import canonical
from sidecar.routing.match import MatchInfo
from sidecar.routing.table import Found
from sidecar.telemetry.trace import ClientSpan

_log = logging.getLogger("sidecar.gateway.pipeline")
_DELEGATION_DEPTH: Final = 32


class OverloadError(RequestError):
    """More requests are in flight than the worker takes."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "Overload",
            "too many requests in flight",
            headers=((b"retry-after", b"1"),),
        )


@final
class Pipeline:
    """Serves the requests of one bind. Each request keeps the snapshot it began with."""

    __slots__ = ("_bind", "_random", "_worker", "outbox")

    def __init__(
        self, bind: str, worker: WorkerState, random: Callable[[], float], outbox: Outbox
    ) -> None:
        self._bind = bind
        self.outbox = outbox
        self._worker = worker
        self._random = random

    async def __call__(self, request: Request) -> Response:
        """See sidecar.http.message.Handler."""
        worker = self._worker
        exchange = Exchange(request, worker)
        worker.in_flight += 1
        try:
            response = await self._serve(request, exchange, worker.gateway)
        except asyncio.CancelledError:
            exchange.finish_cancelled()
            raise
        except Exception as error:
            response = self._failed(request, error)
        add_queued(request, response)
        exchange.response = response
        response.on_done = exchange.finish
        return response

    def start(
        self, request: Request, reply: Callable[[Response], None], again: Callable[[], None]
    ) -> DirectCall | Refusal | None:
        """Serve a request whose body is at hand in callbacks, or None: it needs `__call__`.

        Takes only what is certain to pass, or refused by a guard: whatever else is refused, or
        waits, goes the long way. What is left behind when this gives None is the note that the
        request has passed the guards, which take from limits and so are asked only once.
        """
        worker = self._worker
        gateway = worker.gateway
        bind = gateway.binds.get(self._bind)
        if (
            bind is None
            or gateway.tracer is not None  # its spans are the long way's to make
            or request.method == "CONNECT"
            or worker.in_flight >= worker.max_in_flight
        ):
            return None
        headers = request.headers
        try:
            choice = bind.known(request) or _chosen(request, bind)
            if choice is None:
                return None
            # Fast path: no policy at all.
            if not choice.route.is_plain:
                _note_route(request, choice.route, choice.match, choice.path, choice.target)
                refused = guarded(choice.route.chain, request)
                if refused is not None:
                    return self._refuse(request, choice, refused, reply)
            picked = choice.backend.upstream.pick_nowait(request)
            client = picked.pool.take_kept() if picked is not None else None
            if picked is None or client is None:
                request.headers = headers
                return None
        except SidecarError:
            request.headers = headers
            return None
        return self._begin(request, choice, picked, client, reply, again, headers)

    def _refuse(
        self,
        request: Request,
        choice: Choice,
        error: RequestError,
        reply: Callable[[Response], None],
    ) -> Refusal:
        worker = self._worker
        exchange = Exchange(request, worker)
        exchange.labels = choice.listener.labels
        exchange.route = choice.route
        worker.in_flight += 1
        gateway = exchange.gateway
        if gateway.observer is not None:
            gateway.observer.begin(request)
        response = error_response(request, error)
        add_queued(request, response)
        exchange.response = response
        response.on_done = exchange.finish
        reply(response)
        return REFUSAL

    def _begin(
        self,
        request: Request,
        choice: Choice,
        picked: Picked,
        client: H1Client,
        reply: Callable[[Response], None],
        again: Callable[[], None],
        received: Headers,
    ) -> DirectCall | None:
        body = request.body
        assert type(body) is FixedBody
        try:
            fields = field_lines(request.headers, wants_trailers=request.wants_trailers)
        except UpstreamError:
            client.close()
            request.headers = received
            return None
        authority, backend, route = request.authority, choice.backend, choice.route
        request.authority = choice.authority
        worker = self._worker
        exchange = Exchange(request, worker)
        exchange.labels = choice.listener.labels
        exchange.route = route
        exchange.backend = backend
        exchange.endpoint = picked.label
        worker.in_flight += 1
        _note_route(request, route, choice.match, choice.path, choice.target)
        request.state["backend"] = backend
        gateway = exchange.gateway
        if gateway.observer is not None:
            gateway.observer.begin(request)
        direct = DirectCall(exchange, picked, client, reply, again, authority, received)
        exchange.upstream_started_ns = worker.clock.monotonic_ns()
        picked.begin()
        head = choice.line + fields
        client.begin(head, body.peek(), request, request.method, direct, self.outbox)
        return direct

    @staticmethod
    def _failed(request: Request, error: Exception) -> Response:
        if not isinstance(error, SidecarError):
            _log.exception("a request failed inside the gateway")
        return error_response(request, error)

    async def _serve(self, request: Request, exchange: Exchange, gateway: Gateway) -> Response:
        if self._worker.in_flight > self._worker.max_in_flight:
            raise OverloadError
        bind = gateway.binds.get(self._bind)
        if bind is None:
            raise RequestError(404, "NotFound", "bind not found", close=True)
        if request.method == "CONNECT":
            raise RequestError(405, "Internal", "method not allowed", close=True)
        listener = bind.listener_of(request)
        exchange.labels = listener.labels
        if gateway.observer is not None:
            gateway.observer.begin(request)
        chain = listener.chain
        # Fast path: no gateway-phase policy.
        if chain is EMPTY:
            return await self._guarded_route(request, exchange, listener, gateway)
        response: Response | None
        try:
            response = await run_request(chain, request, gateway.max_buffer_bytes)
            if response is None:
                if not bind.tls:
                    listener = bind.listener_of(request)
                response = await self._guarded_route(request, exchange, listener, gateway)
        except SidecarError as error:
            response = error_response(request, error)
        return await run_response(listener.after, request, response, gateway.max_buffer_bytes)

    async def _guarded_route(
        self, request: Request, exchange: Exchange, listener: Listener, gateway: Gateway
    ) -> Response:
        route = self._route_of(request, listener)
        exchange.route = route
        return await self._run_route(request, exchange, route, gateway)

    @staticmethod
    def _route_of(request: Request, listener: Listener) -> Route:
        """The route a request meets. Raises RequestError 400 (path) or 404."""
        found, path, target = _matched(request, listener)
        route = found[0].payload
        _note_route(request, route, found[1], path, target)
        return route

    async def _run_route(
        self,
        request: Request,
        exchange: Exchange,
        route: Route,
        gateway: Gateway,
    ) -> Response:
        if route.delegates:
            route = self._delegate(request, exchange, route, gateway)
        # Fast path: no policy on the route or any of its backends.
        if route.is_plain:
            return await self._call_backend(request, exchange, route, gateway)
        try:
            response = await self._bounded(request, exchange, route, gateway)
        except SidecarError as error:
            response = error_response(request, error)
        after = exchange.backend.after if exchange.backend is not None else route.after
        return await run_response(after, request, response, gateway.max_buffer_bytes)

    def _delegate(
        self,
        request: Request,
        exchange: Exchange,
        route: Route,
        gateway: Gateway,
    ) -> Route:
        """Follow routeGroup backends to the route that serves; parents' policies are merged in."""
        path, query, _ = canonical.resolve(request.target)
        seen: list[str] = []
        # A group's route that answers by itself needs no backend to choose from.
        while route.delegates:
            backend = route.choose(self._random())
            if not backend.group:
                request.state["choice"] = backend
                return route
            if backend.group in seen or len(seen) > _DELEGATION_DEPTH:
                raise RequestError(500, "Internal", "route delegation cycle detected")
            seen.append(backend.group)
            table = gateway.groups.get(backend.group)
            found = table and table.match(
                request.host,
                path,
                request.method,
                request.headers,
                query,
                scheme=request.scheme,
                authority=request.authority,
            )
            if not found:
                raise RequestError(404, "NotFound", "route not found")
            route = gateway.delegated(route, found[0].payload)
            request.state["route_match"] = found[1]
            request.state["proxy"] = route
            request.route = route
            exchange.route = route
        return route

    async def _bounded(
        self, request: Request, exchange: Exchange, route: Route, gateway: Gateway
    ) -> Response:
        timeout = route.chain.timeout
        seconds = timeout.request_seconds if timeout is not None else None
        if seconds is None:
            return await self._after_policies(request, exchange, route, gateway)
        spent = (self._worker.clock.monotonic_ns() - request.started_ns) / 1e9
        try:
            async with asyncio.timeout(max(seconds - spent, 0.0)):
                return await self._after_policies(request, exchange, route, gateway)
        except TimeoutError as error:
            raise RequestError(504, "Timeout", "request timeout") from error

    async def _after_policies(
        self, request: Request, exchange: Exchange, route: Route, gateway: Gateway
    ) -> Response:
        if not has_passed(route.chain, request):
            response = await run_request(route.chain, request, gateway.max_buffer_bytes)
            if response is not None:
                return response
        mirrors = route.mirrors
        if mirrors:
            for mirror in mirrors:
                if mirror.policy.is_sampled(self._random()):
                    self._worker.mirror(request, mirror)
        return await self._call_backend(request, exchange, route, gateway)

    # --- backend --------------------------------------------------------------------------

    async def _call_backend(
        self, request: Request, exchange: Exchange, route: Route, gateway: Gateway
    ) -> Response:
        backend = route.only
        if backend is None:
            # Between hosts and groups the choice was made by `_delegate`.
            made = request.state.get("choice") if route.delegates else None
            backend = made if isinstance(made, Backend) else route.choose(self._random())
        exchange.backend = backend
        request.state["backend"] = backend
        retry = route.chain.retry
        # Fast path: one attempt and no backend policy.
        if backend.is_plain and retry is None and route.chain.timeout is None:
            return await self._attempt(request, exchange, route, backend, request.body)
        if retry is None or not retry.is_enabled(request):
            return await self._attempt_with_policies(
                request, exchange, route, backend, request.body, gateway
            )
        return await self._retrying(request, exchange, route, backend, retry, gateway)

    async def _retrying(
        self,
        request: Request,
        exchange: Exchange,
        route: Route,
        backend: Backend,
        retry: Retry,
        gateway: Gateway,
    ) -> Response:
        whole, rest = await read_up_to(request.body, REPLAY_LIMIT_BYTES)
        if rest is not None:
            # Too large to be held for a second try: it is sent once, as it streams.
            return await self._attempt_with_policies(
                request, exchange, route, backend, rest, gateway
            )
        trailers = request.body.trailers
        saved = _Saved(request)
        attempt = 0
        while True:
            # Each attempt begins from the same request, whatever policies made of it for the last.
            saved.restore(request)
            retry.mark(request.headers, attempt)
            exchange.attempt = attempt
            request.body = FixedBody(whole, trailers)
            response: Response | None = None
            failure: UpstreamError | None = None
            try:
                response = await self._attempt_with_policies(
                    request, exchange, route, backend, request.body, gateway
                )
                if retry.needs_response_body:
                    await hold_response(response, gateway.max_buffer_bytes)
            except UpstreamError as error:
                failure = error
            if not retry.should_retry(request, attempt, response=response, error=failure):
                if response is None:
                    assert failure is not None
                    raise failure
                return response
            if response is not None:
                response.body.close()
            attempt += 1
            if retry.backoff_seconds:
                await asyncio.sleep(retry.backoff_seconds)

    async def _attempt_with_policies(
        self,
        request: Request,
        exchange: Exchange,
        route: Route,
        backend: Backend,
        body: Body,
        gateway: Gateway,
    ) -> Response:
        timeout = route.chain.timeout
        seconds = backend.request_seconds
        if timeout is not None and timeout.backend_request_seconds is not None:
            seconds = timeout.backend_request_seconds
        chain = backend.chain
        request.body = body
        early: Response | None = None
        if chain is not EMPTY:
            early = await run_request(chain, request, gateway.max_buffer_bytes)
        if early is not None:
            return early
        body = request.body
        if type(body) is FixedBody:
            # Expressions over the response may still name the request's body: the call reads a
            # copy, for a body that is "gone" by then must not look like an empty one.
            body = body.copy()
        if seconds is None:
            return await self._attempt(request, exchange, route, backend, body)
        return await self._timed_attempt(request, exchange, route, backend, body, seconds)

    async def _timed_attempt(
        self,
        request: Request,
        exchange: Exchange,
        route: Route,
        backend: Backend,
        body: Body,
        seconds: float,
    ) -> Response:
        try:
            async with asyncio.timeout(seconds):
                return await self._attempt(request, exchange, route, backend, body)
        except TimeoutError as error:
            raise UpstreamError(504, "Timeout", "upstream call timeout", retryable=True) from error

    async def _attempt(
        self, request: Request, exchange: Exchange, route: Route, backend: Backend, body: Body
    ) -> Response:
        """One call of one endpoint, or what stands in its place."""
        if backend.serve is not None:
            return await backend.serve.serve(request, exchange, route, self._attempt)
        upstream = backend.upstream
        picked = upstream.pick_nowait(request)
        if picked is None:
            picked = await upstream.pick(request)
        observer = exchange.gateway.observer
        subtype = "Llm" if backend.kind == "llm" else "Http"
        span = observer.before_call(request, subtype) if observer is not None else None
        call = _call(request, backend, route, body)
        exchange.endpoint = picked.label
        clock = exchange.worker.clock.monotonic_ns
        exchange.upstream_started_ns = clock()
        picked.begin()
        try:
            response = await picked.pool.send(call, version_for(backend, request))
        except SidecarError as error:
            exchange.upstream_ended_ns = clock()
            picked.end(exchange.upstream_ns, None, error)
            if span is not None:
                end_span(span, request, picked.label, 0, str(error))
            raise
        except BaseException as error:
            # Cancelled, or our own fault: what is under way is counted for all workers, so it ends.
            exchange.upstream_ended_ns = clock()
            picked.end(exchange.upstream_ns, None, None)
            if span is not None:
                is_cancelled = isinstance(error, asyncio.CancelledError)
                reason = "cancelled" if is_cancelled else "internal error"
                end_span(span, request, picked.label, 0, reason)
            raise
        exchange.upstream_ended_ns = clock()
        picked.end(exchange.upstream_ns, response, None)
        if span is not None:
            # OpenTelemetry's HTTP conventions: to a client every 4xx and 5xx is an error.
            failed = "" if response.status >= 400 else None
            end_span(span, request, picked.label, response.status, failed)
        return response


def _chosen(request: Request, bind: Bind) -> Choice | None:
    """What the request meets, when that is nothing it would have to wait for.

    Raises RequestError 400, 404 or 421, UpstreamError.
    """
    listener = bind.listener_of(request)
    if listener.chain is not EMPTY:
        return None
    found, path, target = _matched(request, listener)
    route = found[0].payload
    backend = route.only
    if backend is None or not route.is_direct or version_for(backend, request) != "h1":
        return None
    authority = _authority_for(request.authority, backend, route)
    line = request_line(request.method, target, authority or backend.default_authority)
    choice = Choice(listener, route, backend, found[1], path, target, authority, line)
    bind.remember(request, choice)
    return choice


def _matched(request: Request, listener: Listener) -> tuple[Found[Route], str, str]:
    """`(route met, canonical path, target to forward)`. Raises RequestError 400 (path) or 404."""
    path, query, target = canonical.resolve(request.target)
    found = listener.routes.match(
        request.host,
        path,
        request.method,
        request.headers,
        query,
        scheme=request.scheme,
        authority=request.authority,
    )
    if found is None:
        raise RequestError(404, "NotFound", "route not found")
    return found, path, target


def _note_route(request: Request, route: Route, match: MatchInfo, path: str, target: str) -> None:
    request.target = target
    request.route = route
    state = request.state
    state["route_match"] = match
    state["path"] = path
    state["proxy"] = route


def _authority_for(authority: str, backend: Backend, route: Route) -> str:
    """What the backend wants in the place of the client's authority, or that."""
    if route.rewrites_host:
        if backend.auto_host:
            return backend.auto_host
        if route.forces_host and backend.default_authority:
            return backend.default_authority
    return authority


def _call(request: Request, backend: Backend, route: Route, body: Body) -> Call:
    """The request as it goes to a backend."""
    request.authority = _authority_for(request.authority, backend, route)
    return Call(
        request.method,
        backend.scheme,
        request.authority or backend.default_authority,
        request.target,
        request.headers,
        body,
        request,
        request.upgrade,
        request.wants_trailers,
    )


@final
class _Saved:
    """A request as it was before its first attempt. Policies of an attempt may change any of it."""

    __slots__ = ("_authority", "_headers", "_method", "_scheme", "_state", "_target")

    def __init__(self, request: Request) -> None:
        self._headers = request.headers
        self._method, self._scheme = request.method, request.scheme
        self._authority, self._target = request.authority, request.target
        self._state = request.state

    def restore(self, request: Request) -> None:
        """Put it back; what is mutable as a copy."""
        request.headers = self._headers.copy()
        request.method, request.scheme = self._method, self._scheme
        request.authority, request.target = self._authority, self._target
        request.state = dict(self._state)


def end_span(
    span: ClientSpan, request: Request, endpoint: str, status: int, error: str | None
) -> None:
    """The call that `span` stands for has its response head, or has failed."""
    span.finish(method=request.method, host=endpoint, path=request.path, status=status, error=error)


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
