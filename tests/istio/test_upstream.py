"""What was to be sealed when it was chosen is never dialled in the clear.

Source: spec istio sections 2.4 (steps 9 and 10) and 7.
"""

from __future__ import annotations

import asyncio
import socket

import pytest

from hbone.aio import Settings
from istio.upstream import Upstream
from istio.workload import OwnGateway, Store
from sidecar.errors import UpstreamError
from sidecar.gateway.discovered import DOUBLE, hop
from sidecar.net.dialer import Address, DialSettings, DirectDialer
from tests.hbone.pki import Pki, spiffe
from tests.istio.meshes import service, workload

NAME = "ns/s.ns.svc.cluster.local"


@pytest.mark.parametrize("has_certificate", [True, False])
@pytest.mark.parametrize(
    ("chosen", "now", "why"),
    [
        ("HBONE", {"protocol": "TCP"}, "otherwise by now"),
        ("LEGACY_ISTIO_MTLS", {"protocol": "TCP"}, "otherwise by now"),
        ("LEGACY_ISTIO_MTLS", {"protocol": "HBONE"}, "otherwise by now"),
        ("HBONE", {"protocol": "LEGACY_ISTIO_MTLS"}, "otherwise by now"),
        (DOUBLE, {"protocol": "TCP"}, "otherwise by now"),
        (DOUBLE, {"protocol": "HBONE"}, "otherwise by now"),
        ("HBONE", None, "the workload is gone"),
    ],
)
async def test_a_workload_that_changed_since_it_was_chosen(
    chosen: str, now: dict[str, str] | None, why: str, has_certificate: bool
) -> None:
    store = Store("", "cluster.local")
    store.apply(dict([service("s")]), ())
    if now is not None:
        store.apply(dict([workload("w", "127.0.0.1", services=["s"], **now)]), ())
    loop = asyncio.get_running_loop()
    upstream = Upstream(
        loop,
        store,
        DirectDialer(loop),
        Settings(),
        own=OwnGateway("waypoint", "ns"),
        allows_plaintext=True,
    )
    if has_certificate:
        upstream.set_credentials(Pki().credentials(spiffe("us")))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = Address("127.0.0.1", listening.getsockname()[1], hop=hop(chosen, "w", NAME))
        with pytest.raises(UpstreamError, match=why):
            await upstream.connect(
                asyncio.Protocol, address, None, DialSettings(), http1_only=False
            )
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
    await upstream.close()
