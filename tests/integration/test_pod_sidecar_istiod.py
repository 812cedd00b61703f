"""A pod's sidecar that knows its mesh, its certificate and its policies of istiod alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from hbone.aio import Credentials, Pool, PoolKey
from hbone.errors import HboneError, TunnelRefusedError
from hbone.wire.authority import make_authority
from istio.xds._pb import authorization_pb2 as security
from istio.xds._pb import workload_pb2 as wds
from istio.xds.translate import ADDRESS, AUTHORIZATION
from tests.hbone.pki import spiffe
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.istiod import Heard, Istiod
from tests.support.upstream import Answer, Upstream

OWN, CLIENT = spiffe("cart"), spiffe("client")
PATIENCE_SECONDS = 20.0


@dataclass
class Pod:
    istiod: Istiod
    gateway: GatewayProcess
    port: int
    application: int

    def credentials(self) -> Credentials:
        pair = self.istiod.authority.issue([CLIENT])
        return Credentials(
            pair.cert.encode(), pair.key.encode(), self.istiod.authority.root.encode()
        )

    async def ask(self) -> int:
        """Status of the answer to a CONNECT, 200 for a tunnel."""
        pool = Pool(self.credentials())
        key = PoolKey(CLIENT, frozenset((OWN,)), ("127.0.0.1", self.port))
        try:
            tunnel = await pool.connect(key, make_authority("127.0.0.1", self.application))
        except TunnelRefusedError as error:
            return error.status
        except HboneError:
            return 0
        else:
            tunnel.abort()
            return 200
        finally:
            await pool.close()

    async def is_open(self) -> bool:
        """Whether it takes tunnels: it has a certificate then."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def settle(self, status: int) -> None:
        """Until that is the answer."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.ask() != status:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


def own_workload(*policies: str) -> bytes:
    one = wds.Address(
        workload=wds.Workload(
            uid="Kubernetes//Pod/default/cart",
            name="cart",
            namespace="default",
            service_account="cart",
            addresses=[b"\x7f\0\0\1"],
            tunnel_protocol=wds.HBONE,
            native_tunnel=True,
            authorization_policies=policies,
        )
    )
    return bytes(one.SerializeToString())


def deny(principal: str) -> bytes:
    match = security.Match(
        principals=[security.StringMatch(exact=principal.removeprefix("spiffe://"))]
    )
    one = security.Authorization(
        name="deny",
        namespace="default",
        scope=security.WORKLOAD_SELECTOR,
        action=security.DENY,
        rules=[security.Rule(clauses=[security.Clause(matches=[match])])],
    )
    return bytes(one.SerializeToString())


@contextmanager
def running(*, withheld: str = "") -> Iterator[Pod]:
    (port,) = free_ports(1)
    sidecar = {"outboundPort": 0, "inboundPort": 0, "hbonePort": port, "packetMark": 0}
    with Istiod() as istiod, Upstream(lambda _: Answer(200)) as upstream:
        istiod.put(ADDRESS, {"Kubernetes//Pod/default/cart": own_workload("default/deny")})
        istiod.put(AUTHORIZATION, {})
        istiod.withheld = {withheld}
        env = {
            "XDS_ADDRESS": istiod.address,
            "CA_ADDRESS": istiod.address,
            "NAMESPACE": "default",
            "POD_NAME": "cart",
            "SERVICE_ACCOUNT": "cart",
        }
        config = {"config": {"enableIpv6": False, "istio": {"sidecar": sidecar}}}
        gateway = GatewayProcess(config, env=env)
        if withheld:  # then it will not be ready
            gateway.wait_ready = lambda: None  # type: ignore[method-assign]
        with gateway:
            yield Pod(istiod, gateway, port, upstream.port)


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    with running() as made:
        yield made


def test_it_is_no_gateway_to_istiod(pod: Pod) -> None:
    first = pod.istiod.wait(lambda heard: heard.is_first, 2)
    assert {heard.request.type_url for heard in first} == {ADDRESS, AUTHORIZATION}
    (node,) = {heard.request.node.id for heard in first if heard.request.HasField("node")}
    assert node.startswith("ztunnel~")
    assert node.endswith("~cart.default~default.svc.cluster.local")


async def test_policies_of_istiod_are_obeyed(pod: Pod) -> None:
    await pod.settle(200)
    pool = Pool(pod.credentials())
    key = PoolKey(CLIENT, frozenset((OWN,)), ("127.0.0.1", pod.port))
    alive = await pool.connect(key, make_authority("127.0.0.1", pod.application))
    pod.istiod.put(AUTHORIZATION, {"default/deny": deny(CLIENT)})
    with pytest.raises(HboneError):
        await asyncio.wait_for(alive.read(), PATIENCE_SECONDS)
    assert await pod.ask() == 401
    pod.istiod.remove(AUTHORIZATION, "default/deny")
    await pod.settle(200)
    await pool.close()


async def test_nobody_comes_in_before_the_policies_are_known() -> None:
    with running(withheld=AUTHORIZATION) as pod:
        await asyncio.to_thread(pod.istiod.wait, _is_address_taken)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await pod.is_open():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            asked = asyncio.ensure_future(pod.ask())
            await asyncio.wait((asked,), timeout=0.3)
            assert not asked.done()
            pod.istiod.withheld = set()
            pod.istiod.put(AUTHORIZATION, {"default/deny": deny(CLIENT)})
            assert await asked == 401


def _is_address_taken(heard: Heard) -> bool:
    return heard.request.type_url == ADDRESS and not heard.is_first
