"""Conversions of calls that have one answer and no stream.

Source: spec llm sections 2.10 and 2.13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from sidecar.errors import RequestError
from sidecar.llm.convert.base import Context, Json, StreamConversion


@final
@dataclass(frozen=True, slots=True)
class UnaryConversion:
    """A pair of formats without streams."""

    to_provider: Callable[[Json, Context], Json]
    to_client: Callable[[Json, Context], Json]
    to_error: Callable[[int, bytes], Json]

    def request(self, body: Json, context: Context) -> Json:
        """See Conversion."""
        return self.to_provider(body, context)

    def response(self, body: Json, context: Context) -> Json:
        """See Conversion."""
        return self.to_client(body, context)

    def stream(self, context: Context) -> StreamConversion:
        """Raises: RequestError 400."""
        raise RequestError(400, "InvalidRequest", "this kind of request cannot be streamed")

    def error(self, status: int, body: bytes, context: Context) -> Json:
        """See Conversion."""
        return self.to_error(status, body)
