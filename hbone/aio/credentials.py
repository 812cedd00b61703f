"""A workload's certificate, key and roots, and the TLS contexts made of them.

Source: spec istio 1.2; RFC 8446.

TLS 1.3 alone, ALPN `h2` alone, no session tickets, no SNI, both sides with a certificate. Names are
not compared: who the peer is, its SPIFFE identity says (see `peer`).
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.aio.peer import uris_of
from hbone.aio.validity import has_passed
from hbone.errors import CertificateError
from hbone.wire.identity import Identity, first_identity


@final
@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM texts. `chain_pem`: leaf first. Immutable: a renewed certificate is a new value.

    Raises: CertificateError, without the key or anything of it in its text.
    """

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    roots_pem: bytes
    """What peers' certificates must chain to; several roots may stand together."""
    identity: Identity = field(init=False)
    not_after: datetime = field(init=False)

    def __post_init__(self) -> None:
        try:
            leaf = x509.load_pem_x509_certificate(self.chain_pem)
            uris = uris_of(leaf)
        except ValueError as error:
            raise CertificateError("the certificate chain is no PEM certificate") from error
        identity = first_identity(uris)
        if identity is None:
            raise CertificateError("the certificate has no SPIFFE identity")
        object.__setattr__(self, "identity", identity)
        object.__setattr__(self, "not_after", leaf.not_valid_after_utc)

    @property
    def has_expired(self) -> bool:
        """Whether the leaf proves nothing any more."""
        return has_passed(self.not_after.timestamp())

    @property
    def issuers_pem(self) -> bytes:
        """The intermediate authorities between the leaf and a root."""
        chain = x509.load_pem_x509_certificates(self.chain_pem)
        return b"".join(one.public_bytes(Encoding.PEM) for one in chain[1:])

    def context(self, *, is_server: bool) -> ssl.SSLContext:
        """A new context. Raises: CertificateError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        if is_server:
            context.num_tickets = 0
        context.set_alpn_protocols(["h2"])
        try:
            context.load_verify_locations(cadata=self.roots_pem.decode("ascii"))
            with _file(self.chain_pem) as chain, _file(self.key_pem) as key:
                # An empty password keeps OpenSSL from asking for one on the terminal.
                context.load_cert_chain(chain, key, password=b"")
        except (ssl.SSLError, UnicodeDecodeError) as error:
            reason = getattr(error, "reason", None) or "not PEM"
            raise CertificateError(f"certificate, key or roots: {reason}") from error
        return context


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """The name of a file for OpenSSL, which reads nothing else; in memory where there is memfd."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("hbone", os.MFD_CLOEXEC)
        try:
            os.write(handle, content)
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
        return
    with tempfile.NamedTemporaryFile() as file:  # mode 0600
        file.write(content)
        file.flush()
        yield file.name
