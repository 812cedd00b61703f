"""A configuration compiled in this process: what a worker has, without its listening sockets."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import yaml

from shm.metrics import MetricsTable
from shm.rates import RateTable
from sidecar.cel.engine import Engine
from sidecar.config.local import Source
from sidecar.errors import RequestError
from sidecar.gateway.compile import Compiler
from sidecar.gateway.endpoints import Endpoints
from sidecar.gateway.loading import Loader
from sidecar.gateway.pipeline import Pipeline
from sidecar.gateway.plan import Gateway, Mirror
from sidecar.gateway.surroundings import Surroundings, Telemetry
from sidecar.gateway.upstream import Pools
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request, Response
from sidecar.net.dialer import Address, DirectDialer
from sidecar.net.outbox import Outbox
from sidecar.net.resolve import Resolver
from sidecar.net.sweep import Sweeper
from sidecar.policies.base import Services
from sidecar.telemetry.clock import Clock, SystemClock
from sidecar.telemetry.metrics import RequestMetrics, UpstreamMetrics

ENGINE = Engine()
SECRET = "0f" * 32


def snapshot_data(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The resources of a document, as a worker reads them. Raises InvalidConfigError."""
    source = Source("test.yaml", content=yaml.safe_dump(dict(config), sort_keys=False))
    loaded = Loader(source, {"OIDC_COOKIE_SECRET": SECRET}).load()
    return {key: dict(one.data) for key, one in loaded.snapshot.resources.items()}


class InProcess:
    """`async with InProcess(config) as gateway:`; WorkerState for the pipelines it makes."""

    def __init__(
        self,
        config: Mapping[str, Any],
        draw: float | None = None,
        endpoints: Endpoints | None = None,
    ) -> None:
        self.endpoints = endpoints or Endpoints()
        self._config = config
        self._data: dict[str, dict[str, Any]] = {}
        self.random = random.Random(7).random if draw is None else lambda: draw
        self.clock: Clock = SystemClock()
        self.in_flight = 0
        self.max_in_flight = 100
        self.mirrored: list[Request] = []
        self.gateway: Gateway

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        name = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._table = MetricsTable.create(name, workers=1)
        self.rates = RateTable.create(name, 1000)
        self.sweeper = Sweeper(loop)
        self.pools = Pools(
            DirectDialer(loop), loop, self.sweeper, Resolver(loop, "Auto"), lambda *_: None
        )
        self.compiler = Compiler(
            Surroundings(
                pools=self.pools,
                random=self.random,
                services=lambda config, limit: Services(
                    self.clock, ENGINE, limit, rates=self.rates, cookie_secret=SECRET
                ),
                telemetry=self._telemetry,
                admin=lambda config: Address("127.0.0.1", 15000),
                endpoints=self.endpoints,
            )
        )
        self.apply(self._config)
        return self

    def _telemetry(self, *_: object) -> Telemetry:
        requests = RequestMetrics(self._table.writer(0))
        return Telemetry(requests, UpstreamMetrics(requests.registry), None, None, None)

    def apply(self, config: Mapping[str, Any]) -> Gateway:
        """Compile what changed, as a reload does, and serve it."""
        return self.step(snapshot_data(config))

    def step(self, fresh: dict[str, dict[str, Any]]) -> Gateway:
        """The same of resources."""
        changed = {key: value for key, value in fresh.items() if self._data.get(key) != value}
        steps = self.compiler.compile(1, changed, self._data.keys() - fresh.keys())
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                self.gateway = stop.value
                self._data = fresh
                return self.gateway

    async def connect(self, request: Request) -> Response:
        """See WorkerState: there are no binds to enter here."""
        raise RequestError(404, "NotFound", "no bind for this port")

    def mirror(self, request: Request, mirror: Mirror) -> None:
        """See WorkerState."""
        self.mirrored.append(request)

    def count(self, name: str) -> float:
        """The sum of a metric over its series."""
        total = 0.0
        for one in self._table.collect():
            if one.key.partition(b"\0")[0].decode() == name and isinstance(one.value, int | float):
                total += one.value
        return total

    async def ask(self, request: Request, bind: str = "") -> Response:
        """Serve a request of a bind (the only one by default); the caller ends the response."""
        outbox = Outbox(asyncio.get_running_loop())
        pipeline = Pipeline(bind or next(iter(self.gateway.binds)), self, self.random, outbox)
        return await pipeline(request)

    async def text(self, request: Request, bind: str = "") -> tuple[int, str]:
        """Status and body, with the response ended as a front door does."""
        response = await self.ask(request, bind)
        body = b""
        while piece := await response.body.read():
            body += piece
        assert response.on_done is not None
        response.on_done(len(body), "")
        return response.status, body.decode()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pools.close()
        self.sweeper.close()
        await asyncio.sleep(0)
        self._table.close()
        self.rates.close()


def ask_for(
    target: str = "/",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    *,
    host: str = "h.test",
    body: bytes = b"",
    version: str = "HTTP/1.1",
    scheme: str = "http",
) -> Request:
    """A request as the front door makes it."""
    fields = Headers((k.encode(), v.encode()) for k, v in (headers or {}).items())
    if body:
        fields.append((b"content-length", b"%d" % len(body)))
    connection = Connection("127.0.0.1", 1, "127.0.0.1", 2)
    started = SystemClock().monotonic_ns()
    return Request(
        method, scheme, host, target, version, fields, FixedBody(body), connection, started
    )
