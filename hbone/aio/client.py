"""The client's side of one HBONE connection: tunnels asked for and answered.

Source: spec istio 1.3, 1.5 and 1.7.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Final, final

from hbone.aio.endpoint import Endpoint
from hbone.aio.link import State
from hbone.aio.peer import Accepts
from hbone.aio.settings import Settings
from hbone.aio.tunnel import Tunnel
from hbone.errors import (
    ConnectionLostError,
    ConnectTimeoutError,
    HboneError,
    TunnelRefusedError,
    TunnelResetError,
    TunnelUnprocessedError,
)
from hbone.wire.authority import Authority
from hbone.wire.connect import ConnectAnswer, Field
from hbone.wire.events import AnswerReceived, StreamReset

_OK: Final = 200


@final
class ClientEndpoint(Endpoint):
    """`on_gone(endpoint)` is called once, when it takes no new tunnels any more."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        settings: Settings,
        accepts: Accepts,
        on_gone: Callable[[ClientEndpoint], None],
        *,
        not_after: float,
    ) -> None:
        super().__init__(loop, context, settings, accepts, is_client=True, not_after=not_after)
        self.used = loop.time()
        """Loop time of the last tunnel asked for."""
        self.idle_timer: asyncio.TimerHandle | None = None
        """The pool's; cancelled when the connection is gone, or it would be kept until then."""
        self._ready: asyncio.Future[None] = loop.create_future()
        self._answers: dict[int, asyncio.Future[ConnectAnswer]] = {}
        self._on_gone: Callable[[ClientEndpoint], None] | None = on_gone

    @property
    def has_room(self) -> bool:
        """Whether a tunnel can be asked for now."""
        return self.state is State.READY and self._connection.room > 0

    async def wait_ready(self) -> None:
        """Until tunnels can be asked for. Raises: HboneError."""
        await asyncio.shield(self._ready)

    async def open(self, authority: Authority, headers: Iterable[Field] = ()) -> Tunnel:
        """Ask for a tunnel.

        Raises: TunnelUnprocessedError (may be tried elsewhere), TunnelRefusedError,
        TunnelResetError, ConnectTimeoutError, ConnectionLostError, MalformedError.
        """
        if self.state is not State.READY:
            raise TunnelUnprocessedError("the connection takes no more tunnels")
        self.used = self.loop.time()
        stream_id = self._connection.open(authority, headers)
        tunnel = self.tunnels[stream_id] = Tunnel(self, stream_id, self.peer, authority)
        answered = self._answers[stream_id] = self.loop.create_future()
        self.flush_soon()
        seconds = self._settings.answer_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                answer = await answered
            if answer.status != _OK:
                raise TunnelRefusedError(answer.status)
        except TimeoutError as error:
            tunnel.abort()
            raise ConnectTimeoutError(f"no answer to CONNECT within {seconds:g} s") from error
        except BaseException:
            tunnel.abort()
            raise
        finally:
            self._answers.pop(stream_id, None)
        tunnel.headers = answer.headers
        return tunnel

    def on_ready(self) -> None:
        """See Endpoint."""
        if not self._ready.done():
            self._ready.set_result(None)

    def on_answer(self, event: AnswerReceived) -> None:
        """See Endpoint."""
        answered = self._answers.get(event.stream_id)
        if answered is not None and not answered.done():
            answered.set_result(event.answer)

    def on_stream_gone(self, event: StreamReset) -> None:
        """See Endpoint."""
        if event.is_unprocessed:
            self._fail(event.stream_id, TunnelUnprocessedError("the peer took no more tunnels"))
        else:
            self._fail(event.stream_id, TunnelResetError(event.code))

    def on_draining(self) -> None:
        """See Endpoint."""
        self._tell_gone()

    def on_lost(self) -> None:
        """See Endpoint."""
        error = self.error or ConnectionLostError("the connection was closed")
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # whoever waits gets it; nobody need wait
        for stream_id in list(self._answers):
            self._fail(stream_id, error)
        self._tell_gone()

    def drain(self) -> None:
        """See Endpoint."""
        super().drain()
        self._tell_gone()

    def _fail(self, stream_id: int, error: HboneError) -> None:
        answered = self._answers.get(stream_id)
        if answered is not None and not answered.done():
            answered.set_exception(error)

    def _tell_gone(self) -> None:
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None
        on_gone, self._on_gone = self._on_gone, None
        if on_gone is not None:
            on_gone(self)
