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
from sidecar.gateway.connect_route import begin, tunnelled
from sidecar.gateway.direct import Resume, has_passed, rest_of
from sidecar.gateway.exchange import Exchange, WorkerState
from sidecar.gateway.hooks import hold_response, run_request, run_response
from sidecar.gateway.matching import authority_for, matched, note_route, version_for
from sidecar.gateway.plan import Backend, Bind, Gateway, Listener, Route
from sidecar.gateway.respond import error_response
from sidecar.gateway.starter import Starter
from sidecar.http.message import Body, FixedBody, Request, Response, read_up_to
from sidecar.net.outbox import Outbox
from sidecar.net.pool import Call
from sidecar.policies.chain import EMPTY
from sidecar.policies.retry import REPLAY_LIMIT_BYTES, Retry
from sidecar.routing import canonical
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

    __slots__ = ("_bind", "_random", "_worker", "outbox", "start")

    def __init__(
        self, bind: str, worker: WorkerState, random: Callable[[], float], outbox: Outbox
    ) -> None:
        self._bind = bind
        self.outbox = outbox
        self._worker = worker
        self._random = random
        self.start = Starter(bind, worker, outbox, self._attempt).start
        """See sidecar.net.host.Direct: a request that has nothing to wait for begins there."""

    async def __call__(self, request: Request) -> Response:
        """See sidecar.http.message.Handler."""
        rest = rest_of(request)
        if rest is not None:
            return await self._go_on(request, rest.exchange, rest.resume)
        worker = self._worker
        make = worker.gateway.exchange  # a field: called as a method it would cost more
        exchange = make(request, worker)
        worker.in_flight += 1
        try:
            response = await self._serve(request, exchange, worker.gateway)
        except asyncio.CancelledError:
            exchange.finish_cancelled()
            raise
        except Exception as error:
            response = self._failed(request, error)
        exchange.answer(response)
        return response

    async def _go_on(self, request: Request, exchange: Exchange, resume: Resume) -> Response:
        """Serve the rest of a request that was begun in callbacks: see direct.Handover."""
        try:
            response = await resume()
        except asyncio.CancelledError:
            exchange.finish_cancelled()
            raise
        except Exception as error:
            response = self._failed(request, error)
        exchange.answer(response)
        return response

    @staticmethod
    def _failed(request: Request, error: Exception) -> Response:
        if not isinstance(error, SidecarError):
            _log.exception("a request failed inside the gateway")
        return error_response(request, error)

    async def _serve(self, request: Request, exchange: Exchange, gateway: Gateway) -> Response:
        if self._worker.in_flight > self._worker.max_in_flight:
            raise OverloadError
        bind = gateway.bind(self._bind)
        if bind is None:
            raise RequestError(404, "NotFound", "bind not found", close=True)
        if request.method == "CONNECT":
            _check_connect(request, bind)
            if bind.plan.takes_connect and not bind.listeners:
                # A port for tunnels alone, as the reference's egress proxies have it.
                return await self._worker.connect(request)
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
        if request.method == "CONNECT" and not self._routes_connect(gateway):
            return await self._worker.connect(request)
        route = self._route_of(request, listener)
        exchange.route = route
        return await self._run_route(request, exchange, route, gateway)

    def _routes_connect(self, gateway: Gateway) -> bool:
        bind = gateway.bind(self._bind)
        return bind is not None and bind.plan.routes_connect

    @staticmethod
    def _route_of(request: Request, listener: Listener) -> Route:
        """The route a request meets. Raises RequestError 400 (path) or 404."""
        found, path, target = matched(request, listener)
        route = found[0].payload
        note_route(request, route, found[1], path, target)
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
        if mirrors and request.method != "CONNECT":
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
        if backend.serve is not None and request.method != "CONNECT":
            return await backend.serve.serve(request, exchange, route, self._attempt)
        if request.method == "CONNECT":
            return await tunnelled(request, exchange, backend)
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


def _check_connect(request: Request, bind: Bind) -> None:
    """Let CONNECT in, in the form in which routes are chosen for it. Raises: RequestError."""
    if not (bind.plan.routes_connect or bind.plan.takes_connect):
        raise RequestError(405, "Internal", "method not allowed", close=True)
    if request.version == "HTTP/2.0":
        # What comes are the tunnel's octets, which no policy may wait for or take.
        request.body = FixedBody()
    elif request.body.length != 0:
        # Where the body ends and the tunnel begins, others may see otherwise.
        raise RequestError(400, "InvalidRequest", "CONNECT with a body", close=True)
    if bind.plan.routes_connect:
        begin(request)


def _call(request: Request, backend: Backend, route: Route, body: Body) -> Call:
    """The request as it goes to a backend."""
    request.authority = authority_for(request.authority, backend, route)
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
