"""How messages reach the servers behind an `mcp` backend: over its pools, measured and traced.

Source: spec/mcp_a2a.md sections 2.5 and 2.13; spec/config.md sections 9.1 and 9.3.

A call is tried twice when the first try certainly did nothing (a kept connection that was being
closed), never otherwise: a tool may have been called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, final

from sidecar.errors import SidecarError, UpstreamError
from sidecar.gateway.hooks import run_own
from sidecar.gateway.mcp_facts import STATE
from sidecar.gateway.plan import Backend
from sidecar.gateway.upstream import Picked, retried, send_picked
from sidecar.http.message import FixedBody, Request, Response
from sidecar.net.pool import Call, Version
from sidecar.policies.chain import EMPTY
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.metrics import Histogram
from sidecar.telemetry.trace import ClientSpan, Tracer

_PURPOSE: Final = ("Primary", "Mcp")
_NAMES: Final = {"tool": "gen_ai.tool.name", "prompt": "gen_ai.prompt.name"}
"""Subjects of a call that its span is named by; URIs and ids would make too many names."""


@final
class Sender:
    """One server's backend. See mcp.upstream.base.SendHttp."""

    __slots__ = ("_authority", "_backend", "_clock", "_measured", "_target", "_tracer")

    def __init__(
        self,
        backend: Backend,
        authority: str,
        measured: Histogram,
        tracer: Tracer | None,
        clock: Clock,
        target: str = "",
    ) -> None:
        """`authority`: Host of every call; "" leaves it to the backend. `target`: its name."""
        self._backend = backend
        self._authority = authority or backend.auto_host or backend.default_authority
        self._measured = measured
        self._tracer = tracer
        self._clock = clock
        self._target = target

    async def __call__(
        self, request: Request, timeout_seconds: float, pin: str = ""
    ) -> tuple[Response, str]:
        """See SendHttp."""
        backend = self._backend
        request.authority = self._authority
        request.scheme = backend.scheme
        seconds = backend.request_seconds or timeout_seconds
        clock = self._clock.monotonic_ns
        span = self._span(request)
        status, failure = 0, "cancelled"
        label = backend.label
        started = clock()
        try:
            async with asyncio.timeout(seconds):
                response, label = await self._answered(request, pin)
            status, failure = response.status, ""
            return response, label
        except TimeoutError as error:
            failure = f"{label} did not answer within {seconds:g} s"
            raise UpstreamError(504, "Timeout", failure) from error
        except UpstreamError as error:
            failure = str(error)
            raise
        except SidecarError as error:
            failure = str(error)
            # What the server's own policies refused is a failed call, never the client's fault.
            text = f"upstream call failed: {error}"
            raise UpstreamError(503, "UpstreamFailure", text, sent=False) from error
        finally:
            self._measured.observe((clock() - started) * 1e-9)
            if span is not None:
                is_error = bool(failure) or status >= 400
                name, more = span_of(self._target, request)
                span.finish(
                    method=request.method,
                    host=label,
                    path=request.path,
                    status=status,
                    error=failure if is_error else None,
                    name=name,
                    more=more,
                )

    def _span(self, request: Request) -> ClientSpan | None:
        tracer = self._tracer
        # Fast path: nobody traces.
        if tracer is None:
            return None
        span = tracer.call(request, *_PURPOSE)
        if span is not None:
            span.inject(request.headers)
        return span

    async def _answered(self, request: Request, pin: str) -> tuple[Response, str]:
        chain = self._backend.chain
        if chain is not EMPTY:
            await run_own(chain, request, self._backend.label)
        picked = await self._picked(request, pin)
        response = await retried(lambda: self._once(request, picked))
        for hook, is_async in chain.response_hooks:
            done = hook(request, response)
            if is_async:
                await done
        return response, picked.label

    async def _picked(self, request: Request, pin: str) -> Picked:
        upstream = self._backend.upstream
        if not pin:
            return upstream.pick_nowait(request) or await upstream.pick(request)
        picked = await upstream.pinned(pin)
        if picked is None:
            text = f"{pin}, which holds the session, is no endpoint any more"
            raise UpstreamError(503, "NoHealthyBackend", text, sent=False)
        return picked

    async def _once(self, request: Request, picked: Picked) -> Response:
        body = request.body
        call = Call(
            request.method,
            request.scheme,
            request.authority,
            request.target,
            request.headers,
            body.copy() if type(body) is FixedBody else body,
            request,
            "",
            False,
        )
        return await send_picked(picked, call, self._version, self._clock)

    @property
    def _version(self) -> Version:
        backend = self._backend
        return backend.version or ("auto" if backend.has_tls else "h1")


def span_of(target: str, request: Request) -> tuple[str, dict[str, str]]:
    """Name and attributes of a call's span: what the client asked for. ("", {}) when nobody asked,
    as at the end of a session that was left."""
    asked = request.state.get(STATE)
    if not isinstance(asked, Mapping) or "methodName" not in asked:
        return "", {}
    method = str(asked["methodName"])
    name, more = f"{method} {target}", {"mcp.method.name": method, "mcp.target": target}
    for kind, attribute in _NAMES.items():
        about = asked.get(kind)
        if isinstance(about, Mapping) and about.get("target") == target:
            subject = str(about["name"])
            return f"{name}_{subject}", {**more, attribute: subject}
    return name, more
