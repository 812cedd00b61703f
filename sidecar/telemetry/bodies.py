"""Bodies on record: what expressions of logs, metrics and traces read once they have gone by.

Each piece is copied as its reader takes it; none is held back, waited for or changed. Recorded are
the octets as they pass the client's connection, content coding and all: of a request what the
client sent, of a response what it got. A body past the limit, or one that was cut, leaves its
beginning.

Source: spec/config.md sections 7.2 (`body`, `bodyPrefix`) and 7.6.
"""

from __future__ import annotations

from typing import Final, Literal, final

from sidecar.cel.values import Unavailable
from sidecar.http.message import Body, FixedBody, Request
from sidecar.http.wrapped import WrappedBody

STATE: Final = "recordedBodies"
"""Where `request.state` has its Bodies."""
ROOM_BYTES: Final = 64 * 1024 * 1024
"""Of a worker, over all that is on record at a time."""

Fate = Literal["whole", "truncated", "unread", "withheld"]
"""`truncated`: longer than the limit, or there was no room. `unread`: not all of it came, or was
wanted. `withheld`: a guard had something to say about it."""

_REASONS: Final[dict[Fate, str]] = {
    "whole": "",
    "truncated": "the body was larger than what is recorded of one",
    "unread": "the body was not read to its end",
    "withheld": "a guard masked or refused what the body says",
}


@final
class Room:
    """What the recordings of a worker may take together."""

    __slots__ = ("free_bytes",)

    def __init__(self, free_bytes: int = ROOM_BYTES) -> None:
        self.free_bytes = free_bytes


@final
class Recording:
    """What is kept of one body. It gives its room back when it is forgotten."""

    __slots__ = ("_data", "_limit_bytes", "_room", "_taken_bytes", "fate")

    def __init__(self, limit_bytes: int, room: Room) -> None:
        self._data: bytes | bytearray = b""
        self._limit_bytes = limit_bytes
        self._room = room
        self._taken_bytes = 0
        self.fate: Fate = "unread"

    def __del__(self) -> None:
        # However the exchange ends, and also where it is begun anew: room follows the object.
        self._room.free_bytes += self._taken_bytes

    def take_whole(self, data: bytes) -> None:
        """All of a body, which is at hand: it is kept as it is, or as much of it as may be."""
        kept = self._fitting(data)
        self._data = kept
        self.fate = "whole" if kept is data else "truncated"

    def feed(self, data: bytes) -> None:
        """The next piece."""
        if self.fate != "unread":
            return
        kept = self._fitting(data)
        if kept is not data:
            self.fate = "truncated"
        if type(self._data) is not bytearray:
            # No list of pieces: a body that comes octet by octet would weigh fifty times its size.
            self._data = bytearray(self._data)
        self._data += kept

    def end(self) -> None:
        """That was all."""
        if self.fate == "unread":
            self.fate = "whole"

    def withhold(self) -> None:
        """Forget it: what it says is not for logs."""
        self._data = b""
        self.fate = "withheld"

    def _fitting(self, data: bytes) -> bytes:
        room = self._room
        free = min(self._limit_bytes - self._taken_bytes, room.free_bytes)
        if len(data) > free:
            data = data[: max(free, 0)]
        self._taken_bytes += len(data)
        room.free_bytes -= len(data)
        return data

    def fields(self) -> dict[str, object]:
        """`body` and `bodyPrefix`, as expressions read them."""
        if self.fate == "withheld":
            withheld = Unavailable(_REASONS["withheld"])
            return {"body": withheld, "bodyPrefix": withheld}
        data = bytes(self._data)
        if self.fate == "whole":
            return {"body": data, "bodyPrefix": data}
        return {"body": Unavailable(_REASONS[self.fate]), "bodyPrefix": data}


@final
class RecordedBody(WrappedBody):
    """A body that is put on record as its reader takes it. See Body."""

    __slots__ = ("_left_bytes", "_recording")

    def __init__(self, source: Body, recording: Recording) -> None:
        self._source = source
        self._recording = recording
        self.length = source.length
        # Who was promised a length does not ask again at its end.
        self._left_bytes = -1 if source.length is None else source.length

    def read_nowait(self) -> bytes | None:
        """See Body."""
        data = self._source.read_nowait()
        if data is not None:
            self._note(data)
        return data

    async def read(self) -> bytes:
        """See Body."""
        data = await self._source.read()
        self._note(data)
        return data

    def _note(self, data: bytes) -> None:
        recording = self._recording
        if not data:
            recording.end()
            return
        recording.feed(data)
        self._left_bytes -= len(data)
        if self._left_bytes == 0:
            recording.end()

    def close(self) -> None:
        """See Body."""
        self._source.close()


@final
class Bodies:
    """The recordings of one exchange; None of a direction that no expression names, and of tunnels,
    which have no bodies."""

    __slots__ = ("request", "response")

    def __init__(self) -> None:
        self.request: Recording | None = None
        self.response: Recording | None = None


@final
class Recorder:
    """What the expressions of one configuration want on record."""

    __slots__ = ("_limit_bytes", "_room", "wants_request", "wants_response")

    def __init__(
        self, limit_bytes: int, room: Room, *, wants_request: bool, wants_response: bool
    ) -> None:
        """`limit_bytes`: of one body, `frontendPolicies.http.maxBufferSize`."""
        self._limit_bytes = limit_bytes
        self._room = room
        self.wants_request = wants_request
        self.wants_response = wants_response

    def recorded(self, body: Body) -> tuple[Body, Recording]:
        """The body to be read in the place of this one, and what will be kept of it."""
        recording = Recording(self._limit_bytes, self._room)
        if type(body) is FixedBody:
            # It stays what it is: much goes a shorter way with it.
            recording.take_whole(body.unread)
            return body, recording
        if body.length == 0:
            recording.end()
        return RecordedBody(body, recording), recording


def bodies_of(request: Request) -> Bodies | None:
    """What is on record of an exchange, if anything is."""
    found = request.state.get(STATE)
    return found if isinstance(found, Bodies) else None


def withhold_request(request: Request) -> None:
    """A guard masked or refused what the client said: its own words are not for logs."""
    bodies = bodies_of(request)
    if bodies is not None and bodies.request is not None:
        bodies.request.withhold()


__all__ = [
    "ROOM_BYTES",
    "Bodies",
    "RecordedBody",
    "Recorder",
    "Recording",
    "Room",
    "bodies_of",
    "withhold_request",
]
