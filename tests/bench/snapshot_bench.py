"""What a reload of 10,000 routes costs: `python -m tests.bench.snapshot_bench`.

Prints milliseconds: normalising and encoding at first, with nothing changed, with one route
changed; then what a worker does with the result.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sidecar.config.normalise import Normaliser
from sidecar.config.snapshot import encode, read_index, read_record
from sidecar.config.snapshot_diff import Difference, Index, diff

_T = TypeVar("_T")
ROUTES = 10_000


def route(index: int) -> dict[str, Any]:
    return {
        "name": f"r{index}",
        "hostnames": [f"h{index % 50}.example.com"],
        "matches": [
            {
                "path": {"pathPrefix": f"/api/v{index}/"},
                "method": "GET",
                "headers": [{"name": "X-A", "value": {"exact": "b"}}],
            }
        ],
        "policies": {"timeout": {"requestTimeout": "5s"}},
        "backends": [{"host": f"10.0.0.{index % 250}:8080"}, {"backend": "shared"}],
    }


def timed(name: str, action: Callable[[], _T]) -> _T:
    start = time.perf_counter()
    result = action()
    print(f"{name:32} {(time.perf_counter() - start) * 1e3:8.1f} ms")
    return result


def drain(old: Index, buffer: bytes) -> tuple[list[float], Index]:
    """Milliseconds of each slice, and the new index."""
    slices = []
    steps = diff(old, buffer)
    while True:
        start = time.perf_counter()
        try:
            next(steps)
        except StopIteration as stop:
            difference: Difference = stop.value
            slices.append((time.perf_counter() - start) * 1e3)
            return slices, difference.index
        slices.append((time.perf_counter() - start) * 1e3)


def main() -> None:
    normaliser = Normaliser(env={})
    data: dict[str, Any] = {
        "gateways": {"default": {"port": 80}},
        "backends": [{"name": "shared", "host": "shared:80"}],
        "routes": [route(index) for index in range(ROUTES)],
    }
    index: Index = ()
    buffer = b""
    for generation, name in enumerate(("first", "unchanged", "one changed")):
        document = copy.deepcopy(data)
        if name == "one changed":
            document["routes"][ROUTES // 2]["hostnames"] = ["changed.test"]
        snapshot = timed(f"normalise, {name}", lambda: normaliser.normalise(document, []))  # noqa: B023
        buffer = timed(f"encode, {name}", lambda: encode(snapshot, generation))  # noqa: B023
        slices, index = drain(index, buffer)
        print(f"{'  diff, all and longest slice':32} {sum(slices):8.1f} ms {max(slices):6.2f} ms")
    records = timed("read the index", lambda: list(read_index(buffer)))
    timed("decode every record", lambda: [read_record(buffer, record) for record in records])
    print(f"{len(records)} resources, {len(buffer) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
