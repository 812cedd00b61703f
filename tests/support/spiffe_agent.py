"""A SPIFFE agent: the Workload API on a Unix socket, which gives what a test puts."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from istio.ca._pb import spiffe_pb2 as wire
from istio.ca.spiffe import METHOD
from tests.hbone.pki import Leaf, Pki

Answer = wire.X509SVIDResponse


def svid(pki: Pki, leaf: Leaf, name: str) -> wire.X509SVID:
    chain = x509.load_pem_x509_certificates(leaf.chain)
    roots = x509.load_pem_x509_certificates(pki.root_pem)
    key = load_pem_private_key(leaf.key, None)
    return wire.X509SVID(
        spiffe_id=name,
        x509_svid=b"".join(one.public_bytes(Encoding.DER) for one in chain),
        x509_svid_key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        bundle=b"".join(one.public_bytes(Encoding.DER) for one in roots),
    )


def federated(bundles: Mapping[str, Pki]) -> dict[str, bytes]:
    """Those of other trust domains, as an answer has them."""
    return {
        f"spiffe://{domain}": pki.root.public_bytes(Encoding.DER) for domain, pki in bundles.items()
    }


class Agent:
    """`put` an answer for the call there is, or the next; a status, or None for OK, ends it."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix://{path}"
        self.metadata: list[dict[str, str]] = []
        self._waiting: list[Answer | grpc.StatusCode | None] = []
        self._call: queue.Queue[Answer | grpc.StatusCode | None] | None = None
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(4))
        service, method = METHOD[1:].split("/")
        handler = grpc.unary_stream_rpc_method_handler(
            self._fetch, wire.X509SVIDRequest.FromString, Answer.SerializeToString
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()

    def put(self, answer: Answer | grpc.StatusCode | None) -> None:
        with self._lock:
            self._put(answer)

    def _put(self, answer: Answer | grpc.StatusCode | None) -> None:
        if self._call is None:
            self._waiting.append(answer)
            return
        self._call.put(answer)
        if not isinstance(answer, Answer):
            self._call = None

    def _fetch(self, _request: Any, context: Any) -> Iterator[Answer]:
        call: queue.Queue[Answer | grpc.StatusCode | None] = queue.Queue()
        with self._lock:
            self.metadata.append(dict(context.invocation_metadata()))
            waiting, self._waiting, self._call = self._waiting, [], call
            for answer in waiting:
                self._put(answer)
        if not context.add_callback(lambda: self._left(call)):
            self._left(call)
        while isinstance(answer := call.get(), Answer):
            yield answer
        if answer is not None:
            context.abort(answer, "the agent says no")

    def _left(self, call: queue.Queue[Answer | grpc.StatusCode | None]) -> None:
        with self._lock:
            call.put(None)
            if self._call is call:
                self._call = None  # what is put from now on is for the next one

    def stop(self) -> None:
        self.put(None)
        self._server.stop(0).wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
