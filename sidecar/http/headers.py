"""Header lists: `[(name, value)]`, names lower-case bytes, values raw bytes, in wire order.

Source: RFC 9110 section 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

Field = tuple[bytes, bytes]


@final
class Headers(list[Field]):
    """An ordered multimap that is a plain list: iteration and copying cost what a list costs.

    Names handed to its methods are lower-case. A lookup is a scan; a message has few headers.
    """

    __slots__ = ()

    def get(self, name: bytes) -> bytes | None:
        """The first value, or None."""
        for key, value in self:
            if key == name:
                return value
        return None

    def get_all(self, name: bytes) -> list[bytes]:
        """Every value in wire order; empty when absent."""
        return [value for key, value in self if key == name]

    def has(self, name: bytes) -> bool:
        """Whether a field of this name exists."""
        for key, _ in self:  # noqa: SIM110 - a third of the time of any() over a generator
            if key == name:
                return True
        return False

    def add(self, name: bytes, value: bytes) -> None:
        """Append a field, keeping those of the same name."""
        self.append((name, value))

    def set(self, name: bytes, value: bytes) -> None:
        """Put one field in the place of all of this name, at the first one's position."""
        for index, (key, _) in enumerate(self):
            if key == name:
                self[index] = (name, value)
                tail = [item for item in self[index + 1 :] if item[0] != name]
                self[index + 1 :] = tail
                return
        self.append((name, value))

    def remove_all(self, name: bytes) -> None:
        """Drop every field of this name."""
        if self.has(name):
            self[:] = [item for item in self if item[0] != name]

    def remove_any(self, names: Iterable[bytes]) -> None:
        """Drop every field whose name is in `names` (a set when it is more than one or two)."""
        gone = frozenset(names)
        if any(key in gone for key, _ in self):
            self[:] = [item for item in self if item[0] not in gone]

    def copy(self) -> Headers:
        """A new list of the same fields."""
        return Headers(self)


HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Fields that end at each hop (RFC 9110 section 7.6.1, plus the historical ones)."""

UNNOMINATABLE = frozenset(
    (
        b"host",
        b"content-length",
        b"content-type",
        b"authorization",
        b"proxy-authorization",
        b"cookie",
        b"set-cookie",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-client-cert",
        b"x-real-ip",
        b"traceparent",
        b"tracestate",
    )
)
"""Fields that a client cannot have removed by naming them in `Connection` (hardening case 17)."""
