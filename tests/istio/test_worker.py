"""What a worker takes of what it is told, and what it does not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from istio.worker import Worker
from sidecar.errors import ConfigError
from sidecar.gateway.mesh import MeshGate
from sidecar.http.message import Connection
from tests.hbone.pki import Pki, spiffe

BIND = ("bind/15008", "hboneWaypoint")
PEER = Connection("10.0.0.1", 1234, "10.0.0.2", 15008)


def worker() -> Worker:
    # Nothing else of the gateway is asked for by what is tested here.
    gate = cast("MeshGate", SimpleNamespace(loop=asyncio.get_running_loop()))
    return Worker(gate, {})


def identity(pki: Pki) -> dict[str, Any]:
    leaf = pki.leaf(spiffe("waypoint"))
    chain, key, roots = leaf.chain, leaf.key, pki.root_pem
    return {"chain": chain.decode(), "key": key.decode(), "roots": roots.decode()}


async def test_a_policy_that_means_nothing_does_not_keep_a_certificate_out() -> None:
    made = worker()
    bad = {"name": "p", "namespace": "ns", "scope": "NAMESPACE", "action": "WHAT", "rules": []}
    with pytest.raises(ConfigError, match="authorization/ns/p"):
        made.apply({"authorization/ns/p": bad, "identity/own": identity(Pki())}, ())
    carried = made.carry(*BIND, PEER)
    assert carried is not None
    carried.abort()
    await made.close()


async def test_lists_of_an_authority_between() -> None:
    between, other = Pki("between", Pki()), Pki("other")
    made = worker()
    lists = {"lists": between.crl().decode()}
    made.apply({"identity/own": identity(between), "identity/revoked": lists}, ())
    # One that nobody we know has signed changes nothing.
    with pytest.raises(ConfigError, match=r"config\.istio\.revocations"):
        made.apply({"identity/revoked": {"lists": other.crl().decode()}}, ())
    made.apply({"workload/x": {"name": "x", "namespace": "ns", "ips": ["10.0.0.9"]}}, ())
    await made.close()


async def test_lists_that_prove_nothing_come_with_no_certificate() -> None:
    made = worker()
    lists = {"lists": Pki("other").crl().decode()}
    with pytest.raises(ConfigError):
        made.apply({"identity/own": identity(Pki()), "identity/revoked": lists}, ())
    assert made.carry(*BIND, PEER) is None
    await made.close()
