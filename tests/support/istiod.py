"""An istiod: delta discovery and the certificate service over grpcio, which misbehaves when told.

Everything public may be called from the test's thread; gRPC's own threads do the rest.
"""

from __future__ import annotations

import datetime
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from istio.ca import client as ca
from istio.ca._pb import ca_pb2
from istio.xds import client as xds
from istio.xds._pb import discovery_pb2 as wire
from tests.support.authority import Authority
from tests.support.certificates import Pair

PATIENCE_SECONDS = 20.0
Request = wire.DeltaDiscoveryRequest


@dataclass
class Heard:
    """A request of the client, with the metadata of its stream."""

    request: Request
    metadata: Mapping[str, str]
    stream: int

    @property
    def is_nack(self) -> bool:
        return self.request.HasField("error_detail")

    @property
    def is_first(self) -> bool:
        return not self.request.response_nonce


class _End(Exception):
    """Ends a stream with a status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


@dataclass
class _Stream:
    number: int
    metadata: Mapping[str, str]
    outgoing: queue.Queue[bytes | _End | None] = field(default_factory=queue.Queue)
    told: dict[str, dict[str, str]] = field(default_factory=dict)
    """Type to what the client holds: name to version."""


class Istiod:
    """`with Istiod() as istiod:`; `address` is what a client is given.

    Knobs: `is_silent` (takes requests and sends nothing), `withheld` (nothing of these types; a
    `put` sends them when they are no more), `token` (wanted of clients), `on_nack`
    ("wait" or "resend": the NACK loop), `certify` (what the CA answers to a request).
    """

    def __init__(self, tls: Pair | None = None, *, authority: Authority | None = None) -> None:
        self.authority = authority or Authority("mesh root")
        self.token: str | None = None
        self.is_silent = False
        self.withheld: set[str] = set()
        self.on_nack = "wait"
        self.certify: Callable[[ca_pb2.IstioCertificateRequest], list[str]] = self.signed
        self.requested: list[ca_pb2.IstioCertificateRequest] = []
        self.heard: list[Heard] = []
        self.streams = 0
        self._resources: dict[str, dict[str, tuple[str, bytes]]] = {}
        self._version = 0
        self._nonce = 0
        self._live: dict[int, _Stream] = {}
        self._changed = threading.Condition()
        self._tls = tls
        self.port = 0
        self._server: grpc.Server | None = None
        self.ca_metadata: list[Mapping[str, str]] = []

    # --- life

    def __enter__(self) -> Istiod:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """On the port it had before, if it had one."""
        limit = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        server = grpc.server(ThreadPoolExecutor(16), options=[*limit, ("grpc.so_reuseport", 0)])
        discovery, method = xds.METHOD[1:].split("/")
        stream = grpc.stream_stream_rpc_method_handler(self._delta)
        certificates, create = ca.METHOD[1:].split("/")
        unary = grpc.unary_unary_rpc_method_handler(
            self._create,
            ca_pb2.IstioCertificateRequest.FromString,
            ca_pb2.IstioCertificateResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(discovery, {method: stream}),
                grpc.method_handlers_generic_handler(certificates, {create: unary}),
            )
        )
        where = f"127.0.0.1:{self.port}"
        if self._tls is None:
            self.port = server.add_insecure_port(where)
        else:
            pair = (self._tls.key.encode(), self._tls.cert.encode())
            self.port = server.add_secure_port(where, grpc.ssl_server_credentials([pair]))
        server.start()
        self._server = server

    def stop(self) -> None:
        """GOAWAY and the end of every stream."""
        self.end_streams()
        if self._server is not None:
            self._server.stop(0).wait(PATIENCE_SECONDS)
            self._server = None

    @property
    def address(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    # --- discovery

    def put(self, type_url: str, resources: Mapping[str, bytes]) -> None:
        """Set resources (name to message), and push what changed."""
        with self._changed:
            self._version += 1
            version = str(self._version)
            kept = self._resources.setdefault(type_url, {})
            kept.update({name: (version, payload) for name, payload in resources.items()})
        self._push(type_url)

    def remove(self, type_url: str, *names: str) -> None:
        with self._changed:
            for name in names:
                del self._resources[type_url][name]
        self._push(type_url)

    def resend(self, type_url: str) -> None:
        """Everything once more, though nothing changed."""
        for stream in self._streams():
            stream.told[type_url] = {}
        self._push(type_url)

    def send_raw(self, message: bytes) -> None:
        """Octets in the place of a response."""
        for stream in self._streams():
            stream.outgoing.put(message)

    def end_streams(
        self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "the test says so"
    ) -> None:
        for stream in self._streams():
            stream.outgoing.put(_End(code, details))

    def versions(self, type_url: str) -> dict[str, str]:
        return {name: version for name, (version, _) in self._resources.get(type_url, {}).items()}

    def wait(self, predicate: Callable[[Heard], bool], count: int = 1) -> list[Heard]:
        """The first `count` requests that fit, now or soon; blocks."""
        with self._changed:

            def found() -> list[Heard]:
                return [one for one in self.heard if predicate(one)]

            if not self._changed.wait_for(lambda: len(found()) >= count, PATIENCE_SECONDS):
                raise AssertionError(f"{len(found())} of {count} requests came: {self.heard}")
            return found()[:count]

    def wait_streams(self, count: int) -> None:
        """Until `count` streams were opened, all told; blocks."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.streams >= count, PATIENCE_SECONDS):
                raise AssertionError(f"{self.streams} of {count} streams were opened")

    def _streams(self) -> list[_Stream]:
        with self._changed:
            return list(self._live.values())

    def _delta(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        metadata = dict(context.invocation_metadata())
        if self.token is not None and metadata.get("authorization") != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "authentication failure")
        with self._changed:
            self.streams += 1
            stream = _Stream(self.streams, metadata)
            self._live[stream.number] = stream
            self._changed.notify_all()
        context.add_callback(lambda: stream.outgoing.put(None))
        threading.Thread(target=self._hear, args=(stream, requests), daemon=True).start()
        try:
            while (message := stream.outgoing.get()) is not None:
                if isinstance(message, _End):
                    if message.code is grpc.StatusCode.OK:
                        return
                    context.abort(message.code, message.details)
                yield message
        finally:
            with self._changed:
                del self._live[stream.number]

    def _hear(self, stream: _Stream, requests: Iterator[bytes]) -> None:
        try:
            for data in requests:
                self._take(stream, Request.FromString(data))
        except grpc.RpcError:
            return  # the stream is over

    def _take(self, stream: _Stream, request: Request) -> None:
        heard = Heard(request, stream.metadata, stream.number)
        url = request.type_url
        if heard.is_first:
            stream.told[url] = dict(request.initial_resource_versions)
            self._tell(stream, url, is_first=True)
        elif heard.is_nack and self.on_nack == "resend":
            stream.told[url] = {}
            self._tell(stream, url)
        # Last: whoever waits for it may change what is answered.
        with self._changed:
            self.heard.append(heard)
            self._changed.notify_all()

    def _push(self, type_url: str) -> None:
        for stream in self._streams():
            if type_url in stream.told:
                self._tell(stream, type_url)

    def _tell(self, stream: _Stream, url: str, *, is_first: bool = False) -> None:
        if self.is_silent or url in self.withheld:
            return
        with self._changed:
            told, kept = stream.told[url], dict(self._resources.get(url, {}))
            self._nonce += 1
            response = wire.DeltaDiscoveryResponse(type_url=url, nonce=str(self._nonce))
            response.removed_resources.extend(name for name in told if name not in kept)
            for name, (version, payload) in kept.items():
                if told.get(name) != version:
                    one = response.resources.add(name=name, version=version)
                    one.resource.type_url, one.resource.value = url, payload
            stream.told[url] = {name: version for name, (version, _) in kept.items()}
        if is_first or response.resources or response.removed_resources:
            stream.outgoing.put(response.SerializeToString())

    # --- certificates

    def _create(self, request: ca_pb2.IstioCertificateRequest, context: Any) -> Any:
        metadata = dict(context.invocation_metadata())
        with self._changed:
            self.requested.append(request)
            self.ca_metadata.append(metadata)
            self._changed.notify_all()
        if self.token is not None and metadata.get("authorization") != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "authentication failure")
        try:
            return ca_pb2.IstioCertificateResponse(cert_chain=self.certify(request))
        except _End as end:
            context.abort(end.code, end.details)

    @staticmethod
    def refusal(code: grpc.StatusCode, details: str) -> Exception:
        """To be raised by `certify`."""
        return _End(code, details)

    def signed(
        self,
        request: ca_pb2.IstioCertificateRequest,
        *,
        start: datetime.datetime | None = None,
        name: str | None = None,
    ) -> list[str]:
        """What a good CA answers: leaf and roots. `name`: for whom, other than was asked."""
        csr = x509.load_pem_x509_csr(request.csr.encode())
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        value = names.value
        if name is not None:
            value = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)])
        begin = start or datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=2)
        life = datetime.timedelta(seconds=request.validity_duration)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.authority.name)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + life)
            .add_extension(value, critical=True)
            .sign(self.authority.key, hashes.SHA256())
        )
        return [leaf.public_bytes(Encoding.PEM).decode(), self.authority.root]
