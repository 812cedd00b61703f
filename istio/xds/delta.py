"""The delta protocol of xDS, one stream after the other: octets in, events and requests out.

Source: spec istio 3.4; https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, section
"Incremental xDS".

Design note
-----------
A subscription is wildcard: it names nothing and gets everything of its type. Its states:

    unasked ──begin──► asked ──receive──► answered ──settle──► settled ──receive──► answered …

`begin` is called when a stream opens and puts every subscription into `asked`; what was settled
before stays known. Who makes each transition: the client, which owns the stream. Invariants:

1. `versions[name]` is the version of what the consumer holds under `name`. A refused resource
   leaves it as it was: an older one is still held, and its version, which is not the control
   plane's any more, has it sent again, or removed, after a reconnect.
2. Each response is answered once, by `settle`, with its own nonce; a refusal lists what was refused
   and why, and the rest was applied (partial apply).
3. A response of an earlier stream is applied and recorded, and not answered: its nonce means
   nothing on this one.
4. A type is ready when one of its responses was settled. It stays so over reconnects, since what
   was there is still held. One that listed bad resources counts: a fault in one must not keep the
   gateway from serving the others.
5. What stands in for a refused resource must be taken back when that is gone. So its name is told
   after a reconnect, with a version that nothing has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from istio.errors import XdsError
from istio.xds._pb import discovery_pb2 as wire

_INVALID_ARGUMENT: Final = 3
_MAX_REASON_CHARS: Final = 512
_MAX_ERROR_CHARS: Final = 16384
"""Of a whole refusal: the control plane logs it."""


@final
@dataclass(frozen=True, slots=True)
class Node:
    """Who asks: `id` and `metadata` as istiod reads them (spec istio 3.3)."""

    id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Item:
    """One resource of a response. `payload`: the octets of its message."""

    name: str
    version: str
    payload: bytes = field(repr=False)


@final
@dataclass(frozen=True, slots=True)
class Received:
    """A response to be applied, removals first, and then given to `settle`.

    `refused`: what was found wrong already, name to reason; `items` are the others, each name once.
    """

    type_url: str
    items: tuple[Item, ...]
    removed: tuple[str, ...]
    refused: Mapping[str, str]
    nonce: str
    stream: int


@final
class _Subscription:
    __slots__ = ("is_ready", "stands_in", "versions")

    def __init__(self, *, stands_in: bool) -> None:
        self.versions: dict[str, str] = {}
        self.is_ready = False
        self.stands_in = stands_in


@final
class Delta:
    """Every subscription of one client. See the module's design note; no I/O, no clock."""

    __slots__ = ("_node", "_stream", "_subscriptions")

    def __init__(
        self, node: Node, type_urls: Sequence[str], stand_ins: Collection[str] = ()
    ) -> None:
        """`type_urls`: what to subscribe to, in the order of the first requests. `stand_ins`: of
        these types the consumer holds something in the place of what it refuses."""
        self._node = wire.Node(id=node.id)
        ParseDict(dict(node.metadata), self._node.metadata)
        self._subscriptions = {
            type_url: _Subscription(stands_in=type_url in stand_ins) for type_url in type_urls
        }
        self._stream = 0

    def begin(self) -> list[bytes]:
        """A stream opened: its first requests, one a type, saying what is held already."""
        self._stream += 1
        requests = (
            wire.DeltaDiscoveryRequest(
                node=self._node,
                type_url=type_url,
                initial_resource_versions=subscription.versions,
            )
            for type_url, subscription in self._subscriptions.items()
        )
        return [request.SerializeToString() for request in requests]

    def receive(self, message: bytes) -> Received:
        """One message of the stream. Raises: XdsError, after which the stream must end."""
        try:
            response = wire.DeltaDiscoveryResponse.FromString(message)
        except DecodeError as error:
            raise XdsError(
                "the control plane sent octets that are no discovery response"
            ) from error
        if not response.nonce:
            # An answer without a nonce would be read as a new request.
            raise XdsError(
                f"the control plane sent a response of {response.type_url} without nonce"
            )
        refused: dict[str, str] = {}
        items: dict[str, Item] = {}
        is_known = response.type_url in self._subscriptions
        for one in response.resources:
            reason = _fault(one, response.type_url) if is_known else "the type was not asked for"
            # Of several with one name the last counts, whether it is good or bad.
            items.pop(one.name, None)
            refused.pop(one.name, None)
            if reason:
                refused[one.name] = reason
            else:
                items[one.name] = Item(one.name, one.version, one.resource.value)
        return Received(
            response.type_url,
            tuple(items.values()),
            tuple(dict.fromkeys(response.removed_resources)) if is_known else (),
            refused,
            response.nonce,
            self._stream,
        )

    def settle(self, received: Received, refused: Mapping[str, str]) -> bytes | None:
        """It was applied but for `refused` (name to reason): the request that says so.

        None when the stream it came by is gone.
        """
        subscription = self._subscriptions.get(received.type_url)
        if subscription is not None:
            _record(subscription, received, refused)
            subscription.is_ready = True
        if received.stream != self._stream:
            return None
        answer = wire.DeltaDiscoveryRequest(
            type_url=received.type_url, response_nonce=received.nonce
        )
        faults = {**received.refused, **refused}
        if faults or subscription is None:
            answer.error_detail.code = _INVALID_ARGUMENT
            answer.error_detail.message = _listed(faults) or "the type was not asked for"
        return bytes(answer.SerializeToString())

    @property
    def pending(self) -> tuple[str, ...]:
        """The types of which nothing was settled yet."""
        return tuple(url for url, one in self._subscriptions.items() if not one.is_ready)

    def held(self, type_url: str) -> Mapping[str, str]:
        """Name to version of what the consumer holds. Not to be changed."""
        return self._subscriptions[type_url].versions


def _fault(resource: wire.Resource, type_url: str) -> str:
    """Why one resource cannot even be looked at, or ""."""
    if not resource.name:
        return "it has no name"
    if not resource.HasField("resource"):
        return "it carries no data"
    if resource.resource.type_url != type_url:
        return f"it is of type {resource.resource.type_url}"
    return ""


def _record(subscription: _Subscription, received: Received, refused: Mapping[str, str]) -> None:
    """Invariants 1 and 5."""
    versions = subscription.versions
    for name in received.removed:
        versions.pop(name, None)
    for item in received.items:
        if item.name not in refused:
            versions[item.name] = item.version
        elif subscription.stands_in:
            versions[item.name] = ""


def _listed(faults: Mapping[str, str]) -> str:
    """`name: reason; …`, cut where it would be too long."""
    parts: list[str] = []
    room = _MAX_ERROR_CHARS
    for count, (name, reason) in enumerate(faults.items()):
        part = f"{name or '<unnamed>'}: {reason}"[:_MAX_REASON_CHARS]
        if len(part) > room:
            return "; ".join([*parts, f"and {len(faults) - count} more"])
        room -= len(part) + 2
        parts.append(part)
    return "; ".join(parts)
