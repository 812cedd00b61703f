"""Steady requests from several connections, and what became of each."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass
class Tally:
    """One connection after another, of one thread."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    resent: int = 0
    local_port: int = 0


class Load:
    """`with Load(port) as load:` asks for `/` until the block ends.

    A kept connection that the gateway ends between two requests is opened again and the request
    sent again, as any client does. With `fresh`, each request has a connection of its own, and
    nothing is sent again.
    """

    def __init__(
        self, port: int, connections: int = 8, *, fresh: bool = False, pause: float = 0.002
    ) -> None:
        self._port = port
        self._fresh = fresh
        self._pause = pause
        self._stop = threading.Event()
        self.tallies = [Tally() for _ in range(connections)]
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in self.tallies]

    @property
    def answered(self) -> int:
        return sum(one.answered for one in self.tallies)

    @property
    def failures(self) -> list[str]:
        return [text for one in self.tallies for text in one.failures]

    def wait_answered(self, more: int, seconds: float = 20.0) -> None:
        """Until so many more were answered, and each connection has been once."""
        wanted = self.answered + more
        until = time.monotonic() + seconds
        while self.answered < wanted or not all(one.answered for one in self.tallies):
            assert time.monotonic() < until, (self.answered, wanted, self.failures)
            time.sleep(0.005)

    def _run(self, tally: Tally) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.wait(self._pause):
            is_kept = connection is not None
            try:
                connection = connection or self._connect(tally)
                status, closes = self._ask(connection)
            except (OSError, http.client.HTTPException) as error:
                if connection is not None:
                    connection.close()
                connection = None
                ended = isinstance(
                    error, (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
                )
                if is_kept and ended and not self._fresh:
                    tally.resent += 1
                else:
                    tally.failures.append(repr(error))
                continue
            if status == 200:
                tally.answered += 1
            else:
                tally.failures.append(f"status {status}")
            if closes or self._fresh:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _connect(self, tally: Tally) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        connection.connect()
        sock: socket.socket = connection.sock
        tally.local_port = sock.getsockname()[1]
        return connection

    def _ask(self, connection: http.client.HTTPConnection) -> tuple[int, bool]:
        connection.request("GET", "/", headers={"host": "h.test"})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.will_close

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every connection; the tallies are final then."""
        self._stop.set()
        with contextlib.suppress(RuntimeError):  # never started
            for thread in self._threads:
                thread.join()
