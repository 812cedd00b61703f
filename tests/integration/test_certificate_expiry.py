"""The CA is down until the gateway's certificate has expired, and comes back.

Source: spec istio sections 1.2 and 3.6; certificates of a few seconds, of a CA of the tests.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from hbone.errors import HandshakeError
from istio.ca._pb import ca_pb2
from tests.hbone.pki import spiffe
from tests.integration.test_waypoint_istiod import pki_of
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.istiod import Istiod
from tests.support.mesh import Inbound, Proxies
from tests.support.upstream import Answer, Upstream

PORT, EDGE = free_ports(2)
HOST = "app.shop.svc.cluster.local"
OWN, APP = spiffe("gate", namespace="shop"), spiffe("app", namespace="shop")
PATIENCE_SECONDS = 30.0


@dataclass
class Net:
    ca: Istiod
    proxies: Proxies
    hbone: Inbound
    gateway: GatewayProcess
    ends: list[datetime.datetime] = field(default_factory=list)
    """Of the certificates that were signed, of the last kind."""

    def door(self, account: str = "client") -> int:
        """Each account has a connection of its own to the gateway."""
        identity = spiffe(account)
        return self.proxies.door(PORT, f"{HOST}:80", identity=identity, expected=OWN)

    def certify(self, seconds: int, age: int = 0) -> None:
        """From now on the CA's certificates last so long. `age`: what of their life is over, of
        which the gateway waits for a half before it asks for the next."""

        def signed(request: ca_pb2.IstioCertificateRequest) -> list[str]:
            asked = ca_pb2.IstioCertificateRequest(csr=request.csr, validity_duration=seconds + age)
            now = datetime.datetime.now(datetime.UTC)
            self.ends.append((now + datetime.timedelta(seconds=seconds)).replace(microsecond=0))
            return self.ca.signed(asked, start=now - datetime.timedelta(seconds=age))

        self.ends.clear()
        self.ca.certify = signed

    def wait_certified(self) -> None:
        """Until the gateway has one of these."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self._end() not in self.ends:
            assert time.monotonic() < until, self.gateway.log()
            time.sleep(0.02)

    def _end(self) -> datetime.datetime:
        shown = self.gateway.dump()["mesh"]["certificate"]["notAfter"]
        return datetime.datetime.fromisoformat(shown)

    def is_open(self) -> bool:
        """Whether there are tunnels, in and out."""
        with contextlib.suppress(OSError):
            return fetch(self.door(), "/").status == 200 == fetch(EDGE, "/").status
        return False

    def wait_open(self) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while not self.is_open():
            assert time.monotonic() < until, self.gateway.log()
            time.sleep(0.02)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Istiod() as ca:
        pki = pki_of(ca)
        # Each request by a tunnel of its own: what lives may go on.
        with Proxies(pki) as proxies, Upstream(lambda _: Answer(200, [CLOSE], b"app")) as app:
            hbone = proxies.inbound(APP)
            environment = {
                "NAMESPACE": "shop",
                "GATEWAY": "gate",
                "SERVICE_ACCOUNT": "gate",
                "CA_ADDRESS": ca.address,
            }
            gateway = GatewayProcess(_config(app.port, hbone.port), env=environment)
            made = Net(ca, proxies, hbone, gateway)
            # Long enough to start with, and soon renewed.
            made.certify(60, age=120)
            with gateway:
                yield made


CLOSE = ("connection", "close")


def _config(app: int, hbone: int) -> dict[str, Any]:
    service = {"service": {"name": f"shop/{HOST}", "port": 80}}
    return {
        "binds": [
            {
                "port": PORT,
                "tunnelProtocol": "hboneWaypoint",
                "listeners": [{"protocol": "HBONE"}],
            },
            {"port": EDGE, "listeners": [{"routes": [{"backends": [service]}]}]},
        ],
        "services": [
            {
                "name": "app",
                "namespace": "shop",
                "hostname": HOST,
                "ports": {"80": app},
                "waypoint": {"destination": "shop/gate.shop.svc.cluster.local"},
            }
        ],
        "workloads": [
            {
                "uid": "app",
                "namespace": "shop",
                "serviceAccount": "app",
                "protocol": "HBONE",
                "hboneMtlsPort": hbone,
                "workloadIps": ["127.0.0.1"],
                "services": {f"shop/{HOST}": {"80": app}},
            }
        ],
    }


def test_it_expires_while_the_ca_is_down_and_is_renewed_when_it_is_back(net: Net) -> None:
    gateway = net.gateway
    net.wait_open()
    pids = [gateway.control_pid(), *gateway.worker_pids()]
    net.certify(3)
    net.wait_certified()
    net.ca.stop()

    gateway.wait_line("the mesh certificate has expired")
    gateway.wait_not_ready()
    assert b"certificate" in gateway._get(gateway.readiness_port, "/healthz/ready")[1]
    seen = len(net.hbone.seen)
    with pytest.raises(ConnectionError):
        fetch(net.door("another"), "/")
    assert isinstance(net.proxies.refused[-1], HandshakeError)
    assert fetch(EDGE, "/").status == 503
    assert len(net.hbone.seen) == seen, "nothing went out"
    gateway.wait_metric("agentgateway_hbone_connection_errors_total", 1, flag="IDENTITY_ERROR")
    # Counted once a second.
    gateway.wait_metric_above("agentgateway_hbone_dials_failed_total", 0, flag="IDENTITY_ERROR")
    gateway.wait_metric_above("agentgateway_certificate_failures", 0)
    assert gateway.metric("agentgateway_certificate_expiry_timestamp_seconds") <= time.time()
    assert gateway.dump()["mesh"]["certificate"]["isExpired"]

    net.ca.certify = net.ca.signed
    net.ca.start()
    gateway.wait_line("the mesh certificate is valid again")
    gateway.wait_ready()
    net.wait_open()
    assert [gateway.control_pid(), *gateway.worker_pids()] == pids
    assert gateway.metric("agentgateway_certificate_expiry_timestamp_seconds") > time.time()
