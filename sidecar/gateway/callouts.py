"""Calls that policies make: over the worker's pools, in bounds, measured, in the client's trace.

Source: spec/config.md sections 0.4, 9.1, 9.3 and 10.4.

A call is tried twice when the first try certainly did nothing (a connection that was being closed,
a refused stream), never otherwise: who limits or bills by calls would count one twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, final

from sidecar.config.targets import reference_target
from sidecar.errors import ConfigError, SidecarError, UpstreamError
from sidecar.gateway.backends import Backends
from sidecar.gateway.callout_stream import CalloutStream, Outgoing
from sidecar.gateway.hooks import run_own
from sidecar.gateway.levels import Levels
from sidecar.gateway.plan import Backend
from sidecar.gateway.upstream import retried, send_picked
from sidecar.http import grpc
from sidecar.http.headers import Headers
from sidecar.http.message import Body, FixedBody, Request, Response, read_up_to
from sidecar.net.pool import Call, Version
from sidecar.net.tls_client import ClientTls
from sidecar.policies.base import Services
from sidecar.policies.callouts import ANSWER_BYTES, Callout, Nowhere, Subtype, outgoing
from sidecar.policies.merge import merge
from sidecar.policies.order import build
from sidecar.policies.schema import nested
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.metrics import Histogram, UpstreamMetrics
from sidecar.telemetry.trace import ClientSpan, Tracer

Data = Mapping[str, Any]
_log = logging.getLogger("sidecar.gateway.callouts")
_BACKLOG_MAX: Final = 1024
_AUTHORITY: Final = "callout.authority"
_NO_ROUTE: Final[Data] = {"namespace": "", "name": "", "rule_name": "", "policies": {}}


@final
class Backlog:
    """A worker's calls for which no client waits: at most 1,024, what is beyond is not made."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, make: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Start it in the background; False when there are too many."""
        if len(self._tasks) >= _BACKLOG_MAX:
            return False
        task = asyncio.get_running_loop().create_task(make())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def close(self, seconds: float) -> None:
        """Wait for what is under way, then give the rest up."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            _log.warning("%d calls in the background were given up", len(late))
            await asyncio.wait(late)


@final
class WorkerCallouts:
    """What the policies of one compilation may call. See policies.callouts.Callouts.

    Made before the backends, whose own policies may call out too; `attach` completes it.
    """

    __slots__ = ("_backends", "_backlog", "_clock", "_levels", "_metrics", "_tracer")

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._backends: Backends
        self._clock: Clock
        self._levels: Levels
        self._metrics: UpstreamMetrics
        self._tracer: Tracer | None

    def attach(
        self,
        backends: Backends,
        levels: Levels,
        metrics: UpstreamMetrics,
        tracer: Tracer | None,
        clock: Clock,
    ) -> None:
        """What the rest of the compilation made; before the first `resolve`."""
        self._backends = backends
        self._levels = levels
        self._metrics = metrics
        self._tracer = tracer
        self._clock = clock

    def resolve(self, reference: Data, policies: Data, subtype: Subtype) -> Callout:
        """See Callouts."""
        return self._callout(reference, policies, ("Policy", subtype))

    def shadow(self, reference: Data) -> BackendCallout:
        """Where a mirror's copies go. Raises: ConfigError."""
        return self._callout(reference, {}, ("Mirror", "Http"))

    def _callout(self, reference: Data, policies: Data, purpose: tuple[str, str]) -> BackendCallout:
        backend = self._backend(reference, policies)
        measured = self._metrics.call(*purpose)
        return BackendCallout(backend, purpose, self._backlog, measured, self._tracer, self._clock)

    def _backend(self, reference: Data, policies: Data) -> Backend:
        target = target_of(reference)
        asked = {"name": "policy", "weight": 1, "target": target, "policies": policies}
        _, own = self._backends.target_of(target)
        try:
            levels = self._levels.backend_phase(None, None, _NO_ROUTE, asked, own)
            return self._backends.make(asked, merge(levels) if levels else {})
        except ConfigError as problem:
            raise nested("policies", problem) from problem


@final
class CheckedCallouts:
    """For the check before publication: whether a call could be made, and none is."""

    __slots__ = ("_services",)

    def __init__(self, services: Services) -> None:
        self._services = services

    def resolve(self, reference: Data, policies: Data, subtype: Subtype) -> Callout:
        """See Callouts."""
        target = target_of(reference)
        try:
            build("backend", policies, self._services)
            tls = policies.get("backendTLS")
            if tls is not None:
                ClientTls(tls, "backend.invalid")
            _check_credential(policies, target, self._services)
            tunnel = policies.get("backendTunnel")
            if tunnel is not None:
                self.resolve(tunnel["proxy"], tunnel.get("policies") or {}, subtype)
        except ConfigError as problem:
            raise nested("policies", problem) from problem
        return Nowhere().resolve(reference, policies, subtype)


def _check_credential(policies: Data, target: Data, services: Services) -> None:
    """Raises: ConfigError below `policies`."""
    if policies.get("backendAuth") is None:
        return
    from sidecar.llm.credentials.table import configured

    host = (target.get("host") or {}).get("address", "")
    try:
        configured(policies["backendAuth"], services.clock, host=host)
    except ConfigError as problem:
        raise nested("backendAuth", problem) from problem


def target_of(reference: Data) -> dict[str, Any]:
    """The target of a reference. Raises: ConfigError below the policy."""
    try:
        return dict(reference_target(dict(reference)))
    except ConfigError as problem:
        raise nested(next(iter(reference), ""), problem) from problem


@final
class BackendCallout:
    """A backend as a policy calls it. See policies.callouts.Callout."""

    __slots__ = ("_backend", "_backlog", "_clock", "_measured", "_purpose", "_tracer", "label")

    def __init__(
        self,
        backend: Backend,
        purpose: tuple[str, str],
        backlog: Backlog,
        measured: Histogram,
        tracer: Tracer | None,
        clock: Clock,
    ) -> None:
        """`purpose`: kind and subtype of spec/config.md section 9.1."""
        self.label = backend.label
        self._backend = backend
        self._purpose = purpose
        self._backlog = backlog
        self._measured = measured
        self._tracer = tracer
        self._clock = clock

    async def send(
        self,
        request: Request,
        timeout_seconds: float,
        limit_bytes: int = ANSWER_BYTES,
        *,
        authority: str = "",
    ) -> Response:
        """See Callout."""
        version = self._version
        if authority:
            request.state[_AUTHORITY] = authority
        return await self._timed(request, version, timeout_seconds, limit_bytes, is_grpc=False)

    async def discard(self, request: Request, timeout_seconds: float) -> None:
        """See plan.Shadow."""
        await self._timed(request, self._version, timeout_seconds, None, is_grpc=False)

    @property
    def _version(self) -> Version:
        backend = self._backend
        return backend.version or ("auto" if backend.has_tls else "h1")

    async def unary(
        self,
        path: str,
        message: bytes,
        timeout_seconds: float,
        of: Request,
        metadata: tuple[tuple[bytes, bytes], ...] = (),
    ) -> bytes:
        """See Callout."""
        seconds = self._backend.request_seconds or timeout_seconds
        headers = Headers(
            (
                (b"content-type", b"application/grpc"),
                (b"grpc-timeout", grpc.timeout_value(seconds)),
                *metadata,
            )
        )
        request = outgoing("POST", path, headers, grpc.frame(message), of=of)
        request.wants_trailers = True
        limit = ANSWER_BYTES
        response = await self._timed(request, "h2", seconds, limit + 5, is_grpc=True)
        return grpc.unary(response.body.read_nowait() or b"", limit)

    def unary_later(self, path: str, message: bytes, timeout_seconds: float, of: Request) -> bool:
        """See Callout."""

        async def call() -> None:
            try:
                await self.unary(path, message, timeout_seconds, of)
            except SidecarError as error:
                _log.warning("a call of %s in the background failed: %s", self.label, error)

        return self._backlog.add(call)

    def stream(
        self, path: str, of: Request, metadata: tuple[tuple[bytes, bytes], ...] = ()
    ) -> CalloutStream:
        """See Callout."""
        headers = Headers(((b"content-type", b"application/grpc"), *metadata))
        request = outgoing("POST", path, headers, b"", of=of)
        request.wants_trailers = True
        span = self._span(request)
        clock = self._clock.monotonic_ns
        started = clock()

        def ended(failure: str) -> None:
            self._measured.observe((clock() - started) * 1e-9)
            if span is not None:
                span.finish(
                    method="POST",
                    host=self.label,
                    path=path,
                    status=0 if failure else 200,
                    error=failure or None,
                )

        return CalloutStream(request, self._opened, ended, self._backlog.add)

    def seconds(self, default: float) -> float:
        """See Callout."""
        return self._backend.request_seconds or default

    async def _opened(self, request: Request) -> Response:
        """The head of a stream's answer; policies of the destination see the request."""
        body = request.body
        assert isinstance(body, Outgoing)
        try:
            await run_own(self._backend.chain, request, self.label)
            try:
                return await self._once(request, "h2")
            except UpstreamError as error:
                if error.sent or not body.rewind():
                    raise
            return await self._once(request, "h2")
        except SidecarError as error:
            raise _peer_error(error) from error

    # --- one call -------------------------------------------------------------------------

    async def _timed(
        self,
        request: Request,
        version: Version,
        timeout_seconds: float,
        limit_bytes: int | None,
        *,
        is_grpc: bool,
    ) -> Response:
        """One call with all that goes with it. `limit_bytes`: None keeps nothing of the body."""
        seconds = self._backend.request_seconds or timeout_seconds
        clock = self._clock.monotonic_ns
        span = self._span(request)
        status, failure = 0, "cancelled"
        started = clock()
        try:
            async with asyncio.timeout(seconds):
                response = await self._answered(request, version, limit_bytes)
            status, failure = response.status, ""
            if is_grpc:
                grpc.check(status, response.headers, response.body.trailers)
            return response
        except TimeoutError as error:
            failure = f"call of {self.label} timed out after {seconds:g} s"
            raise UpstreamError(504, "Timeout", failure) from error
        except SidecarError as error:
            failure = str(error)
            raise _peer_error(error) from error
        finally:
            self._measured.observe((clock() - started) * 1e-9)
            if span is not None:
                is_error = bool(failure) or status >= 400
                span.finish(
                    method=request.method,
                    host=self.label,
                    path=request.path,
                    status=status,
                    error=failure if is_error else None,
                )

    def _span(self, request: Request) -> ClientSpan | None:
        tracer = self._tracer
        span = None if tracer is None else tracer.call(request, *self._purpose)
        if span is not None:
            span.inject(request.headers)
        return span

    async def _answered(
        self, request: Request, version: Version, limit_bytes: int | None
    ) -> Response:
        """The answer with its body read, after the destination's own policies."""
        await run_own(self._backend.chain, request, self.label)
        response = await retried(lambda: self._once(request, version))
        try:
            response.body = await self._read(response.body, limit_bytes)
        except BaseException:
            response.body.close()
            raise
        for hook, is_async in self._backend.chain.response_hooks:
            answer = hook(request, response)
            if is_async:
                await answer
        return response

    async def _read(self, body: Body, limit_bytes: int | None) -> FixedBody:
        """What of a body is kept. Raises: UpstreamError past the limit."""
        if limit_bytes is None:
            while await body.read():
                continue
            return FixedBody(b"", body.trailers)
        whole, rest = await read_up_to(body, limit_bytes)
        if rest is not None:
            text = f"the answer of {self.label} is larger than {limit_bytes} bytes"
            raise UpstreamError(502, "UpstreamFailure", text)
        return FixedBody(whole, body.trailers)

    async def _once(self, request: Request, version: Version) -> Response:
        backend = self._backend
        upstream = backend.upstream
        picked = upstream.pick_nowait(request)
        if picked is None:
            picked = await upstream.pick(request)
        body = request.body
        call = Call(
            request.method,
            backend.scheme,
            authority_of(backend, request),
            request.target,
            request.headers,
            body.copy() if type(body) is FixedBody else body,
            request,
            "",
            request.wants_trailers,
        )
        return await send_picked(picked, call, version, self._clock)


def authority_of(backend: Backend, request: Request) -> str:
    """What a request of the gateway's own calls its destination."""
    told = request.state.get(_AUTHORITY)
    if isinstance(told, str):
        return told
    return backend.auto_host or request.authority or backend.default_authority


def _peer_error(error: SidecarError) -> UpstreamError:
    """What the destination's own policies refused is a failed call, never the client's fault."""
    if isinstance(error, UpstreamError):
        return error
    return UpstreamError(503, "UpstreamFailure", f"upstream call failed: {error}", sent=False)
