"""A relay before a server that cuts connections off in the middle of what the server says."""

from __future__ import annotations

import contextlib
import socket
import threading


class Cut:
    """Listens at `port`, passes octets both ways to the port behind; ends a connection when the
    server has said `after_bytes` on it, of the first `connections` ones."""

    def __init__(self, to_port: int, after_bytes: int, connections: int = 1) -> None:
        self._to_port = to_port
        self._after_bytes = after_bytes
        self._left = connections
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Cut:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to_port))
            except OSError:
                return
            self._sockets += [client, server]
            budget = self._after_bytes if self._left > 0 else None
            self._left -= 1
            threading.Thread(target=self._pass, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, budget), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, budget: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if budget is not None and len(data) >= budget:
                    sink.sendall(data[:budget])
                    self.cuts += 1
                    break
                sink.sendall(data)
                budget = None if budget is None else budget - len(data)
        for one in (source, sink):
            # The other direction's thread may be reading: closing alone would not wake it.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
