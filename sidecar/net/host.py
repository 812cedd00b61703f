"""What an HTTP/1.1 connection asks of others: who accepted it, and who serves it in callbacks.

Source: design section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from sidecar.errors import RequestError
from sidecar.http import h1
from sidecar.http.message import Handler, Request, Response
from sidecar.net.outbox import Outbox
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.telemetry.clock import Clock

if TYPE_CHECKING:
    from sidecar.net.native import H1Server


class DateSource(Protocol):
    """Gives the `date: …CRLF` line, made once a second."""

    def __call__(self) -> bytes:
        """The line, CRLF included."""


class Host(Protocol):
    """What a connection needs of the listener that accepted it."""

    handler: Handler
    settings: HttpSettings
    limits: h1.HeadLimits
    sweeper: Sweeper
    clock: Clock
    scheme: str
    draining: bool
    date: DateSource
    check_authority: Callable[[str], str]

    def opened(self, connection: H1Server) -> None:
        """The connection is ready."""

    def closed(self, connection: H1Server) -> None:
        """The connection is gone; its task has been told."""

    def refused(self, connection: H1Server, error: RequestError) -> None:
        """A request was refused before there was a Request to hand on (metrics, access log)."""

    def take_h2(self, connection: H1Server, data: bytes) -> bool:
        """The peer speaks HTTP/2 with prior knowledge: take the transport over, or say no."""


class Cancellable(Protocol):
    """A request under way that somebody else serves."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


@runtime_checkable
class Direct(Protocol):
    """Serves requests in callbacks, without the connection's task."""

    outbox: Outbox

    def start(
        self, request: Request, reply: Callable[[Response], None], again: Callable[[], None]
    ) -> Cancellable | None:
        """Begin, or give None: then the handler must serve it.

        `reply(response)` is called once, or `again()` when the handler has to serve it after all.
        """
