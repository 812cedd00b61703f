"""What this process last saw of slots that it uses again and again: neither checked nor cut anew.

A slot whose octets are, one by one, those that this process has checked or written itself says what
they said then: comparing them takes a tenth of what the checksum (T4) and the cutting take. Nothing
is changed that was not compared under the stripe's lock (T1), so that whatever others do with a
slot (change it, free it, put another key in its place, damage it) is found before it is used. What
only judges may compare without it (R5 in `shm.rates`), until the lock was not to be had (`settle`).

Source: design section 5. Invariants T1 and T4 are those of `shm.stripe`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar, final

from shm.stripe import Stripe
from shm.table import HashTable

_MOST: Final = 4096
"""Each takes half a kilobyte, that of a budget one."""
_NOWHERE: Final = slice(0, 0)
_UNSEEN: Final = b"unseen"
"""Not what is read from nowhere."""


class Seen:
    """The slot of one key. `raw` is what it held when the fields of who derives were read of it."""

    __slots__ = ("key", "offset", "raw", "stripe", "where")

    def __init__(self, key: bytes, stripe: Stripe) -> None:
        self.key = key
        self.stripe = stripe
        self.where = _NOWHERE
        self.offset = b""
        """Of the slot, as undo images have it."""
        self.raw = _UNSEEN

    def find(self) -> bytes:
        """Look for the key's slot and check it: what it holds, b"" when there is none.

        The stripe is locked. The caller cuts what it gets, and only then puts it in `raw`.
        """
        stripe = self.stripe
        self.raw = _UNSEEN
        at, raw = stripe.get(self.key)
        if raw and at != self.where.start:
            self.where, self.offset = stripe.place_at(at)
        return raw

    def settle(self, code: int) -> None:
        """As `Stripe.settle`, for who charges. Raises: LockBrokenError, LockTimeoutError.

        What cannot be charged must not be given by what was seen either: it is not seen then.
        """
        raw, self.raw = self.raw, _UNSEEN
        self.stripe.settle(code)
        self.raw = raw


S = TypeVar("S", bound=Seen)


@final
class SeenSlots(dict[bytes, S], Generic[S]):
    """By key, made when they are asked for by subscript; bounded.

    They are kept from a key's second use on: keys that do not come again push nobody out.
    """

    __slots__ = ("_make", "_table")

    def __init__(self, make: Callable[[bytes, Stripe], S], table: HashTable) -> None:
        super().__init__()
        self._make = make
        self._table = table

    def __missing__(self, key: bytes) -> S:
        table = self._table
        made = self._make(key, table.stripe(key))
        if key in table.hints:
            if len(self) >= _MOST:
                self.clear()
            self[key] = made
        return made
