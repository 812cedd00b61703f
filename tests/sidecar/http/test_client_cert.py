"""Who may say `x-forwarded-client-cert`."""

from __future__ import annotations

import pytest

from sidecar.http.client_cert import WORKLOAD, drop_unproven
from sidecar.http.h1 import HeadLimits, parse_request
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, TlsInfo

SAID = (b"x-forwarded-client-cert", b"By=spiffe://a;URI=spiffe://b")
OTHER = (b"accept", b"*/*")


@pytest.mark.parametrize(
    ("tls", "extra", "is_kept"),
    [
        (None, {}, False),
        (TlsInfo(), {}, False),
        (TlsInfo(peer_certificate=b"der"), {}, True),
        # A tunnel of the mesh: its certificate is the proxy's.
        (TlsInfo(peer_certificate=b"der"), {"connectHeaders": Headers()}, False),
        (TlsInfo(peer_certificate=b"der"), {WORKLOAD: True}, False),
    ],
    ids=["plaintext", "tls without a certificate", "mutual tls", "tunnel", "spiffe"],
)
def test_who_may_say_it(tls: TlsInfo | None, extra: dict[str, object], is_kept: bool) -> None:
    headers = Headers([SAID, OTHER, SAID])
    drop_unproven(headers, Connection("192.0.2.1", 1, "192.0.2.2", 2, tls=tls, extra=extra))
    assert headers == ([SAID, OTHER, SAID] if is_kept else [OTHER])


@pytest.mark.parametrize("name", [b"x-forwarded-client-cert", b"X-Forwarded-Client-Cert"])
def test_a_head_says_that_it_has_it(name: bytes) -> None:
    head = parse_request(b"GET / HTTP/1.1\r\nhost: h\r\n" + name + b": a\r\n\r\n", HeadLimits())
    assert head is not None
    assert head.has_client_cert
    assert head.headers == [(b"x-forwarded-client-cert", b"a")]
    plain = parse_request(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n", HeadLimits())
    assert plain is not None
    assert not plain.has_client_cert


def test_a_twin_of_it_with_underscores_is_gone_for_everybody() -> None:
    head = parse_request(
        b"GET / HTTP/1.1\r\nhost: h\r\nx_forwarded_client_cert: a\r\n\r\n", HeadLimits()
    )
    assert head is not None
    assert head.headers == []
