"""Equal parts of workloads are one; what they say stays the same, to the octet."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest

from sidecar.config.common import Common


def workload(name: str, **more: Any) -> dict[str, Any]:
    data = {
        "name": name,
        "namespace": "shop",
        "node": "node-1",
        "locality": {"region": "r", "zone": "z"},
        "services": {"shop/cart.test": {"80": 8080}},
        **more,
    }
    decoded: dict[str, Any] = orjson.loads(orjson.dumps(data))
    return decoded


def test_equal_parts_are_one() -> None:
    common = Common()
    first, second = workload("a"), workload("b")
    wanted = copy.deepcopy(second)
    common.share(first)
    common.share(second)
    assert orjson.dumps(second) == orjson.dumps(wanted)
    assert second["namespace"] is first["namespace"]
    assert second["locality"] is first["locality"]
    assert second["services"] is not first["services"]
    assert second["services"]["shop/cart.test"] is first["services"]["shop/cart.test"]
    (own,), (other,) = first["services"], second["services"]
    assert own is other


@pytest.mark.parametrize(
    "more",
    [
        {"services": {"shop/cart.test": {"80": True}}},
        {"services": {"shop/cart.test": {"443": 8443, "80": 1}}},
        {"locality": {"zone": "z", "region": "r"}},
        {"locality": {"region": None}},
        {"locality": None, "services": {}, "node": 1},
    ],
)
def test_what_differs_stays_as_it_is(more: dict[str, Any]) -> None:
    common = Common()
    common.share(workload("a", services={"shop/cart.test": {"80": 1, "443": 8443}}))
    common.share(workload("b", services={"shop/cart.test": {"80": 1}}))
    data = workload("c", **more)
    wanted = orjson.dumps(data)
    common.share(data)
    assert orjson.dumps(data) == wanted


def test_it_forgets_and_goes_on() -> None:
    common = Common()
    for number in range(66_000):
        common.share({"node": f"node-{number}"})
    data = workload("a")
    common.share(data)
    assert data == workload("a")
