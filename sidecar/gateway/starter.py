"""Begins requests on the shortest way, where nothing has to be waited for but an upstream.

Source: design section 3; sidecar.gateway.direct has the rest of that way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from sidecar.errors import RequestError, SidecarError, UpstreamError
from sidecar.gateway.direct import REFUSAL, DirectCall, Handover, Refusal, guarded
from sidecar.gateway.exchange import Exchange, WorkerState
from sidecar.gateway.matching import chosen, note_route
from sidecar.gateway.plan import Attempt, Choice
from sidecar.gateway.respond import error_response
from sidecar.gateway.upstream import Picked
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.net.h1_client import H1Client
from sidecar.net.host import Cancellable
from sidecar.net.outbox import Outbox
from sidecar.net.pool import field_lines


@final
class Starter:
    """The direct way of one bind. `attempt`: how a call is made where it can be waited for."""

    __slots__ = ("_attempt", "_bind", "_worker", "outbox")

    def __init__(self, bind: str, worker: WorkerState, outbox: Outbox, attempt: Attempt) -> None:
        self._bind = bind
        self._worker = worker
        self._attempt = attempt
        self.outbox = outbox

    def start(
        self, request: Request, reply: Callable[[Response], None], again: Callable[[], None]
    ) -> Cancellable | None:
        """Serve a request whose body is at hand in callbacks, or None: it needs `__call__`.

        Takes only what is certain to pass, or refused by a guard: whatever else is refused, or
        waits, goes the long way. What is left behind when this gives None is the note that the
        request has passed the guards, which take from limits and so are asked only once.
        """
        worker = self._worker
        gateway = worker.gateway
        bind = gateway.binds.get(self._bind) or gateway.bind(self._bind)
        if (
            bind is None
            or gateway.tracer is not None  # its spans are the long way's to make
            or request.method == "CONNECT"
            or worker.in_flight >= worker.max_in_flight
        ):
            return None
        headers = request.headers
        try:
            choice = bind.known(request) or chosen(request, bind)
            if choice is None:
                return None
            # Fast path: no policy at all.
            if not choice.route.is_plain:
                note_route(request, choice.route, choice.match, choice.path, choice.target)
                refused = guarded(choice.route.chain, request)
                if refused is not None:
                    return self._refuse(request, choice, refused, reply)
                if choice.backend.start is not None:
                    return self._hand_over(request, choice, reply, again, headers)
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
        refused: RequestError | Response,
        reply: Callable[[Response], None],
    ) -> Refusal:
        exchange = self._exchange(request, choice)
        response = refused if isinstance(refused, Response) else error_response(request, refused)
        exchange.answer(response)
        reply(response)
        return REFUSAL

    def _exchange(self, request: Request, choice: Choice) -> Exchange:
        """A request that is certain to be served from here on."""
        worker = self._worker
        make = worker.gateway.exchange  # a field: called as a method it would cost more
        exchange = make(request, worker)
        exchange.labels = choice.listener.labels
        exchange.route = choice.route
        worker.in_flight += 1
        gateway = exchange.gateway
        if gateway.observer is not None:
            gateway.observer.begin(request)
        return exchange

    def _hand_over(
        self,
        request: Request,
        choice: Choice,
        reply: Callable[[Response], None],
        again: Callable[[], None],
        received: Headers,
    ) -> Cancellable | None:
        """Let a backend serve that does so by itself. None: it has to wait for something."""
        backend = choice.backend
        assert backend.start is not None
        endings = request.endings
        exchange = self._exchange(request, choice)
        exchange.backend = backend
        request.state["backend"] = backend
        handover = Handover(exchange, reply, again, self.outbox, self._attempt)
        begun: Cancellable | None = None
        try:
            begun = backend.start(request, choice.route, handover)
        except SidecarError:
            begun = None  # the long way meets the same, and answers
        finally:
            if begun is None:
                self._worker.in_flight -= 1
                request.endings = endings
                request.headers = received
        return begun

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
        make = worker.gateway.exchange  # a field: called as a method it would cost more
        exchange = make(request, worker)
        exchange.labels = choice.listener.labels
        exchange.route = route
        exchange.backend = backend
        exchange.endpoint = picked.label
        worker.in_flight += 1
        note_route(request, route, choice.match, choice.path, choice.target)
        request.state["backend"] = backend
        gateway = exchange.gateway
        if gateway.observer is not None:
            gateway.observer.begin(request)
        direct = DirectCall(exchange, picked, client, reply, again, authority, received)
        exchange.upstream_started_ns = worker.clock.monotonic_ns()
        picked.begin()
        head = choice.line + fields
        client.begin(head, body.unread, request, request.method, direct, self.outbox)
        return direct
