"""Which endpoint a call goes to, and the pools all backends share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sidecar.errors import RequestError, UpstreamError
from sidecar.gateway.upstream import (
    BrokenUpstream,
    DynamicUpstream,
    FixedUpstream,
    NamedUpstream,
    PoolKey,
    Pools,
    authority_destination,
)
from sidecar.net.dialer import Address, DirectDialer, UpstreamTls
from sidecar.net.pool import PoolSettings
from sidecar.net.resolve import Resolver
from sidecar.net.sweep import Sweeper
from tests.support.compiled import ask_for

SETTINGS = PoolSettings()


def key(port: int, tls: str = "") -> PoolKey:
    return PoolKey(Address("127.0.0.1", port), tls, SETTINGS)


@pytest.fixture
async def pools() -> AsyncIterator[Pools]:
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)
    made = Pools(DirectDialer(loop), loop, sweeper, Resolver(loop, "Auto"), lambda *_: None)
    yield made
    made.close()
    sweeper.close()


async def test_equal_keys_share_a_pool(pools: Pools) -> None:
    assert pools.get(key(1), None) is pools.get(key(1), None)
    assert pools.get(key(1), None) is not pools.get(key(2), None)
    assert pools.get(key(1), None) is not pools.get(key(1, "digest"), None)


async def test_a_round_drops_what_it_did_not_ask_for(pools: Pools) -> None:
    kept, dropped = pools.get(key(1), None), pools.get(key(2), None)
    pools.begin_round()
    assert pools.get(key(1), None) is kept
    pools.end_round()
    assert dropped.closed
    assert not kept.closed
    assert pools.get(key(2), None) is not dropped


async def test_fixed(pools: Pools) -> None:
    upstream = FixedUpstream(pools.get(key(5), None))
    picked = upstream.pick_nowait(ask_for())
    assert picked is not None
    assert picked.label == "127.0.0.1:5"
    assert await upstream.pick(ask_for()) is picked


async def test_named_waits_for_its_first_look_up(pools: Pools) -> None:
    upstream = NamedUpstream(
        "localhost",
        6,
        pools.resolver,
        lambda address: pools.get(PoolKey(address, "", SETTINGS), None),
    )
    assert upstream.pick_nowait(ask_for()) is None
    picked = await upstream.pick(ask_for())
    assert picked.pool.address.port == 6
    assert upstream.pick_nowait(ask_for()) is not None


async def test_a_name_that_does_not_exist(pools: Pools) -> None:
    upstream = NamedUpstream("absent.invalid", 6, pools.resolver, lambda _: pools.get(key(1), None))
    with pytest.raises(UpstreamError) as caught:
        await upstream.pick(ask_for())
    assert caught.value.status == 503
    assert caught.value.message == "backends required DNS resolution which failed"


def dynamic(pools: Pools, *, allows_all: bool = False, admin_port: int = 0) -> DynamicUpstream:
    def key_of(address: Address, host: str) -> tuple[PoolKey, UpstreamTls | None]:
        return PoolKey(address, host, SETTINGS), None

    return DynamicUpstream(
        authority_destination,
        pools.resolver,
        key_of,
        pools,
        allows_all=allows_all,
        admin_port=admin_port,
    )


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]:80", "2852039166:80"])
async def test_dynamic_leads_to_no_metadata_service_unless_told_to(pools: Pools, host: str) -> None:
    with pytest.raises(RequestError) as caught:
        await dynamic(pools).pick(ask_for(host=host))
    assert caught.value.status == 403
    picked = await dynamic(pools, allows_all=True).pick(ask_for(host=host))
    assert picked.pool.address.port == 80


@pytest.mark.parametrize(
    "host", ["127.0.0.1:15000", "0.0.0.0:15000", "[::1]:15000", "2130706433:15000"]
)
async def test_dynamic_leads_to_no_admin_service_of_ours(pools: Pools, host: str) -> None:
    with pytest.raises(RequestError) as caught:
        await dynamic(pools, allows_all=True, admin_port=15000).pick(ask_for(host=host))
    assert caught.value.status == 403
    picked = await dynamic(pools, admin_port=15001).pick(ask_for(host=host))
    assert picked.pool.address.port == 15000


async def test_dynamic_keeps_a_bounded_number_of_pools(pools: Pools) -> None:
    upstream = dynamic(pools)
    first = await upstream.pick(ask_for(host="127.0.0.1:1"))
    second = await upstream.pick(ask_for(host="127.0.0.1:2"))
    for port in range(3, 513):
        await upstream.pick(ask_for(host=f"127.0.0.1:{port}"))
    # Used again, it is no longer the oldest.
    assert await upstream.pick(ask_for(host="127.0.0.1:1")) is first
    await upstream.pick(ask_for(host="127.0.0.1:600"))
    assert second.pool.closed
    assert not first.pool.closed


@pytest.mark.parametrize(
    ("authority", "scheme", "found"),
    [
        ("a.test", "http", ("a.test", 80)),
        ("a.test", "https", ("a.test", 443)),
        ("a.test:81", "http", ("a.test", 81)),
        ("[::1]", "http", ("[::1]", 80)),
        ("[::1]:81", "http", ("[::1]", 81)),
    ],
)
def test_destination_of_an_authority(authority: str, scheme: str, found: tuple[str, int]) -> None:
    assert authority_destination(ask_for(host=authority, scheme=scheme)) == found


def test_no_authority_no_destination() -> None:
    with pytest.raises(RequestError):
        authority_destination(ask_for(host=""))


async def test_broken_says_why() -> None:
    upstream = BrokenUpstream(500, "NotFound", "service not found")
    with pytest.raises(UpstreamError) as caught:
        upstream.pick_nowait(ask_for())
    assert (caught.value.status, caught.value.code, caught.value.sent) == (500, "NotFound", False)
    with pytest.raises(UpstreamError):
        await upstream.pick(ask_for())
