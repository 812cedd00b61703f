"""Certificates of Istio's CA: CreateCertificate over grpc.aio.

Source: spec istio 3.5 and 3.6.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, final

import grpc
import grpc.aio

from istio.ca._pb import ca_pb2 as wire
from istio.ca.csr import new_request
from istio.ca.identity import Identity, Publish, Status, certificates, checked
from istio.ca.renewal import Renewal
from istio.clock import Clock, SystemClock
from istio.endpoint import Endpoint, explained
from istio.errors import CaError

METHOD: Final = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
TTL_SECONDS: Final = 86_400
CALL_SECONDS: Final = 10.0
"""For connecting and the answer."""


@final
class CaSource:
    """A new key for each certificate; see `renewal` for when."""

    def __init__(
        self,
        endpoint: Endpoint,
        spiffe_id: str,
        *,
        ttl_seconds: int = TTL_SECONDS,
        call_seconds: float = CALL_SECONDS,
        clock: Clock | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`spiffe_id`: whose certificate; what is for anybody else is refused."""
        self._endpoint = endpoint
        self._spiffe_id = spiffe_id
        self._ttl_seconds = ttl_seconds
        self._call_seconds = call_seconds
        self._clock = clock or SystemClock()
        self._random = uniform
        self.status = Status("ca")

    async def run(self, publish: Publish) -> None:
        """Fetch, publish and renew, for ever."""
        await Renewal(self.fetch, self.status, self._clock, self._random).run(publish)

    async def fetch(self) -> Identity:
        """One certificate. Raises: IstioError."""
        request = new_request(self._spiffe_id)
        chain = await self._create(request.csr)
        leaf, roots = split(chain)
        return checked(leaf, request.key, roots, now=self._clock.now(), expected=self._spiffe_id)

    async def _create(self, csr: bytes) -> Sequence[str]:
        metadata = self._endpoint.metadata()
        request = wire.IstioCertificateRequest(
            csr=csr.decode("ascii"), validity_duration=self._ttl_seconds
        )
        async with self._endpoint.channel() as channel:
            create = channel.unary_unary(
                METHOD,
                request_serializer=wire.IstioCertificateRequest.SerializeToString,
                response_deserializer=wire.IstioCertificateResponse.FromString,
            )
            try:
                answer = await create(request, timeout=self._call_seconds, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                address = self._endpoint.address
                raise CaError(explained(error.code(), error.details(), address)) from error
        return list(answer.cert_chain)


def split(chain: Sequence[str]) -> tuple[bytes, bytes]:
    """(chain, roots): the last element is the bundle of roots, and no part of the chain.

    Raises: CaError.
    """
    if not chain or not chain[0].strip():
        raise CaError("the CA answered with an empty certificate chain")
    if len(chain) == 1:
        raise CaError("the CA answered with a certificate and no roots")
    parts = [part.strip().encode() + b"\n" for part in chain]
    for number, part in enumerate(parts):
        certificates(part, f"element {number} of the CA's chain")
    return b"".join(parts[:-1]), parts[-1]
