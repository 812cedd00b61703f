"""What the gRPC services of the tests have in common: a port, a record of questions, an end."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from tests.support.certificates import Pair

SECONDS = 20.0
Q = TypeVar("Q")


class GrpcServer(Generic[Q]):
    """`with` one serves on `address`. `Q`: what it records of a call."""

    grace_seconds = 1.0
    """For calls under way at the end."""

    def __init__(
        self,
        service: str,
        methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
        *,
        tls: Pair | None = None,
        path: str = "",
        port: int = 0,
        options: Sequence[tuple[str, int]] = (),
    ) -> None:
        """`path`: of a Unix socket to listen at instead."""
        self._asked: list[Q] = []
        self._changed = threading.Condition()
        self._waiting: set[threading.Event] = set()
        self.cancelled = threading.Event()
        """A call ended before it was answered."""
        self._server = grpc.server(ThreadPoolExecutor(32), options=options)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, dict(methods)),)
        )
        address = f"unix:{path}" if path else f"127.0.0.1:{port}"
        if tls is None:
            self.port = self._server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials([(tls.key.encode(), tls.cert.encode())])
            self.port = self._server.add_secure_port(address, credentials)
        self.address = address if path else f"127.0.0.1:{self.port}"

    def record(self, question: Q) -> None:
        """Keep it for the test."""
        with self._changed:
            self._asked.append(question)
            self._changed.notify_all()

    def hang(self, context: Any) -> None:
        """Until the client gives up, or the server ends."""
        over = threading.Event()
        self._waiting.add(over)
        if context.add_callback(over.set):
            over.wait(SECONDS)
        if not context.is_active():
            self.cancelled.set()

    @property
    def asked(self) -> list[Q]:
        """All since the last `take`."""
        with self._changed:
            return list(self._asked)

    def take(self) -> list[Q]:
        """All since the last call."""
        with self._changed:
            taken, self._asked = self._asked, []
            return taken

    def wait(self, count: int) -> list[Q]:
        """Take them once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._asked) >= count, SECONDS), self._asked
            taken, self._asked = self._asked, []
            return taken

    def stop(self) -> None:
        """GOAWAY to all, no new connection, and wait for the end."""
        for over in self._waiting:
            over.set()
        self._server.stop(self.grace_seconds).wait(SECONDS)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
