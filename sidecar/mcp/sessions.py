"""Sessions of clients: what a session id opens, in whichever worker it comes to.

Source: spec/mcp_a2a.md sections 1.3, 2.6 and 5.2 rows 1 to 4; design section 5 (`sessions`).

The id holds what a session began with (mcp.token); its row in the shared table says whether it
lives, which worker holds what only one can hold, and what has changed since: the ids that servers
gave when they were asked to begin again. An id without a row is served anew when its key is known
beyond this gateway (a restart, another replica), for a day after its making; with a key of this
gateway's own the table knows all sessions there are, so the session has ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, final

import orjson

from shm.errors import ShmError, TableFullError
from shm.sessions import MAX_VALUE_BYTES, NO_PRINCIPAL, NOBODY, Owner, Session, SessionTable
from sidecar.mcp.token import Claims, Sealer, Upstream
from sidecar.mcp.upstream.base import Held
from sidecar.telemetry.clock import Clock

RESUMABLE_SECONDS: Final = 86_400
"""How old an id without a row may be; what is deleted stays deleted for as long."""
_SECOND_NS: Final = 1_000_000_000
HEADER: Final = b"mcp-session-id"


class SessionsFullError(Exception):
    """There is no room for another session."""


@final
@dataclass(slots=True)
class Live:
    """A session that is served."""

    text: str
    """Its id."""
    claims: Claims
    row: Session
    upstreams: dict[str, Upstream]
    """As of now; by the server's name."""

    @property
    def key(self) -> bytes:
        """Of its row."""
        return self.row.key

    @property
    def shown(self) -> str:
        """What stands for it in logs: the id itself would let its reader in."""
        return self.claims.uuid.hex()

    def held(self, name: str) -> Held:
        """What it is held by at a server."""
        at = self.upstreams[name]
        return Held(at.upstream_id, at.version, at.pin)


@final
class Sessions:
    """The sessions of all backends, as a worker sees them."""

    __slots__ = ("_clock", "_is_key_given", "_table", "_ttl_ns", "owner", "sealer")

    def __init__(
        self,
        table: SessionTable,
        sealer: Sealer,
        owner: Owner,
        ttl_seconds: float,
        clock: Clock,
        *,
        is_key_given: bool,
    ) -> None:
        """`is_key_given`: whether others know the key of `sealer` too."""
        self._table = table
        self.sealer = sealer
        self.owner = owner
        self._ttl_ns = max(int(ttl_seconds * _SECOND_NS), _SECOND_NS)
        self._clock = clock
        self._is_key_given = is_key_given

    def begin(
        self,
        uuid: bytes,
        backend: bytes,
        principal: bytes,
        version: str,
        upstreams: tuple[Upstream, ...],
        client: dict[str, Any] | None,
    ) -> Live:
        """A new session. `uuid`: 16 random bytes. Raises: SessionsFullError, ShmError."""
        now = self._clock.time_ns() // _SECOND_NS
        claims = Claims(uuid, backend, principal, version, now, upstreams, client)
        row = self._begun(claims)
        if row is None:
            raise ShmError("a random session id is taken")
        return self._live(self.sealer.seal(claims), claims, row)

    def _begun(self, claims: Claims) -> Session | None:
        table, now = self._table, self._clock.monotonic_ns()
        key = table.key(claims.uuid)
        try:
            return table.begin(key, self.owner, b"", self._ttl_ns, now, claims.principal)
        except TableFullError as error:
            raise SessionsFullError from error

    def open(self, text: str, backend: bytes, principal: bytes) -> Live | None:
        """The session of an id; None when there is none here for this principal.

        Raises: SessionsFullError, ShmError.
        """
        claims = self.sealer.open(text)
        if claims is None or claims.backend != backend or claims.principal != principal:
            return None
        row = self._table.get(self._table.key(claims.uuid), self._clock.monotonic_ns())
        if row is None:
            row = self._resumed(claims)
        if row is None or row.principal != principal:
            return None
        return self._live(text, claims, row)

    def _resumed(self, claims: Claims) -> Session | None:
        age = self._clock.time_ns() // _SECOND_NS - claims.created_seconds
        if not self._is_key_given or not -60 <= age < RESUMABLE_SECONDS:
            return None
        # None again when it was deleted. Two workers may do this at once: one finds the other's.
        row = self._begun(claims)
        if row is None:
            row = self._table.get(self._table.key(claims.uuid), self._clock.monotonic_ns())
        return row

    @staticmethod
    def _live(text: str, claims: Claims, row: Session) -> Live:
        upstreams = {upstream.name: upstream for upstream in claims.upstreams}
        if row.value:
            for name, (upstream_id, pin) in orjson.loads(row.value).items():
                if name in upstreams:
                    changed = replace(upstreams[name], upstream_id=upstream_id, pin=pin)
                    upstreams[name] = changed
        return Live(text, claims, row, upstreams)

    def recalled(self, text: str) -> Live | None:
        """A session of this gateway, to be ended at its servers: it may have ended here. None for
        what no key of ours has sealed. Raises: ShmError."""
        claims = self.sealer.open(text)
        if claims is None:
            return None
        key, now = self._table.key(claims.uuid), self._clock.monotonic_ns()
        row = self._table.peek(key, now) or Session(
            key, 0, now, now, self._ttl_ns, NOBODY, claims.principal, b""
        )
        return self._live(text, claims, row)

    def was_deleted(self, key: bytes) -> bool:
        """Whether it was ended, and not merely left. Raises: ShmError."""
        return self._table.is_deleted(key, self._clock.monotonic_ns())

    def key_of(self, uuid: bytes) -> bytes:
        """Of the row that a session with this uuid has, or will have."""
        return self._table.key(uuid)

    def refresh(self, live: Live) -> bool:
        """Learn what other workers changed; False when it has ended. Raises: ShmError."""
        row = self._table.peek(live.key, self._clock.monotonic_ns())
        if row is None:
            return False
        self._adopt(live, row)
        return True

    def _adopt(self, live: Live, row: Session) -> None:
        now = self._live(live.text, live.claims, row)
        live.row, live.upstreams = now.row, now.upstreams

    def move(self, live: Live, name: str, held: Held) -> bool:
        """Note what the session is held by from now on at a server.

        Of two workers that begin again at once the later one finds the first one's, and `live`
        shows that. False when it has ended, or there is no room for what changed.
        Raises: ShmError.
        """
        upstreams = dict(live.upstreams)
        upstreams[name] = replace(
            upstreams[name], upstream_id=held.upstream_id, version=held.version, pin=held.pin
        )
        began = {one.name: one for one in live.claims.upstreams}
        changed = {
            one.name: (one.upstream_id, one.pin)
            for one in upstreams.values()
            if one != began[one.name]
        }
        value = orjson.dumps(changed)
        if len(value) > MAX_VALUE_BYTES:
            return False
        now = self._clock.monotonic_ns()
        row = self._table.update(live.row, value, now) or self._table.get(live.key, now)
        if row is None:
            return False
        self._adopt(live, row)
        return True

    def claim(self, live: Live) -> bool:
        """Be the owner in the place of a dead one; who was quicker is the owner then.

        False when the session has ended. Raises: ShmError.
        """
        now = self._clock.monotonic_ns()
        row = self._table.claim(live.key, live.row.owner, self.owner, now)
        if row is None:
            return self.refresh(live)
        self._adopt(live, row)
        return True

    def delete(self, live: Live) -> bool:
        """End it; False when it had ended already. Raises: ShmError."""
        ttl = max(self._ttl_ns, RESUMABLE_SECONDS * _SECOND_NS)
        return self._table.delete(live.key, ttl, self._clock.monotonic_ns())

    def is_live(self, key: bytes) -> bool:
        """Whether it would be served; this is no use of it. Raises: ShmError."""
        return self._table.peek(key, self._clock.monotonic_ns()) is not None


def seen_by_servers(key: bytes, principal: bytes, shown: Mapping[str, str]) -> bytes:
    """16 bytes that tell whom servers see: of a principal, and what it shows them by itself."""
    return principal_of(key, {**shown, "": principal.hex()}) if shown else principal


def principal_of(key: bytes, who: Mapping[str, str]) -> bytes:
    """16 bytes that stand for who asks; zeros for nobody. `who`: by kind of proof."""
    if not who:
        return NO_PRINCIPAL
    digest = hashlib.blake2b(digest_size=16, key=key)
    for kind in sorted(who):
        for part in (kind, who[kind]):
            raw = part.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(4, "little"))
            digest.update(raw)
    return digest.digest()
