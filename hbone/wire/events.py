"""What happened on an HBONE connection; all of it values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from hbone.wire.connect import ConnectAnswer, ConnectRequest


@final
@dataclass(frozen=True, slots=True)
class SettingsReceived:
    """The peer's settings are known: a client may open tunnels. Said once."""


@final
@dataclass(frozen=True, slots=True)
class ConnectReceived:
    """A client wants a tunnel (server only)."""

    stream_id: int
    request: ConnectRequest


@final
@dataclass(frozen=True, slots=True)
class ConnectRejected:
    """A request broke the rules and was answered already (server only); 0: it was reset."""

    stream_id: int
    status: int
    reason: str


@final
@dataclass(frozen=True, slots=True)
class AnswerReceived:
    """A server's final answer (client only)."""

    stream_id: int
    answer: ConnectAnswer


@final
@dataclass(frozen=True, slots=True)
class DataReceived:
    """Octets of a tunnel, each to be passed to `Connection.consumed` once, come what may."""

    stream_id: int
    data: bytes


@final
@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer sends no more on this tunnel; we still may."""

    stream_id: int


@final
@dataclass(frozen=True, slots=True)
class StreamReset:
    """The tunnel is no more. `is_unprocessed`: the peer never looked at it."""

    stream_id: int
    code: int
    is_unprocessed: bool = False


@final
@dataclass(frozen=True, slots=True)
class WindowOpened:
    """More may be sent on this stream, 0 for any."""

    stream_id: int


@final
@dataclass(frozen=True, slots=True)
class PeerDraining:
    """GOAWAY: no new tunnels here; those that it gave up have their StreamReset."""

    code: int


Event = (
    SettingsReceived
    | ConnectReceived
    | ConnectRejected
    | AnswerReceived
    | DataReceived
    | StreamEnded
    | StreamReset
    | WindowOpened
    | PeerDraining
)
