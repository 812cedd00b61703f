"""Reloads (spec hardening section 4.3 F): files that change, ports that come and go."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from pathlib import Path

import orjson
import pytest

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config
from tests.support.load import Load
from tests.support.processes import hello, wait_revision, wait_text, wait_until
from tests.support.upstream import Answer, Upstream

REQUESTS = "agentgateway_requests_total"


def test_55_sighup_reads_again_without_a_change() -> None:
    [port] = free_ports(1)
    with GatewayProcess({"binds": [hello(port)]}) as gateway:
        revision = gateway.dump()["revision"]
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "nothing changed" in gateway.log())
        assert gateway.dump()["revision"] == revision


def test_a_kubernetes_volume_is_swapped(tmp_path: Path) -> None:
    [port] = free_ports(1)
    gateway = GatewayProcess({"binds": [hello(port, "one")]})
    text = gateway.path.read_text()

    def mount(version: str) -> None:
        """As the kubelet does: a new folder, then `..data` renamed over the old link."""
        folder = tmp_path / f"..{version}"
        folder.mkdir()
        (folder / "gateway.yaml").write_text(text.replace("body: one", f"body: {version}"))
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")

    mount("one")
    gateway.path = tmp_path / "gateway.yaml"
    gateway.path.symlink_to("..data/gateway.yaml")
    with gateway:
        assert fetch(port).text == "one"
        for version in ("two", "three"):
            mount(version)
            wait_text(port, version)


def test_a_change_beside_a_busy_log_is_applied_at_once() -> None:
    """It takes about 100 ms; one that waited for the log's end, or for a look, 1 s or more."""
    [port] = free_ports(1)
    with GatewayProcess({"binds": [hello(port, "old")]}) as gateway:
        stop = threading.Event()

        def write_log() -> None:
            with (gateway.path.parent / "busy.log").open("w") as log:
                while not stop.wait(0.002):
                    log.write("line\n")
                    log.flush()

        busy = threading.Thread(target=write_log)
        busy.start()
        try:
            taken = []
            for index in range(5):
                gateway.write({"binds": [hello(port, str(index))]})
                began = time.monotonic()
                wait_text(port, str(index))
                taken.append(time.monotonic() - began)
        finally:
            stop.set()
            busy.join()
        assert min(taken) < 0.7, taken  # the machine may stall now and then
        assert "changes detected" not in gateway.log()


def test_100_reloads_under_load_fail_no_request() -> None:
    port, second = free_ports(2)
    with (
        Upstream(lambda seen: Answer(200, body=b"ok")) as upstream,
        GatewayProcess(proxy_config(port, upstream.address), workers=2) as gateway,
    ):
        base = gateway.dump()["revision"]
        with Load(port, 4) as kept, Load(port, 2, fresh=True) as fresh:
            kept.wait_answered(50)
            for count in range(100):
                config = proxy_config(port, upstream.address, name=f"r{count}")
                if count % 10 == 9:
                    config["binds"].append(hello(second))
                gateway.write(config)
                wait_revision(gateway, base + count + 1)
            gateway.wait_applied(base + 100)
            kept.wait_answered(50)
            fresh.wait_answered(10)
        assert kept.failures == []
        assert fresh.failures == []
        assert sum(one.resent for one in kept.tallies) == 0
        counted = kept.answered + fresh.answered
        gateway.wait_metric(REQUESTS, counted)


def test_ports_come_and_go_on_reload() -> None:
    first, second = free_ports(2)
    with GatewayProcess({"binds": [hello(first, "first")]}, workers=2) as gateway:
        with pytest.raises(ConnectionRefusedError):
            fetch(second)
        gateway.reload({"binds": [hello(first, "first"), hello(second, "second")]})
        assert fetch(second).text == "second"
        gateway.reload({"binds": [hello(second, "second")]})
        with pytest.raises(ConnectionRefusedError):
            fetch(first)
        assert fetch(second).text == "second"


def test_front_doors_are_in_the_dump() -> None:
    [port] = free_ports(1)
    config = {"config": {"frontDoor": "granian"}, "binds": [hello(port)]}
    with GatewayProcess(config) as gateway:
        doors = set(gateway.dump()["frontDoors"].values())
        assert doors == {"granian (HTTP/2), native (HTTP/1.1)"}
        assert orjson.dumps(gateway.dump())


def test_a_worker_that_cannot_read_a_configuration_reads_it_later() -> None:
    [port] = free_ports(1)
    with GatewayProcess({"binds": [hello(port, "old")]}) as gateway:
        [pid] = gateway.worker_pids()
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, before[1]))
        gateway.write({"binds": [hello(port, "new")]})
        gateway.wait_line("the configuration cannot be read; trying again soon")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        wait_text(port, "new")
        assert gateway.worker_pids() == [pid]
        assert gateway.metric("agentgateway_config_synchronized") == 1
