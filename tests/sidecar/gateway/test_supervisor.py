"""The process tree with real processes: run as a program, this file is the gateway under test.

Every process writes one line an event to standard output; tests wait for lines, and for the end of
the pipe, which comes when the last process of the tree is gone.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from shm.config import ConfigTable
from shm.errors import SegmentMissingError, SegmentRefusedError
from shm.metrics import MetricsTable
from sidecar.errors import ConfigError
from sidecar.gateway.process import ControlContext, ProcessSpec, WorkerContext, clear
from sidecar.gateway.supervisor import Supervisor

ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 20.0
Event = dict[str, Any]


# The gateway under test


def say(event: str, **values: object) -> None:
    line = {"event": event, "pid": os.getpid(), "at": time.monotonic(), **values}
    os.write(1, json.dumps(line).encode() + b"\n")


def end(number: int, frame: object) -> None:
    say("drained")
    raise SystemExit(0)


def wait(descriptor: int) -> None:
    """Until it can be read. A signal that comes just before the system call does not wake it, so
    that its handler has to wait for the next look."""
    while not select.select([descriptor], [], [], 0.2)[0]:
        continue


def control(context: ControlContext) -> None:
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, lambda number, frame: say("reload"))
    context.ready()
    say("control", first=context.is_first, seed=random.random(), parent=os.getppid())
    while True:
        wait(context.report_fd)
        clear(context.report_fd)
        say("reported")
        context.wake_workers()


def worker(context: WorkerContext) -> None:
    signal.signal(signal.SIGTERM, end)
    start_worker(context)


def start_worker(context: WorkerContext) -> None:
    context.ready()
    say("worker", slot=context.worker, id=context.worker_id, seed=random.random())
    if os.environ.get("REPORTING") == str(context.worker):
        context.report()
    while True:
        wait(context.wake_fd)
        clear(context.wake_fd)
        say("woken", slot=context.worker)


def stubborn_worker(context: WorkerContext) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: say("asked"))
    start_worker(context)


def failing_control(context: ControlContext) -> None:
    say("control", first=context.is_first)
    raise ConfigError("binds[0].port", "70000 is not a port")


def dying_control(context: ControlContext) -> None:
    say("control", first=context.is_first)
    os.kill(os.getpid(), signal.SIGKILL)


def leaving_control(context: ControlContext) -> None:
    say("control", first=context.is_first)


def refused_worker(context: WorkerContext) -> None:
    raise ConfigError("binds[0]", "port 80 is in use")


def crashing_worker(context: WorkerContext) -> None:
    say("worker", slot=context.worker, id=context.worker_id)
    raise SystemExit(3)


def later_failing_control(context: ControlContext) -> None:
    if not context.is_first:
        say("control", first=False)
        raise ConfigError("", "does not load any more")
    control(context)


def orphaning_worker(context: WorkerContext) -> None:
    """The first one leaves a process behind, whose parent is gone at once."""
    is_first = context.worker_id == 2
    if is_first and (child := os.fork()):
        os.waitpid(child, 0)
    elif is_first:
        if os.fork() == 0:
            signal.alarm(60)
            say("orphan")
            signal.pause()
        os._exit(0)
    worker(context)


verifications = 0


def fail_at_replacement() -> None:
    global verifications
    verifications += 1
    if verifications > 3:
        raise SegmentRefusedError("/agw-0-config: 12 bytes long, its header says 4096 (truncated?)")


def publishing_control(context: ControlContext) -> None:
    table = ConfigTable.attach(os.environ["INSTANCE"])
    table.publish(b"snapshot")
    context.wake_workers()
    control(context)


def counting_worker(context: WorkerContext) -> None:
    table = ConfigTable.attach(os.environ["INSTANCE"])
    table.join(context.worker)
    while not table.generation:
        wait(context.wake_fd)
        clear(context.wake_fd)
    generation, data = table.read_current()
    table.report(context.worker, generation)
    counter = MetricsTable.attach(os.environ["INSTANCE"]).writer(context.worker).counter(b"starts")
    counter.add(1)
    say("counted", data=bytes(data).decode(), slot=context.worker)
    worker(context)


def become_subreaper() -> None:
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


SCENARIOS: dict[str, Callable[[], ProcessSpec]] = {
    "plain": lambda: ProcessSpec(control, worker, 2),
    "stubborn": lambda: ProcessSpec(
        control, stubborn_worker, 1, drain_seconds=0.2, kill_grace_seconds=0.1
    ),
    "slow": lambda: ProcessSpec(control, stubborn_worker, 2, drain_seconds=60),
    "failing control": lambda: ProcessSpec(failing_control, worker, 2),
    "dying control": lambda: ProcessSpec(dying_control, worker, 2),
    "leaving control": lambda: ProcessSpec(leaving_control, worker, 2),
    "refused worker": lambda: ProcessSpec(control, refused_worker, 2),
    "crashing worker": lambda: ProcessSpec(
        control, crashing_worker, 1, backoff_first_seconds=0.05, backoff_last_seconds=0.2
    ),
    "healthy crashing worker": lambda: ProcessSpec(
        control, crashing_worker, 1, backoff_first_seconds=0.05, healthy_seconds=0.0
    ),
    "later failing control": lambda: ProcessSpec(later_failing_control, worker, 1),
    "damaged": lambda: ProcessSpec(control, worker, 2, verify=fail_at_replacement),
    "orphaning": lambda: ProcessSpec(control, orphaning_worker, 1),
    "tables": lambda: ProcessSpec(publishing_control, counting_worker, 2),
    "failing upgrade": lambda: ProcessSpec(
        control, worker, 1, upgrade_argv=(sys.executable, "-c", "raise SystemExit(1)")
    ),
}


# The tests' side


class Gateway:
    """A running tree: its lines, and its end."""

    def __init__(self, scenario: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, scenario],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.descriptor = self.process.stdout.fileno()
        self.data = b""
        self.seen: list[Event] = []

    def wait_event(self, event: str, **values: object) -> Event:
        """The next event of this description; those before it are kept in `seen`."""
        while True:
            found = self.next_event()
            assert found is not None, f"the tree ended before {event} {values}: {self.seen}"
            if found["event"] == event and values.items() <= found.items():
                return found

    def next_event(self) -> Event | None:
        """The next line, or None at the end of the last process."""
        while b"\n" not in self.data:
            assert select.select([self.descriptor], [], [], PATIENCE_SECONDS)[0], "no event came"
            chunk = os.read(self.descriptor, 65536)
            if not chunk:
                return None
            self.data += chunk
        line, _, self.data = self.data.partition(b"\n")
        event: Event = json.loads(line)
        self.seen.append(event)
        return event

    def wait_all_ready(self, workers: int) -> dict[str, int]:
        """Names ("control", 0, 1, …) to pids, when all have come up."""
        pids: dict[str, int] = {}
        while len(pids) < workers + 1:
            event = self.next_event()
            assert event is not None
            if event["event"] in ("control", "worker"):
                pids[str(event.get("slot", "control"))] = event["pid"]
        return pids

    def wait_place(self, name: str) -> dict[str, int]:
        """The name and pid of the next process that comes up in this place."""
        if name == "control":
            return {name: self.wait_event("control")["pid"]}
        return {name: self.wait_event("worker", slot=int(name))["pid"]}

    def wait_end(self) -> int:
        """Every process is gone; the supervisor's exit code."""
        while self.next_event() is not None:
            continue
        return self.process.wait(PATIENCE_SECONDS)

    def wait_settled(self) -> None:
        """The supervisor has finished what it was doing and answered a signal."""
        self.signal(signal.SIGHUP)
        self.wait_event("reload")

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def events(self, name: str) -> list[Event]:
        return [event for event in self.seen if event["event"] == name]


@contextmanager
def running(scenario: str, **environment: str) -> Iterator[Gateway]:
    gateway = Gateway(scenario, **environment)
    try:
        yield gateway
    finally:
        with suppress(ProcessLookupError):  # also what an upgrade left running
            os.killpg(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait()
        for stream in (gateway.process.stdout, gateway.process.stderr):
            assert stream is not None
            stream.close()


def test_52_a_killed_worker_is_back_soon_and_the_others_never_notice() -> None:
    with running("plain") as gateway:
        pids = gateway.wait_all_ready(2)
        killed_at = time.monotonic()
        os.kill(pids["0"], signal.SIGKILL)
        replacement = gateway.wait_event("worker", slot=0)
        assert replacement["at"] - killed_at < PATIENCE_SECONDS
        os.kill(pids["1"], 0)
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_end() == 0
        assert len(gateway.events("worker")) == 3


def test_60_identities_and_seeds_differ_after_fork() -> None:
    with running("plain") as gateway:
        pids = gateway.wait_all_ready(2)
        os.kill(pids["1"], signal.SIGKILL)
        gateway.wait_event("worker", slot=1)
        workers = gateway.events("worker")
        assert len({event["id"] for event in workers}) == 3
        assert len({event["seed"] for event in workers + gateway.events("control")}) == 4


def test_a_killed_control_process_is_replaced_and_knows_that_it_is_not_the_first() -> None:
    with running("plain") as gateway:
        pids = gateway.wait_all_ready(2)
        assert gateway.events("control")[0]["first"] is True
        os.kill(pids["control"], signal.SIGKILL)
        assert gateway.wait_event("control")["first"] is False
        assert len(gateway.events("worker")) == 2


def test_the_death_of_the_supervisor_takes_all_with_it() -> None:
    with running("slow") as gateway:
        gateway.wait_all_ready(2)
        gateway.signal(signal.SIGKILL)
        assert gateway.wait_end() == -signal.SIGKILL
        assert gateway.events("drained") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_55_a_signal_drains_all(number: int) -> None:
    with running("plain") as gateway:
        gateway.wait_all_ready(2)
        gateway.signal(number)
        assert gateway.wait_end() == 0
        assert len(gateway.events("drained")) == 3


def test_a_terminals_interrupt_reaches_children_only_through_the_supervisor() -> None:
    with running("plain") as gateway:
        gateway.wait_all_ready(2)
        for number in (signal.SIGHUP, signal.SIGINT):
            os.killpg(gateway.process.pid, number)
        assert gateway.wait_end() == 0
        assert len(gateway.events("drained")) == 3


def test_who_does_not_drain_is_killed_after_the_deadline() -> None:
    with running("stubborn") as gateway:
        gateway.wait_all_ready(1)
        asked_at = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_end() == 1
        assert time.monotonic() - asked_at >= 0.3
        assert "drain deadline passed; killing worker 0" in gateway.errors()


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_at_once(second: int, code: int) -> None:
    with running("slow") as gateway:
        gateway.wait_all_ready(2)
        gateway.signal(signal.SIGINT)
        gateway.wait_event("asked")
        gateway.signal(second)
        assert gateway.wait_end() == code


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        pytest.param("failing control", "error: binds[0].port: 70000 is not a port\n", id="error"),
        pytest.param("dying control", "control killed by signal 9 before a", id="killed"),
        pytest.param("leaving control", "control ended with code 0 before a", id="ended"),
        pytest.param("refused worker", "error: binds[0]: port 80 is in use\n", id="bind"),
    ],
)
def test_a_first_load_that_fails_ends_with_its_message(scenario: str, message: str) -> None:
    with running(scenario) as gateway:
        assert gateway.wait_end() == 1
        assert message in gateway.errors()
        assert len(gateway.events("control")) <= 1


def test_a_later_control_that_fails_is_tried_again_while_workers_go_on() -> None:
    with running("later failing control") as gateway:
        pids = gateway.wait_all_ready(1)
        os.kill(pids["control"], signal.SIGKILL)
        for _ in range(3):
            gateway.wait_event("control", first=False)
        os.kill(pids["0"], 0)
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_end() == 0
        assert "does not load any more" in gateway.errors()


def starts(gateway: Gateway, count: int) -> list[float]:
    at = [gateway.wait_event("worker")["at"] for _ in range(count)]
    return [later - earlier for earlier, later in itertools.pairwise(at)]


def test_backoff_doubles_up_to_the_last() -> None:
    with running("crashing worker") as gateway:
        gaps = starts(gateway, 6)
        assert all(
            gap >= least for gap, least in zip(gaps, (0.05, 0.1, 0.2, 0.2, 0.2), strict=True)
        )
        assert gaps[-1] < 0.4


def test_backoff_begins_anew_after_a_healthy_life() -> None:
    with running("healthy crashing worker") as gateway:
        assert sum(starts(gateway, 8)) < 7 * 0.2


def test_55_sighup_reaches_control_alone() -> None:
    with running("plain") as gateway:
        pids = gateway.wait_all_ready(2)
        gateway.signal(signal.SIGHUP)
        assert gateway.wait_event("reload")["pid"] == pids["control"]


def test_a_report_wakes_control_and_control_wakes_every_worker() -> None:
    with running("plain", REPORTING="1") as gateway:
        gateway.wait_all_ready(2)
        while {event["slot"] for event in gateway.events("woken")} != {0, 1}:
            assert gateway.next_event() is not None
        assert gateway.events("reported")


def test_54_damaged_memory_ends_the_gateway_instead_of_a_crash_loop() -> None:
    with running("damaged") as gateway:
        pids = gateway.wait_all_ready(2)
        os.kill(pids["0"], signal.SIGKILL)
        assert gateway.wait_end() == 1
        assert "error: /agw-0-config: 12 bytes long" in gateway.errors()


def test_the_supervisor_has_one_thread_no_socket_and_loses_no_descriptor() -> None:
    with running("plain") as gateway:
        pids = gateway.wait_all_ready(2)
        process = Path(f"/proc/{gateway.process.pid}")
        gateway.wait_settled()
        before = descriptors(process)
        for _ in range(3):
            os.kill(pids["0"], signal.SIGKILL)
            pids["0"] = gateway.wait_event("worker", slot=0)["pid"]
        gateway.wait_settled()
        assert len(descriptors(process)) == len(before)
        assert not any(target.startswith("socket:") for target in before)
        assert len(list((process / "task").iterdir())) == 1


def descriptors(process: Path) -> list[str]:
    return [os.readlink(link) for link in sorted((process / "fd").iterdir())]


def test_60_a_replacement_has_no_more_descriptors_than_the_first() -> None:
    with running("plain") as gateway:
        pids = gateway.wait_all_ready(2)
        before = len(descriptors(Path(f"/proc/{pids['0']}")))
        for _ in range(3):
            os.kill(pids["0"], signal.SIGKILL)
            pids["0"] = gateway.wait_event("worker", slot=0)["pid"]
        assert len(descriptors(Path(f"/proc/{pids['0']}"))) == before


def test_orphans_are_reaped() -> None:
    with running("orphaning", SUBREAPER="1") as gateway:
        pids = gateway.wait_all_ready(1)
        orphan = (gateway.events("orphan") or [gateway.wait_event("orphan")])[0]["pid"]
        descriptor = os.pidfd_open(orphan)
        os.kill(orphan, signal.SIGKILL)
        assert select.select([descriptor], [], [], PATIENCE_SECONDS)[0]
        os.close(descriptor)
        os.kill(pids["0"], signal.SIGKILL)
        gateway.wait_event("worker", slot=0)  # the supervisor has been awake since
        assert not Path(f"/proc/{orphan}").exists()


def test_an_upgrade_lets_the_new_instance_come_up_before_the_old_one_drains() -> None:
    with running("plain") as gateway:
        old = gateway.wait_all_ready(2)
        gateway.signal(signal.SIGUSR2)
        new = gateway.wait_all_ready(2)
        assert not set(old.values()) & set(new.values())
        while len(gateway.events("drained")) < 3:
            assert gateway.next_event() is not None
        assert {event["pid"] for event in gateway.events("drained")} == set(old.values())
        assert gateway.process.wait(PATIENCE_SECONDS) == 0
        successor = gateway.events("control")[1]["parent"]
        os.kill(new["0"], signal.SIGKILL)
        gateway.wait_event("worker", slot=0)  # supervised as the old ones were
        os.kill(successor, signal.SIGTERM)
        gateway.wait_end()
        assert len(gateway.events("drained")) == 6


def test_an_upgraded_instance_can_be_upgraded() -> None:
    with running("plain") as gateway:
        gateway.wait_all_ready(2)
        gateway.signal(signal.SIGUSR2)
        gateway.wait_all_ready(2)
        assert gateway.process.wait(PATIENCE_SECONDS) == 0
        second = gateway.events("control")[1]["parent"]
        os.kill(second, signal.SIGUSR2)
        gateway.wait_all_ready(2)
        third = gateway.events("control")[2]["parent"]
        assert third != second
        os.kill(third, signal.SIGTERM)
        gateway.wait_end()


def test_an_upgrade_that_fails_changes_nothing() -> None:
    with running("failing upgrade") as gateway:
        pids = gateway.wait_all_ready(1)
        for _ in range(2):
            gateway.signal(signal.SIGUSR2)
            assert gateway.process.stderr is not None
            assert b"upgrade failed" in gateway.process.stderr.readline()
        os.kill(pids["0"], 0)
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_end() == 0


def test_an_upgrade_is_given_up_when_all_is_to_end() -> None:
    with running("slow") as gateway:
        gateway.wait_all_ready(2)
        gateway.signal(signal.SIGUSR2)
        gateway.signal(signal.SIGTERM)
        gateway.wait_event("asked")
        gateway.signal(signal.SIGTERM)
        gateway.wait_end()


def test_52_the_tables_outlive_control_and_workers_and_go_with_the_supervisor() -> None:
    instance = f"test-supervised-{os.getpid()}"
    with running("tables", INSTANCE=instance) as gateway:
        pids = gateway.wait_all_ready(2)
        for name in ("0", "control", "1", "0"):
            os.kill(pids[name], signal.SIGKILL)
            pids.update(gateway.wait_place(name))
        statuses = ConfigTable.attach(instance).statuses()
        assert {str(status.worker): status.pid for status in statuses} == {
            name: pid for name, pid in pids.items() if name != "control"
        }
        (series,) = MetricsTable.attach(instance).collect()
        assert (series.key, series.value) == (b"starts", 5)
        assert {event["data"] for event in gateway.events("counted")} == {"snapshot"}
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_end() == 0
        with pytest.raises(SegmentMissingError):
            ConfigTable.attach(instance)


def test_workers_are_counted() -> None:
    with pytest.raises(ValueError, match="workers"):
        Supervisor(ProcessSpec(control, worker, 0))


def main() -> int:
    if os.environ.get("SUBREAPER"):
        become_subreaper()
    with ExitStack() as stack:
        if instance := os.environ.get("INSTANCE"):
            stack.callback(ConfigTable.create(instance, 2).close)
            stack.callback(MetricsTable.create(instance, 2).close)
        return Supervisor(SCENARIOS[sys.argv[1]]()).run()


if __name__ == "__main__":
    sys.exit(main())
