"""MCP sessions of all workers: who owns one, whose it is, and what any worker needs to serve it.

Source: design section 5 (`sessions`).

Slot, 608 bytes, on `shm.table`; written and read under its stripe's lock:

    offset size type  field       unit
    0      16   -     key         keyed hash of the session id; the id itself is nowhere
    16     8    u64   generation  changes of the value, the owner and the state, from 1
    24     8    i64   created     ns, CLOCK_MONOTONIC
    32     8    i64   seen        ns, CLOCK_MONOTONIC; lags by what `get` saves itself, see N4
    40     8    i64   ttl         ns after `seen`
    48     8    u64   owner start ticks since boot
    56     8    u64   owner pid   0: nobody's
    64     4    u32   owner       worker index
    68     1    u8    state       1 live, 2 deleted
    69     1    -     zero
    70     2    u16   value bytes
    72     16   -     principal   keyed hash; zeros: of nobody
    88     4    -     zero
    92     512  -     value       zeros behind it
    604    4    u32   CRC-32

With tags and room a key costs about 700 bytes: 10,000 sessions, 7.6 MB.

States: (absent) → live (`begin`) → deleted (`delete`) → (absent) once `ttl` has passed. A live one
is absent once `ttl` has passed since it was last seen; its slot goes when the room is needed, or by
`expire`. `delete` also makes a deleted one of an absent one.

Invariants:
    N1  `get` gives live sessions only: who forgets to ask for the state fails closed.
    N2  A deleted id does not come back before its ttl has passed: `begin` refuses it, and
        `is_deleted` tells a worker that could make the session anew from a token of the client.
        Its value and principal are wiped at once.
    N3  The owner changes by `claim` alone, which names the owner it expects: of two workers that
        want a dead worker's session one gets it. The value changes by `update` alone, which names
        the state it saw: of two changes at once one is told to look again.
    N4  `get` renews `seen` when it is a 16th of the ttl old, or a second: a session lives for its
        ttl after its last use, less that much.
    N5  A time before `seen` makes nothing expire: a clock set back lengthens lives only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, Self, final

from shm.errors import ShmError, TableFullError, ValueTooLongError
from shm.layout import Kind
from shm.segment import Identity, segment_name, start_ticks
from shm.table import KEY_BYTES, HashTable, KeptTable, Stripe

KIND: Final = Kind("sessions", 1)
MAX_VALUE_BYTES: Final = 512
NO_PRINCIPAL: Final = bytes(16)
_HEAD: Final = struct.Struct("=16sQqqqQQIBxH16s4x")
_VALUE_AT: Final = _HEAD.size
_FIELDS_BYTES: Final = _VALUE_AT + MAX_VALUE_BYTES
_LIVE, _DELETED = 1, 2
_RENEW_NS: Final = 1_000_000_000
_MAX_TTL_NS: Final = 2**61
_new: Final = tuple.__new__

assert _FIELDS_BYTES == 604, "slot design note"


class Owner(NamedTuple):
    """The worker that holds what only one process can hold (a stdio child, an open stream)."""

    pid: int
    start_ticks: int
    """When it started, clock ticks since boot: tells it from a later process of that pid."""
    worker: int
    """Its index."""

    @classmethod
    def of_self(cls, worker: int) -> Self:
        """The calling process as a worker; ask again after a fork."""
        me = Identity.of_self()
        return cls(me.pid, me.start_ticks, worker)

    def is_alive(self) -> bool:
        """Whether that very process still runs. Reads /proc: 20 µs."""
        return self.pid != 0 and start_ticks(self.pid) == self.start_ticks


NOBODY: Final = Owner(0, 0, 0)


class Session(NamedTuple):
    """A session as of one moment."""

    key: bytes
    generation: int
    """Rises by 1 with each change; `seen_ns` is not one."""
    created_ns: int
    seen_ns: int
    ttl_ns: int
    owner: Owner
    principal: bytes
    """16 bytes, a hash that the caller made with `key`; zeros: of nobody."""
    value: bytes
    """≤ 512 bytes; what they mean is the caller's."""
    is_deleted: bool = False


@final
class SessionTable(KeptTable):
    """The table, in the process that made it and, over fork, in its children.

    Times are CLOCK_MONOTONIC in ns. Every method may raise LockTimeoutError and LockBrokenError.
    """

    __slots__ = ("_stripe", "key")

    def __init__(self, table: HashTable) -> None:
        super().__init__(table)
        self._stripe = table.stripe
        self.key = table.key
        """The hash of these parts, 16 bytes: of a session id, or of a principal."""

    @classmethod
    def create(cls, instance: str, keys: int) -> Self:
        """A new table with room for `keys` sessions. Raises: SegmentInUseError, ShmError."""
        name = segment_name(instance, KIND.name)
        return cls(HashTable.create(name, KIND, _FIELDS_BYTES, keys, _is_expired))

    @classmethod
    def open(cls, instance: str, keys: int, *, from_living: bool = False) -> Self:
        """The kept table of an earlier instance, or a new one that is kept; see `RateTable.open`.

        Raises: SegmentInUseError, ShmError.
        """
        name = segment_name(instance, KIND.name, kept=True)
        table = HashTable.open(
            name, KIND, _FIELDS_BYTES, keys, _is_expired, from_living=from_living
        )
        table.move_in()
        return cls(table)

    @classmethod
    def attach(cls, instance: str, *, kept: bool = False) -> Self:
        """A running instance's table. Raises: SegmentMissingError, SegmentRefusedError."""
        name = segment_name(instance, KIND.name, kept=kept)
        return cls(HashTable.attach(name, KIND, _is_expired))

    def begin(
        self,
        key: bytes,
        owner: Owner,
        value: bytes,
        ttl_ns: int,
        now_ns: int,
        principal: bytes = NO_PRINCIPAL,
    ) -> Session | None:
        """A new session; None when the id is taken, be it by a deleted one (N2).

        Raises: TableFullError; ValueTooLongError; ShmError for a ttl or principal out of range.
        """
        _check(value, ttl_ns, principal)
        session = Session(key, 1, now_ns, now_ns, ttl_ns, owner, principal, value)
        with self._stripe(key) as stripe:
            at, raw = _found(stripe, key)
            if raw and not _is_expired(raw, now_ns):
                return None
            self._store(stripe, at, raw, session)
        return session

    def get(self, key: bytes, now_ns: int) -> Session | None:
        """The live session; None when there is none (N1). It counts as used (N4)."""
        with self._stripe(key) as stripe:
            at = stripe.find(key)
            raw = stripe.read(at) if at >= 0 else b""
            if not raw:
                return None
            _, generation, created, seen, ttl, start, pid, worker, state, size, principal = (
                _HEAD.unpack_from(raw)
            )
            age_ns = now_ns - seen
            if state != _LIVE or age_ns >= ttl:
                return None
            if age_ns > _RENEW_NS or age_ns > ttl >> 4:
                session = _unpacked(raw)._replace(seen_ns=now_ns)
                stripe.write(at, raw, _packed(session))
                return session
        owner = _new(Owner, (pid, start, worker))
        value = raw[_VALUE_AT : _VALUE_AT + size]
        return _new(Session, (key, generation, created, seen, ttl, owner, principal, value, False))

    def peek(self, key: bytes, now_ns: int) -> Session | None:
        """The live session, as `get`, but it does not count as used."""
        with self._stripe(key) as stripe:
            found = self._live(stripe, key, now_ns)
        return None if found is None else found[2]

    def is_deleted(self, key: bytes, now_ns: int) -> bool:
        """Whether the id was deleted, and must not be made anew from anything (N2)."""
        with self._stripe(key) as stripe:
            _, raw = _found(stripe, key)
        return bool(raw) and _unpacked(raw).is_deleted and not _is_expired(raw, now_ns)

    def update(self, session: Session, value: bytes, now_ns: int) -> Session | None:
        """Replace the value of a session as `session` shows it; None when it has changed since.

        Raises: ValueTooLongError.
        """
        _check(value, session.ttl_ns, session.principal)
        with self._stripe(session.key) as stripe:
            found = self._live(stripe, session.key, now_ns)
            if found is None or _stamp(found[2]) != _stamp(session):
                return None
            at, raw, current = found
            return self._changed(stripe, at, raw, current._replace(value=value), now_ns)

    def claim(self, key: bytes, expected: Owner, owner: Owner, now_ns: int) -> Session | None:
        """Make `owner` the owner in the place of `expected`; None when it is another's, or gone."""
        with self._stripe(key) as stripe:
            found = self._live(stripe, key, now_ns)
            if found is None or found[2].owner != expected:
                return None
            at, raw, current = found
            return self._changed(stripe, at, raw, current._replace(owner=owner), now_ns)

    def delete(self, key: bytes, ttl_ns: int, now_ns: int) -> bool:
        """End a session and keep its id from coming back for `ttl_ns`; False when none was live.

        An id that is not there is kept from coming back as well.
        Raises: TableFullError, and then it may come back; ShmError for a ttl out of range.
        """
        _check(b"", ttl_ns, NO_PRINCIPAL)
        with self._stripe(key) as stripe:
            at, raw = _found(stripe, key)
            generation, was_live = 0, False
            if raw:
                session = _unpacked(raw)
                generation = session.generation
                was_live = not session.is_deleted and not _is_expired(raw, now_ns)
            gone = Session(
                key, generation + 1, now_ns, now_ns, ttl_ns, NOBODY, NO_PRINCIPAL, b"", True
            )
            self._store(stripe, at, raw, gone)
        return was_live

    def reset(self, key: bytes) -> bool:
        """Forget the id, deleted or not; False when it is not there."""
        return self.table.remove(key)

    def rows(self, now_ns: int) -> Iterator[Session]:
        """All that have not expired, deleted ones too; each consistent in itself."""
        raws = self.table.raws()
        return (_unpacked(raw) for raw in raws if not _is_expired(raw, now_ns))

    def tidy(self, now_ns: int) -> int:
        """Free sessions whose time has passed, in one stripe, each time the next; how many.

        Only for the count of slots in use to mean something: room is made without it. Takes up to
        4 ms, and the lock for 0.3 ms at a time.
        """
        return self.table.expire_next(now_ns)

    def _live(self, stripe: Stripe, key: bytes, now_ns: int) -> tuple[int, bytes, Session] | None:
        at, raw = _found(stripe, key)
        if not raw or _is_expired(raw, now_ns):
            return None
        session = _unpacked(raw)
        return None if session.is_deleted else (at, raw, session)

    def _changed(
        self, stripe: Stripe, at: int, raw: bytes, session: Session, now_ns: int
    ) -> Session:
        seen_ns = max(session.seen_ns, now_ns)
        session = session._replace(generation=session.generation + 1, seen_ns=seen_ns)
        stripe.write(at, raw, _packed(session))
        return session

    def _store(self, stripe: Stripe, at: int, raw: bytes, session: Session) -> None:
        """Over the slot as read, or into a new one. Raises: TableFullError."""
        if raw:
            stripe.write(at, raw, _packed(session))
            return
        at = stripe.place(session.key, session.seen_ns)
        if at < 0:
            raise TableFullError(f"{self.table.name}: no room for another session")
        stripe.insert(at, _packed(session))


def _found(stripe: Stripe, key: bytes) -> tuple[int, bytes]:
    """Where the key's slot is, and what it says; b"": there is none."""
    at = stripe.find(key)
    return (at, stripe.read(at)) if at >= 0 else (at, b"")


def _stamp(session: Session) -> tuple[int, int]:
    """What tells a state of a session from its others, and from those of an earlier one."""
    return session.generation, session.created_ns


def _check(value: bytes, ttl_ns: int, principal: bytes) -> None:
    if len(value) > MAX_VALUE_BYTES:
        raise ValueTooLongError(
            f"session value: {len(value)} bytes, the table holds {MAX_VALUE_BYTES}"
        )
    if not 0 < ttl_ns <= _MAX_TTL_NS:
        raise ShmError(f"session ttl: {ttl_ns} ns is not in 1 to {_MAX_TTL_NS}")
    if len(principal) != KEY_BYTES:
        raise ShmError(f"session principal: {len(principal)} bytes, not the {KEY_BYTES} of a hash")


def _packed(session: Session) -> bytes:
    owner, value = session.owner, session.value
    head = _HEAD.pack(
        session.key,
        session.generation,
        session.created_ns,
        session.seen_ns,
        session.ttl_ns,
        owner.start_ticks,
        owner.pid,
        owner.worker,
        _DELETED if session.is_deleted else _LIVE,
        len(value),
        session.principal,
    )
    return (head + value).ljust(_FIELDS_BYTES, b"\0")


def _unpacked(raw: bytes) -> Session:
    key, generation, created, seen, ttl, start, pid, worker, state, size, principal = (
        _HEAD.unpack_from(raw)
    )
    value = raw[_VALUE_AT : _VALUE_AT + size]
    owner = Owner(pid, start, worker)
    is_deleted = state == _DELETED
    return Session(key, generation, created, seen, ttl, owner, principal, value, is_deleted)


def _is_expired(raw: bytes, now_ns: int) -> bool:
    _, _, _, seen_ns, ttl_ns, *_ = _HEAD.unpack_from(raw)
    return bool(now_ns - seen_ns >= ttl_ns)
