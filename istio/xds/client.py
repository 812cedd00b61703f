"""The client of the control plane: one stream, opened again for ever, over grpc.aio.

Belongs to one process (control). Reading a response, translating it and applying it is one task's
work, in this order, so nothing is applied twice or out of turn.

Source: spec istio 3.1, 3.4 and 3.5.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

import grpc
import grpc.aio

from istio.backoff import Backoff
from istio.clock import Clock, SystemClock
from istio.endpoint import Endpoint, explained, wait_connected
from istio.errors import IstioError, ResourceError, XdsError
from istio.tasks import drop
from istio.xds.delta import Delta, Node, Received

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_SLICE: Final = 128
"""Resources translated between two turns of the event loop: about 4 ms."""
_GRACEFUL: Final = frozenset(
    (
        grpc.StatusCode.OK,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    )
)
_GRACEFUL_TEXTS: Final = ("transport is closing", "received prior goaway", "GOAWAY")

_LOST_STATUS: Final = "Internal error from Core"
"""What gRPC says of a stream that ended under a write, in the place of its status."""

_log = logging.getLogger(__name__)

Json = dict[str, Any]
Refused = Mapping[str, str]
"""Name of a resource to the reason why it cannot be honoured."""
Apply = Callable[[Mapping[str, Any], Sequence[str]], Refused | Awaitable[Refused]]
"""(name to what `decode` made, names removed) to what was refused; removals come first."""


@final
@dataclass(frozen=True, slots=True)
class Subscription:
    """One type of resources: how one is read, and who takes them."""

    type_url: str
    decode: Callable[[bytes], Any]
    """Raises: ResourceError."""
    apply: Apply
    stands_in: bool = False
    """Whether `apply` holds something in the place of what it refuses."""


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """Times and sizes."""

    connect_seconds: float = 5.0
    first_response_seconds: float = 60.0
    """How long a stream may stay silent while something was never received. After that silence is
    what an unchanged mesh sounds like, and keepalives tell whether the peer lives."""
    write_seconds: float = 30.0
    look_seconds: float = 5.0
    """How often the roots' file is looked at."""
    min_backoff_seconds: float = 0.010
    max_backoff_seconds: float = 15.0
    max_message_bytes: int = 200 * 1024 * 1024


@final
@dataclass(slots=True)
class Stats:
    """Counts since the start, for metrics and the dump. By type where they are mappings."""

    is_connected: bool = False
    connects: int = 0
    failures: int = 0
    """Streams that ended other than gracefully, and those that never came about."""
    last_error: str | None = None
    responses: dict[str, int] = field(default_factory=dict)
    resources: dict[str, int] = field(default_factory=dict)
    """Received, also those that were refused."""
    removals: dict[str, int] = field(default_factory=dict)
    nacks: dict[str, int] = field(default_factory=dict)
    last_refused: dict[str, Refused] = field(default_factory=dict)
    """Of the last response of the type; empty when all was good."""


@final
class XdsClient:
    """`run` it in one task."""

    def __init__(
        self,
        endpoint: Endpoint,
        node: Node,
        subscriptions: Sequence[Subscription],
        *,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._node = node
        self._by_type = {one.type_url: one for one in subscriptions}
        stand_ins = {one.type_url for one in subscriptions if one.stands_in}
        self._delta = Delta(node, tuple(self._by_type), stand_ins)
        self._settings = settings or Settings()
        self._clock = clock or SystemClock()
        self._backoff = Backoff(
            self._settings.min_backoff_seconds, self._settings.max_backoff_seconds
        )
        self._ready = asyncio.Event()
        self._has_heard = False
        """Whether this stream brought anything."""
        self.stats = Stats()

    @property
    def is_ready(self) -> bool:
        """Whether something of every type was received and handled, now or before."""
        return not self._delta.pending

    def pending(self) -> tuple[str, ...]:
        """The types of which nothing was handled yet."""
        return self._delta.pending

    async def wait_ready(self) -> None:
        """Return when `is_ready`; the caller limits the time."""
        await self._ready.wait()

    def dump(self) -> Json:
        """The state, plain data, without the token."""
        stats = self.stats
        return {
            "address": self._endpoint.address,
            "node": self._node.id,
            "connected": stats.is_connected,
            "connects": stats.connects,
            "failures": stats.failures,
            "lastError": stats.last_error,
            "pending": list(self._delta.pending),
            "types": {
                url: {
                    "held": len(self._delta.held(url)),
                    "responses": stats.responses.get(url, 0),
                    "resources": stats.resources.get(url, 0),
                    "removals": stats.removals.get(url, 0),
                    "nacks": stats.nacks.get(url, 0),
                    "refused": dict(stats.last_refused.get(url, {})),
                }
                for url in self._by_type
            },
        }

    def versions(self, type_url: str) -> Mapping[str, str]:
        """Name to version of what is held. Not to be changed."""
        return self._delta.held(type_url)

    async def run(self) -> None:
        """Keep a stream open until cancelled."""
        while True:
            is_graceful = False
            try:
                is_graceful = await self._stream()
            except IstioError as error:
                self._note(str(error))
            finally:
                self.stats.is_connected = False
            await self._clock.sleep(self._backoff.wait_seconds(grows=not is_graceful))

    def _note(self, text: str) -> None:
        self.stats.failures += 1
        if text != self.stats.last_error:
            _log.warning("discovery: %s", text)
        self.stats.last_error = text

    async def _stream(self) -> bool:
        """One stream from begin to end; whether its end was graceful. Raises: IstioError."""
        settings = self._settings
        self._has_heard = False
        limits = [
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
        ]
        # Before the roots are read: a change in between is then seen as one.
        stamp = self._endpoint.stamp()
        metadata = self._endpoint.metadata()
        async with self._endpoint.channel(limits) as channel:
            # Octets in and out: no serializers.
            call = channel.stream_stream(METHOD)(metadata=metadata)
            try:
                await wait_connected(
                    channel, call, settings.connect_seconds, self._endpoint.address
                )
                return await self._converse(call, stamp)
            except grpc.aio.AioRpcError as error:
                return self._ended(error.code(), error.details())
            finally:
                call.cancel()

    async def _converse(self, call: Any, stamp: object) -> bool:
        for request in self._delta.begin():
            await self._write(call, request)
        self.stats.is_connected = True
        self.stats.connects += 1
        while True:
            message = await self._read(call, stamp)
            if message is None:
                return True
            if message is grpc.aio.EOF:
                return self._ended(await call.code(), await call.details())
            self._backoff.reset()
            self._has_heard = True
            received = self._delta.receive(message)
            self.stats.last_error = None
            answer = self._delta.settle(received, await self._apply(received))
            if self.is_ready:
                self._ready.set()
            if answer is not None:
                await self._write(call, answer)

    def _ended(self, code: grpc.StatusCode, details: str | None) -> bool:
        text = details or ""
        if code in _GRACEFUL or any(one in text for one in _GRACEFUL_TEXTS):
            _log.info("discovery: the stream ended: %s %s", code.name, text[:200])
            return True
        if text == _LOST_STATUS:
            if self._has_heard:
                # The peer spoke, so it was there: the end of a stream like any other.
                _log.info("discovery: the stream ended while a request was sent")
                return True
            raise XdsError(f"{self._endpoint.address} ended the stream while a request was sent")
        raise XdsError(explained(code, details, self._endpoint.address))

    async def _write(self, call: Any, request: bytes) -> None:
        try:
            async with asyncio.timeout(self._settings.write_seconds):
                await call.write(request)
        except TimeoutError as error:
            raise XdsError(f"{self._endpoint.address} takes no requests") from error
        except asyncio.InvalidStateError:
            # The stream ended meanwhile; reading tells how.
            _log.debug("discovery: the stream ended before an answer")

    async def _read(self, call: Any, stamp: object) -> Any:
        """The next message, EOF, or None when the stream is to be opened again for new roots."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.first_response_seconds
        reading = asyncio.ensure_future(call.read())
        try:
            while True:
                await asyncio.wait((reading,), timeout=self._settings.look_seconds)
                if reading.done():
                    return reading.result()
                if self._endpoint.stamp() != stamp:
                    _log.info("discovery: the roots changed, connecting again")
                    return None
                if not self.is_ready and loop.time() > deadline:
                    missing = ", ".join(self._delta.pending)
                    raise XdsError(f"{self._endpoint.address} sends nothing of {missing}")
        finally:
            if not reading.done():
                await drop(reading)

    async def _apply(self, received: Received) -> Refused:
        """Translate and hand over; what was refused."""
        subscription = self._by_type.get(received.type_url)
        if subscription is None:
            return {}
        updates: dict[str, Any] = {}
        refused: dict[str, str] = {}
        for number, item in enumerate(received.items, 1):
            try:
                updates[item.name] = subscription.decode(item.payload)
            except ResourceError as error:
                refused[item.name] = str(error)
            except Exception:
                _log.exception("discovery: %s cannot be read", item.name)
                refused[item.name] = "internal error"
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        refused |= await self._hand_over(subscription, updates, received.removed)
        self._count(received, refused)
        return refused

    async def _hand_over(
        self, subscription: Subscription, updates: Mapping[str, Any], removed: Sequence[str]
    ) -> Refused:
        try:
            result = subscription.apply(updates, removed)
            return await result if inspect.isawaitable(result) else result
        except Exception:
            # Ours to repair; the stream must not end for it, or it would come again at once.
            _log.exception("discovery: %s cannot be applied", subscription.type_url)
            return dict.fromkeys(updates, "internal error")

    def _count(self, received: Received, refused: Refused) -> None:
        stats, url = self.stats, received.type_url
        every = {**received.refused, **refused}
        stats.responses[url] = stats.responses.get(url, 0) + 1
        number = len(received.items) + len(received.refused)
        stats.resources[url] = stats.resources.get(url, 0) + number
        stats.removals[url] = stats.removals.get(url, 0) + len(received.removed)
        if every:
            stats.nacks[url] = stats.nacks.get(url, 0) + 1
            shown = list(every.items())[:5]
            _log.warning("discovery: refused %d of %s: %s", len(every), url, shown)
        stats.last_refused[url] = every
