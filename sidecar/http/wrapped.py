"""What bodies have in common that stand over another one. No I/O of its own.

Source: sidecar.http.message.Body.
"""

from __future__ import annotations

from sidecar.http.headers import Headers
from sidecar.http.message import Body


class WrappedBody:
    """A body over `_source`, which the subclass sets as it is made, with `length`."""

    __slots__ = ("_source", "length")

    _source: Body
    length: int | None

    @property
    def trailers(self) -> Headers | None:
        """Those of the source."""
        return self._source.trailers

    @trailers.setter
    def trailers(self, value: Headers | None) -> None:
        self._source.trailers = value
