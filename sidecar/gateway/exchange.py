"""The facts of one request while it is under way, and what is done with them at its end.

Source: spec/config.md sections 9.1 and 9.2.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.fields import AccessEntry

if TYPE_CHECKING:
    from sidecar.gateway.plan import Backend, Gateway, Mirror, Route, Unrouted

__all__ = ["Exchange", "MakeExchange", "WorkerState"]

_log = logging.getLogger("sidecar.gateway.exchange")
_CANCELLED = "client disconnected"


class WorkerState(Protocol):
    """What the pipeline needs of the worker it runs in."""

    gateway: Gateway
    clock: Clock
    in_flight: int
    max_in_flight: int

    def mirror(self, request: Request, mirror: Mirror) -> None:
        """Send a copy, in the background, within bounds."""

    async def connect(self, request: Request) -> Response:
        """Answer a CONNECT with a tunnel back into the gateway. Raises: RequestError."""


def _put_queued(queued: list[tuple[bytes, bytes]], headers: Headers) -> None:
    """Put what policies queued on the request in the place of the response's own fields."""
    present = dict(headers)
    for name, _ in queued:
        if name in present:
            headers.remove_all(name)
    headers.extend(queued)


class Exchange:
    """One request. `finish` is the response's `on_done`: it runs exactly once.

    `RecordedExchange` (gateway.recorded) is the other kind.
    """

    __slots__ = (
        "attempt",
        "backend",
        "endpoint",
        "gateway",
        "labels",
        "request",
        "response",
        "route",
        "upstream_ended_ns",
        "upstream_started_ns",
        "worker",
    )

    def __init__(self, request: Request, worker: WorkerState) -> None:
        self.request = request
        self.worker = worker
        self.gateway = worker.gateway
        """The snapshot this request began with and ends with."""
        self.labels: Unrouted = worker.gateway.unrouted
        self.route: Route | None = None
        self.backend: Backend | None = None
        self.response: Response | None = None
        self.endpoint = ""
        self.attempt = 0
        self.upstream_started_ns = 0
        self.upstream_ended_ns = 0

    @property
    def upstream_ns(self) -> int:
        """Duration of the last upstream call until its response head."""
        return self.upstream_ended_ns - self.upstream_started_ns

    def answer(self, response: Response) -> None:
        """This is what the client gets: its end is the exchange's."""
        queued = self.request.response_headers
        if queued:
            _put_queued(queued, response.headers)
        self.response = response
        response.on_done = self.finish

    def finish_cancelled(self) -> None:
        """The client left before there was a response."""
        self._finish(0, 0, _CANCELLED, "Upstream")

    def finish(self, sent_bytes: int, error: str) -> None:
        """The response was handed over, whole or cut."""
        response = self.response
        assert response is not None
        self._finish(response.status, sent_bytes, error or response.error, response.reason)
        # The response holds this method and so this object: without the cut both would wait for
        # the garbage collector, which then takes 7 % of the CPU.
        response.on_done = None
        self.response = None

    def _settle(self, request: Request) -> None:
        """Tell those who wait for the end of the exchange; none may keep the others from it."""
        endings, request.endings = request.endings, ()
        for end in endings:
            try:
                end(request, self.response)
            except Exception:
                _log.exception("a policy failed at the end of a request")

    def _finish(self, status: int, sent_bytes: int, error: str, reason: str) -> None:
        worker = self.worker
        worker.in_flight -= 1
        request = self.request
        if request.endings:
            self._settle(request)
        now = worker.clock.monotonic_ns()
        started = self.upstream_started_ns
        gateway = self.gateway
        route = self.route
        label = self.backend.label if self.backend is not None else ""
        metrics = route.metrics if route is not None else self.labels.metrics
        access_log = gateway.access_log
        logs = access_log is not None and access_log.is_wanted(logging.INFO)
        if started:
            is_model = self.backend is not None and self.backend.kind == "llm"
            seconds = gateway.model_call_seconds if is_model else gateway.call_seconds
            seconds.observe((self.upstream_ended_ns - started) * 1e-9)
        # Fast path: nobody wants to see more of the request than its numbers.
        if not logs and gateway.tracer is None and not metrics.has_labels:
            metrics.count(
                (request.method, status, reason, label),
                sent_bytes,
                now - request.started_ns,
                started - request.started_ns if started else 0,
                now - self.upstream_ended_ns if started else 0,
                self.attempt,
            )
            return
        entry = AccessEntry(
            request.connection,
            request,
            self.response,
            route if route is not None else self.labels,
            status=status,
            request_bytes=request.received_body_bytes,
            response_bytes=sent_bytes,
            duration_ns=now - request.started_ns,
            request_processing_ns=started - request.started_ns if started else 0,
            upstream_ns=self.upstream_ended_ns - started,
            response_processing_ns=now - self.upstream_ended_ns if started else 0,
            error=error,
            reason=reason,
            endpoint=self.endpoint,
            retry_attempt=self.attempt,
        )
        metrics.finish(entry, label)
        if gateway.tracer is not None:
            clock = worker.clock
            entry.ended_ns = clock.time_ns() - (clock.monotonic_ns() - now)
            gateway.tracer.finish(entry)
        if logs and access_log is not None:
            access_log.emit(entry)


MakeExchange = Callable[[Request, WorkerState], Exchange]
"""Begins the exchange of a request."""
