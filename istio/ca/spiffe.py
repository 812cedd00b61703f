"""Certificates of the SPIFFE Workload API, which an agent on the same machine serves.

The agent pushes each new certificate over one stream. Bundles of federated trust domains stay
beside our own roots: put among them they could vouch for our own trust domain too. Revocation
lists are not used, which the log says if the agent gives any.

Source: https://github.com/spiffe/spiffe/tree/main/standards: SPIFFE_Workload_API.md, sections 4 to
6; SPIFFE_Workload_Endpoint.md, sections 4 and 6.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, final
from urllib.parse import urlsplit

import grpc
import grpc.aio
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from istio.backoff import Backoff
from istio.ca._pb import spiffe_pb2 as wire
from istio.ca.identity import Identity, Publish, Status, checked
from istio.ca.renewal import (
    BACKOFF_JITTER,
    MAX_BACKOFF_SECONDS,
    MIN_BACKOFF_SECONDS,
    give,
    note_failure,
)
from istio.clock import Clock, SystemClock
from istio.endpoint import explained
from istio.errors import CaError
from istio.tasks import drop
from sidecar.http.spiffe_id import trust_domain_named

_log = logging.getLogger("istio.ca.spiffe")
METHOD: Final = "/SpiffeWorkloadAPI/FetchX509SVID"
_METADATA: Final = (("workload.spiffe.io", "true"),)
"""Without it the agent refuses: a browser tricked into calling it cannot send it."""
FIRST_SECONDS: Final = 30.0
_LATE: Final = 0.8
"""Share of the life after which an agent that said nothing is asked anew."""


@final
class SpiffeSource:
    """`address`: `unix:///path` or `tcp://127.0.0.1:port`, as in SPIFFE_ENDPOINT_SOCKET."""

    def __init__(
        self,
        address: str,
        *,
        expected: str | None = None,
        clock: Clock | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`expected`: the SPIFFE ID to use; else the agent's first. Raises: CaError."""
        self._target = target_of(address)
        self._address = address
        self._expected = expected
        self._clock = clock or SystemClock()
        self._backoff = Backoff(
            MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, jitter=BACKOFF_JITTER, uniform=uniform
        )
        self.status = Status("spiffe")

    async def run(self, publish: Publish) -> None:
        """Keep a stream open and publish what comes, for ever."""
        while True:
            try:
                await self._stream(publish)
            except CaError as error:
                note_failure(self.status, error, self._clock)
            await self._clock.sleep(self._backoff.wait_seconds())

    async def _stream(self, publish: Publish) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._target, options=options) as channel:
            fetch = channel.unary_stream(
                METHOD,
                request_serializer=wire.X509SVIDRequest.SerializeToString,
                response_deserializer=wire.X509SVIDResponse.FromString,
            )
            call = fetch(wire.X509SVIDRequest(), metadata=_METADATA)
            seconds = FIRST_SECONDS
            try:
                while (answer := await self._read(call, seconds)) is not None:
                    identity = identity_of(answer, self._clock, self._expected)
                    await give(identity, self.status, publish)
                    self._backoff.reset()
                    seconds = self._patience(identity)
            except grpc.aio.AioRpcError as error:
                raise CaError(explained(error.code(), error.details(), self._address)) from error
            finally:
                call.cancel()

    def _patience(self, identity: Identity) -> float:
        life = identity.not_after - identity.not_before
        left = identity.not_before + life * _LATE - self._clock.now()
        return max(left, timedelta(seconds=FIRST_SECONDS)).total_seconds()

    async def _read(self, call: Any, seconds: float) -> wire.X509SVIDResponse | None:
        """None when the agent ended the stream, or has been silent for too long."""
        reading = asyncio.ensure_future(call.read())
        try:
            await asyncio.wait((reading,), timeout=seconds)
            if not reading.done():
                if seconds == FIRST_SECONDS:
                    raise CaError(f"{self._address} sends nothing")
                return None
            answer = reading.result()
            return None if answer is grpc.aio.EOF else answer
        finally:
            if not reading.done():
                await drop(reading)


def target_of(address: str) -> str:
    """gRPC's name of the endpoint. Raises: CaError."""
    parts = urlsplit(address)
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return f"unix:{parts.path}"
    if parts.scheme == "tcp" and parts.hostname and parts.port and not parts.path.strip("/"):
        return (
            f"ipv6:[{parts.hostname}]:{parts.port}"
            if ":" in parts.hostname
            else (f"ipv4:{parts.hostname}:{parts.port}")
        )
    raise CaError(f"`{address}` is no endpoint such as unix:///run/spire/agent.sock")


def identity_of(answer: wire.X509SVIDResponse, clock: Clock, expected: str | None) -> Identity:
    """The identity to use, DER made PEM. Raises: CaError."""
    chosen = [one for one in answer.svids if expected in (None, one.spiffe_id)]
    if not chosen:
        what = "no identity" if expected is None else f"no identity {expected}"
        raise CaError(f"the SPIFFE agent has {what} for this workload")
    one = chosen[0]
    made = checked(
        pem_of(one.x509_svid, "the certificate"),
        _key_pem(one.x509_svid_key),
        pem_of(one.bundle, "the bundle"),
        now=clock.now(),
        expected=one.spiffe_id,
        is_svid=True,
    )
    if answer.crl:
        _log.warning("revocation lists of the SPIFFE agent are not used")
    return replace(made, federated=_federated(answer))


def _federated(answer: wire.X509SVIDResponse) -> dict[str, bytes]:
    """One that cannot be read costs its own trust domain alone, which is then not trusted."""
    made: dict[str, bytes] = {}
    for name, der in answer.federated_bundles.items():
        domain = trust_domain_named(name)
        try:
            pem = pem_of(der, f"the bundle of {name[:256]}")
        except CaError as error:
            _log.warning("%s; nobody of it is trusted", error)
            continue
        if domain is not None and pem:
            made[domain] = pem
        else:
            _log.warning("the bundle of %s is of no trust domain, or empty", name[:256])
    return made


def _key_pem(der: bytes) -> bytes:
    try:
        key = load_der_private_key(der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CaError("the SPIFFE agent's key is no PKCS#8") from error
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def pem_of(der: bytes, what: str) -> bytes:
    """PEM of certificates in DER, one after the other. Raises: CaError."""
    result: list[bytes] = []
    while der:
        size = _der_size(der)
        if size is None or size > len(der):
            raise CaError(f"{what} of the SPIFFE agent is no DER")
        try:
            one = x509.load_der_x509_certificate(der[:size])
        except (ValueError, UnsupportedAlgorithm) as error:
            raise CaError(f"{what} of the SPIFFE agent is no DER certificate") from error
        result.append(one.public_bytes(Encoding.PEM))
        der = der[size:]
    return b"".join(result)


def _der_size(der: bytes) -> int | None:
    """Size of the first element, with its head (X.690 section 8.1.3)."""
    if len(der) < 2 or der[0] != 0x30:
        return None
    short = der[1]
    if short < 0x80:
        return 2 + short
    count = short & 0x7F
    if not 1 <= count <= 4 or len(der) < 2 + count:
        return None
    return 2 + count + int.from_bytes(der[2 : 2 + count], "big")
