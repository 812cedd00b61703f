"""What control publishes: what could not be published goes out with nothing else."""

from __future__ import annotations

import contextlib
import os
import resource
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from shm.config import ConfigTable
from shm.errors import ShmError
from shm.metrics import MetricsTable
from sidecar.config.snapshot import Resource, Snapshot, encode
from sidecar.gateway.loading import LoadedSnapshot
from sidecar.gateway.publication import Publication
from sidecar.gateway.published import read_running
from sidecar.telemetry.metrics import GatewayMetrics, Registry

STATIC = Resource.of("static", "config", {"config": {"frontDoor": "auto"}})


def loaded(*routes: str) -> LoadedSnapshot:
    resources = {"static/config": STATIC}
    resources |= {f"route/{name}": Resource.of("route", name, {"name": name}) for name in routes}
    return LoadedSnapshot(Snapshot(resources), (), {})


@dataclass
class Control:
    """A publication over tables of its own, on `a`, which one worker (this process) applied."""

    configs: ConfigTable
    metrics: MetricsTable
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.configs.publish(encode(loaded("a").snapshot, 1))
        self.configs.join(0)
        self.own = GatewayMetrics(Registry(self.metrics.writer(0)), "0.1.0")
        running, levels = read_running(self.configs)
        self.publication = Publication(
            self.configs,
            self.own,
            loaded("a"),
            running,
            extra={},
            levels=levels,
            error="",
            wake_workers=lambda: self.calls.append("wake"),
            try_again=lambda: self.calls.append("again"),
        )
        self.publication.begin(running)
        self.report()

    def report(self, error: str = "") -> None:
        self.configs.report(0, self.configs.generation, error)
        self.publication.look_at_reports()

    def routes(self) -> set[str]:
        return {key for key in read_running(self.configs)[0] if key.startswith("route/")}

    def levels(self) -> str:
        return read_running(self.configs)[1]


@pytest.fixture
def control() -> Iterator[Control]:
    name = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    configs = ConfigTable.create(name, workers=1)
    metrics = MetricsTable.create(name, workers=1, rows=64)
    yield Control(configs, metrics)
    configs.close()
    metrics.close()


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """No file of this process can grow, those of shared memory among them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_runs_already_is_not_published_again(control: Control) -> None:
    assert (control.publication.revision, control.calls) == (1, [])


def test_levels_that_could_not_be_published_go_out_with_nothing_else(control: Control) -> None:
    control.publication.set_levels("info")
    with no_room(), pytest.raises(ShmError):
        control.publication.set_levels("debug")
    assert (control.publication.revision, control.levels()) == (2, "info")
    assert control.publication.replace(loaded("a", "b"))
    assert (control.publication.revision, control.levels()) == (3, "info")
    assert control.calls == ["wake", "wake"]


def test_a_file_that_cannot_be_published_is_not_current(control: Control) -> None:
    with no_room():
        control.publication.reload(loaded("b"), [])
    assert control.publication.error
    assert (control.publication.revision, control.routes()) == (1, {"route/a"})
    control.publication.reload(loaded("b"), [])
    assert control.publication.error == ""
    assert (control.publication.revision, control.routes()) == (2, {"route/b"})


async def test_what_a_mesh_sent_in_vain_is_taken_when_it_is_sent_again(control: Control) -> None:
    sent = {"route/m": Resource.of("route", "m", {"name": "m"})}
    with no_room():
        assert await control.publication.contribute(sent, ())
    assert control.routes() == {"route/a"}
    assert await control.publication.contribute(sent, ()) == ""
    assert control.routes() == {"route/a", "route/m"}
    assert await control.publication.contribute(sent, ()) == ""
    assert control.publication.revision == 2


def test_what_workers_refuse_is_taken_back(control: Control) -> None:
    control.publication.reload(loaded("b"), [])
    control.report("port 1: in use")
    assert control.publication.error == "port 1: in use"
    assert (control.publication.revision, control.routes()) == (3, {"route/a"})
    assert control.publication.find("route/b") is None


async def test_what_a_mesh_sent_goes_before_the_file_does(control: Control) -> None:
    control.publication.reload(loaded("b"), [])
    sent = {"route/m": Resource.of("route", "m", {"name": "m"})}
    assert await control.publication.contribute(sent, ()) == ""
    control.report("m does not compile")
    assert (control.publication.error, control.routes()) == ("", {"route/b"})
