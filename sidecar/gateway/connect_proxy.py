"""Proxies on the way to backends (`backendTunnel`): what each CONNECT says, and to which endpoint.

Source: spec/config.md section 3.11; RFC 9110 section 9.3.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, final

import orjson

from sidecar.config.targets import reference_target
from sidecar.errors import ConfigError, SidecarError
from sidecar.gateway.hooks import run_own
from sidecar.gateway.plan import Backend
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request
from sidecar.net.pool import h1_head
from sidecar.net.proxied import Way
from sidecar.policies.merge import merge
from sidecar.policies.schema import nested
from sidecar.telemetry.clock import Clock

Data = Mapping[str, Any]


def name_of(tunnel: Data) -> str:
    """Equal configuration shares connections."""
    return blake2b(orjson.dumps(tunnel, option=orjson.OPT_SORT_KEYS), digest_size=12).hexdigest()


def proxy_of(
    tunnel: Data,
    target_of: Callable[[Data], tuple[Data, Data]],
    make: Callable[[Data, Data], Backend],
    clock: Clock,
) -> ConnectProxy:
    """The proxy of a `backendTunnel`; `target_of` and `make` are those of gateway.backends.

    Raises: ConfigError, its path below the policy.
    """
    try:
        target = reference_target(dict(tunnel["proxy"]))
    except ConfigError as problem:
        raise nested("proxy", problem) from problem
    _, own = target_of(target)
    policies = merge([own, tunnel.get("policies") or {}])
    reference = {"name": "proxy", "weight": 1, "target": target, "policies": {}}
    try:
        return ConnectProxy(make(reference, policies), clock)
    except ConfigError as problem:
        raise nested("policies", problem) from problem


def _to_a_proxy(headers: Headers) -> Headers:
    """A credential where proxies look for it (RFC 9110 section 11.7.2), wherever `backendAuth` put
    it by default: what `authorization` says is for the target."""
    if headers.has(b"proxy-authorization"):
        return headers
    return Headers(
        (b"proxy-authorization" if name == b"authorization" else name, value)
        for name, value in headers
    )


@final
class ConnectProxy:
    """See sidecar.net.proxied.Proxy."""

    __slots__ = ("_backend", "_clock")

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock

    async def way(self, target: str) -> Way:
        """See Proxy. The policies of the tunnel see a request of method CONNECT."""
        backend = self._backend
        begun = self._clock.monotonic_ns()
        nobody = Connection("", 0, "", 0)
        request = Request(
            "CONNECT", "http", target, target, "HTTP/1.1", Headers(), FixedBody(), nobody, begun
        )
        await run_own(backend.chain, request, f"the proxy {backend.label}")
        headers = _to_a_proxy(request.headers)
        picked = backend.upstream.pick_nowait(request)
        if picked is None:
            picked = await backend.upstream.pick(request)
        head = h1_head("CONNECT", target, target, headers, "", wants_trailers=False)
        picked.begin()

        def ended(error: SidecarError | None) -> None:
            picked.end(self._clock.monotonic_ns() - begun, None, error)

        return Way(picked.pool.open_stream, head + b"\r\n", backend.label, ended)
