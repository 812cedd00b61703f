"""Processes under fire (spec hardening section 4.3 F): killed, drained, reloaded, upgraded."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config, run_until_exit
from tests.support.load import Load
from tests.support.processes import (
    PATIENCE_SECONDS,
    client_ports_of,
    hello,
    is_gone,
    wait_gone,
    wait_revision,
    wait_text,
    wait_until,
)
from tests.support.upstream import Answer, Seen, Upstream

REQUESTS = "agentgateway_requests_total"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(lambda seen: Answer(200, body=b"ok")) as made:
        yield made


def test_52_a_killed_worker_costs_its_connections_alone(upstream: Upstream) -> None:
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, upstream.address), workers=2) as gateway:
        with Load(port, 8) as load:
            load.wait_answered(200)
            victim, other = gateway.worker_pids()
            lost = client_ports_of(victim, port)
            held = {one.local_port: one for one in load.tallies}
            assert lost | client_ports_of(other, port) >= held.keys()
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: len(set(gateway.worker_pids()) - {victim}) == 2)
            load.wait_answered(200)
            load.stop()
            assert load.failures == []
            assert {p for p, one in held.items() if one.resent} == lost & held.keys()
        # What the victim had in hand was answered and not counted, or counted and not answered.
        wait_until(lambda: abs(gateway.metric(REQUESTS) - load.answered) <= 2 * len(lost))
        assert gateway.stop() == 0


def test_52_a_killed_worker_keeps_what_it_counted(upstream: Upstream) -> None:
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, upstream.address), workers=1) as gateway:
        for _ in range(50):
            assert fetch(port).status == 200
        gateway.wait_metric(REQUESTS, 50)
        [victim] = gateway.worker_pids()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: bool(set(gateway.worker_pids()) - {victim}))
        wait_until(lambda: answers(port))
        gateway.wait_metric(REQUESTS, 51)
        assert fetch(port).status == 200
        gateway.wait_metric(REQUESTS, 52)


def answers(port: int) -> bool:
    try:
        return fetch(port).status == 200
    except OSError:
        return False


def test_52_a_killed_control_process_stops_no_traffic(upstream: Upstream) -> None:
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, upstream.address), workers=2) as gateway:
        with Load(port, 4) as load:
            load.wait_answered(100)
            before = gateway.dump()
            pid = gateway.control_pid()
            os.kill(pid, signal.SIGKILL)
            wait_until(gateway.is_ready)
            load.wait_answered(100)
            after = gateway.dump()
        assert load.failures == []
        assert sum(one.resent for one in load.tallies) == 0
        assert gateway.control_pid() != pid
        # Nothing had changed, so the workers were not made to compile anything.
        assert after["revision"] == before["revision"]
        assert after["resources"] == before["resources"]
        assert gateway.metric("agentgateway_config_synchronized") == 1
        gateway.reload({"binds": [hello(port, "new")]})
        assert fetch(port).text == "new"


def test_52_a_killed_control_process_comes_back_to_a_broken_file(upstream: Upstream) -> None:
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, upstream.address)) as gateway:
        pid = gateway.control_pid()
        os.kill(gateway.process.pid, signal.SIGSTOP)  # no replacement before the file is broken
        os.kill(pid, signal.SIGKILL)
        gateway.path.write_text("binds: [{port: true}]\n")
        os.kill(gateway.process.pid, signal.SIGCONT)
        wait_until(gateway.is_ready)
        dump = gateway.dump()
        assert fetch(port).status == 200
        assert "binds[0].port" in dump["lastError"]
        assert gateway.metric("agentgateway_config_synchronized") == 0
        wait_until(lambda: "stays in force" in gateway.log())
        gateway.reload({"binds": [hello(port, "mended")]})
        assert fetch(port).text == "mended"
        assert gateway.dump()["lastError"] is None


def test_60_a_dead_supervisor_takes_all_with_it(upstream: Upstream) -> None:
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, upstream.address), workers=2) as gateway:
        pids = [gateway.control_pid(), *gateway.worker_pids()]
        gateway.process.kill()
        for pid in pids:
            wait_gone(pid)
        gateway.process.wait()
        with pytest.raises(ConnectionRefusedError):
            fetch(port)


class Stream:
    """An open SSE stream through the gateway, and a neighbour on a kept connection."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        self.connection.request("GET", "/events", headers={"host": "h.test"})
        self.answer = self.connection.getresponse()

    def close(self) -> None:
        self.connection.close()


def events(end: threading.Event) -> Callable[[Seen], Answer]:
    def script(seen: Seen) -> Answer:
        if seen.target != "/events":
            return Answer(200, body=b"ok")

        def chunks() -> Iterator[bytes]:
            yield b"data: first\n\n"
            end.wait(PATIENCE_SECONDS)
            yield b"data: last\n\n"

        return Answer(200, [("content-type", "text/event-stream")], chunks())

    return script


def is_closed(port: int) -> bool:
    """Whether nobody listens; a connection of before the end is no answer."""
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    return False


def test_55_a_drain_waits_for_an_open_stream() -> None:
    [port] = free_ports(1)
    end = threading.Event()
    with Upstream(events(end)) as up, GatewayProcess(proxy_config(port, up.address)) as gateway:
        stream = Stream(port)
        assert stream.answer.readline() == b"data: first\n"
        late = socket.create_connection(("127.0.0.1", port))
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_not_ready()
        gateway.wait_draining()
        late.sendall(b"GET / HTTP/1.1\r\nhost: h.test\r\n\r\n")
        with late.makefile("rb") as reader:
            head = reader.read().lower()
        late.close()
        assert head.startswith(b"http/1.1 200")
        assert b"connection: close" in head
        wait_until(lambda: is_closed(port))
        end.set()
        assert stream.answer.read() == b"\ndata: last\n\n"
        stream.close()
        assert gateway.process.wait(PATIENCE_SECONDS) == 0


def test_55_a_drain_cuts_a_stream_at_the_deadline() -> None:
    [port] = free_ports(1)
    end = threading.Event()
    with Upstream(events(end)) as up:
        config = proxy_config(port, up.address)
        config["config"] = {"connectionTerminationDeadline": "1s"}
        with GatewayProcess(config) as gateway:
            stream = Stream(port)
            assert stream.answer.readline() == b"data: first\n"
            began = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                stream.answer.read()
            assert time.monotonic() - began > 0.9
            stream.close()
            assert gateway.process.wait(PATIENCE_SECONDS) == 0
        end.set()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_55_a_second_signal_ends_at_once(number: int, code: int) -> None:
    [port] = free_ports(1)
    end = threading.Event()
    with Upstream(events(end)) as up, GatewayProcess(proxy_config(port, up.address)) as gateway:
        stream = Stream(port)
        gateway.process.send_signal(number)
        gateway.wait_not_ready()
        gateway.process.send_signal(number)
        assert gateway.process.wait(PATIENCE_SECONDS) == code  # 0 after a drain
        stream.close()
        end.set()


def test_55_a_bad_file_keeps_the_old_configuration_and_says_so() -> None:
    [port] = free_ports(1)
    with GatewayProcess({"binds": [hello(port, "old")]}) as gateway:
        revision = gateway.dump()["revision"]
        gateway.path.write_text("binds:\n- port: true\n")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_metric("agentgateway_config_synchronized", 0)
        dump = gateway.dump()
        assert dump["revision"] == revision
        assert f"{gateway.path}:2:9: binds[0].port" in dump["lastError"]
        assert fetch(gateway.admin_port, "/logging?reset", "POST", host="localhost").status == 200
        assert gateway.metric("agentgateway_config_synchronized") == 0  # by a new revision too
        assert fetch(port).text == "old"
        wait_until(lambda: "configuration refused" in gateway.log())
        gateway.reload({"binds": [hello(port, "new")]})
        assert fetch(port).text == "new"
        gateway.wait_metric("agentgateway_config_synchronized", 1)


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_55_a_file_that_is_gone_changes_nothing(how: str) -> None:
    [port] = free_ports(1)
    with GatewayProcess({"binds": [hello(port, "old")]}) as gateway:
        if how == "emptied":
            gateway.path.write_text("")
        else:
            gateway.path.unlink()
        gateway.wait_metric("agentgateway_config_synchronized", 0)
        assert fetch(port).text == "old"
        gateway.reload({"binds": [hello(port, "new")]})
        assert fetch(port).text == "new"


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


def test_100_reloads_under_load_fail_no_request(upstream: Upstream) -> None:
    port, second = free_ports(2)
    with GatewayProcess(proxy_config(port, upstream.address), workers=2) as gateway:
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


def test_a_port_that_is_taken_refuses_the_reload() -> None:
    [port] = free_ports(1)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        GatewayProcess({"binds": [hello(port, "old")]}) as gateway,
    ):
        used = taken.getsockname()[1]
        gateway.write({"binds": [hello(port, "new"), hello(used)]})
        gateway.wait_metric("agentgateway_config_synchronized", 0)
        assert f"port {used}: in use by another process" in gateway.dump()["lastError"]
        assert fetch(port).text == "old"
        # Nothing of what was refused stays behind.
        gateway.reload({"binds": [hello(port, "newer")]})
        assert fetch(port).text == "newer"
        # Nor for workers that come later, whichever control process was told.
        old = gateway.control_pid()
        os.kill(old, signal.SIGKILL)
        wait_gone(old)
        wait_until(gateway.is_ready)
        gateway.write({"binds": [hello(port, "newest"), hello(used)]})
        gateway.wait_metric("agentgateway_config_synchronized", 0)
        wait_until(lambda: f"bind/{used}" not in str(gateway.dump()["resources"]))
        victims = gateway.worker_pids()
        os.kill(victims[0], signal.SIGKILL)
        gateway.wait_replaced(victims)
        assert fetch(port).text == "newer"


def test_a_configuration_whose_sockets_cannot_be_made_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    port, other = free_ports(2)
    target = {"name": "a", "mcp": {"host": "http://127.0.0.1:1/mcp"}}
    routes = [{"backends": [{"mcp": {"targets": [target]}}]}]
    served = {"port": other, "listeners": [{"routes": routes}]}
    with GatewayProcess({"binds": [hello(port, "old")]}, env={"TMPDIR": str(tmp_path)}) as gateway:
        [folder] = tmp_path.glob("agw-workers-*")
        folder.chmod(0o755)
        gateway.write({"binds": [hello(port, "new"), served]})
        gateway.wait_line("must belong to the gateway's user alone")
        gateway.wait_metric("agentgateway_config_synchronized", 0)
        assert fetch(port).text == "old"
        gateway.reload({"binds": [hello(port, "newer")]})
        assert fetch(port).text == "newer"
        folder.chmod(0o700)
        gateway.reload({"binds": [hello(port, "newest"), served]})
        assert fetch(port).text == "newest"
        assert (folder / "worker-0.sock").exists()


def test_a_refused_file_stays_seen_whatever_else_is_published() -> None:
    [port] = free_ports(1)
    with GatewayProcess({"binds": [hello(port, "old")]}) as gateway:
        gateway.path.write_text("binds: [{port: true}]\n")
        gateway.wait_metric("agentgateway_config_synchronized", 0)
        revision = gateway.dump()["revision"]
        httpx.post(f"http://127.0.0.1:{gateway.admin_port}/logging?level=debug")
        gateway.wait_applied(revision + 1)
        assert gateway.metric("agentgateway_config_synchronized") == 0
        assert "binds[0].port" in gateway.dump()["lastError"]


@pytest.mark.parametrize("workers", [2, 1])
def test_an_upgrade_fails_no_request(upstream: Upstream, workers: int) -> None:
    [port] = free_ports(1)
    with GatewayProcess(proxy_config(port, upstream.address), workers=2) as gateway:
        old = [gateway.process.pid, gateway.control_pid(), *gateway.worker_pids()]
        listening = sockets_of(old, port)
        assert len(listening) == 2
        text = gateway.path.read_text()
        gateway.path.write_text(text.replace("workerThreads: 2", f"workerThreads: {workers}"))
        new = 0
        try:
            with Load(port, 4) as kept, Load(port, 2, fresh=True) as fresh:
                kept.wait_answered(50)
                gateway.process.send_signal(signal.SIGUSR2)
                code = gateway.process.wait(PATIENCE_SECONDS)
                wait_until(gateway.is_ready)
                new = supervisor_of(gateway.control_pid())
                assert code == 0, gateway.log()
                kept.wait_answered(50)
                fresh.wait_answered(10)
            assert kept.failures == []
            assert fresh.failures == []
            assert all(is_gone(pid) for pid in old)
            # The same sockets: closing one would reset who waits in it.
            assert len(gateway.worker_pids()) == workers
            assert sockets_of(gateway.worker_pids(), port) == listening
        finally:
            if new:
                os.kill(new, signal.SIGTERM)
                wait_gone(new)


def sockets_of(pids: list[int], port: int) -> set[str]:
    """The listening sockets of this port that the processes hold, as the kernel numbers them."""
    held = {name for pid in pids for name in files_of(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found & held


def files_of(pid: int) -> set[str]:
    names = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.add(os.readlink(path))
    return names


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


def test_an_upgrade_takes_over_a_unix_socket(upstream: Upstream, tmp_path: Path) -> None:
    [port] = free_ports(1)
    path = tmp_path / "admin.sock"
    document = {**proxy_config(port, upstream.address), "config": {"adminAddr": f"unix:{path}"}}
    with GatewayProcess(document) as gateway:
        new = 0
        try:
            old = supervisor_of(control_behind(path))
            assert old == gateway.process.pid
            gateway.process.send_signal(signal.SIGUSR2)
            code = gateway.process.wait(PATIENCE_SECONDS)
            assert code == 0, gateway.log()
            new = supervisor_of(control_behind(path))
            assert new != old
            assert fetch(port).status == 200
            assert os.listdir(tmp_path) == ["admin.sock"]
        finally:
            if new:
                os.kill(new, signal.SIGTERM)
                wait_gone(new)
    assert not path.exists()


def control_behind(path: Path) -> int:
    """The process that serves the admin API on a Unix socket, by what it says itself."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as http:
        dump = http.get("http://localhost/config_dump").json()
    [pid] = [int(one["pid"]) for one in dump["processes"] if one["role"] == "control"]
    return pid


def supervisor_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def written(path: Path, config: dict[str, Any]) -> Path:
    addresses = dict.fromkeys(("adminAddr", "statsAddr", "readinessAddr"), "off")
    static = {**addresses, "workerThreads": 1, **config.pop("config", {})}
    path.write_text(yaml.safe_dump({"config": static, **config}, sort_keys=False))
    return path


def test_a_bad_file_at_the_start_exits_1_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("binds:\n- port: true\n  listeners: []\n")
    ended = run_until_exit(path)
    assert ended.returncode == 1
    assert f"{path}:2:9: binds[0].port" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "another-gateway"])
def test_a_port_in_use_at_the_start_exits_1(tmp_path: Path, shares: bool) -> None:
    with socket.socket() as taken:
        if shares:  # as another gateway of this user would
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        ended = run_until_exit(written(tmp_path / "gateway.yaml", {"binds": [hello(port)]}))
    assert ended.returncode == 1
    assert f"port {port}: in use by another process" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("key", ["adminAddr", "statsAddr", "readinessAddr"])
def test_an_address_in_use_at_the_start_exits_1(tmp_path: Path, key: str) -> None:
    [port] = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = {"config": {key: address}, "binds": [hello(port)]}
        ended = run_until_exit(written(tmp_path / "gateway.yaml", config))
    assert ended.returncode == 1
    assert f"config.{key}: cannot listen on {address}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_front_door_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    path = written(
        tmp_path / "gateway.yaml", {"config": {"frontDoor": "hyper"}, "binds": [hello(1)]}
    )
    ended = run_until_exit(path)
    assert ended.returncode == 1
    assert "config.frontDoor" in ended.stderr


def test_front_doors_are_in_the_dump() -> None:
    [port] = free_ports(1)
    config = {"config": {"frontDoor": "granian"}, "binds": [hello(port)]}
    with GatewayProcess(config) as gateway:
        doors = set(gateway.dump()["frontDoors"].values())
        assert doors == {"granian (HTTP/2), native (HTTP/1.1)"}
        assert orjson.dumps(gateway.dump())


def test_a_revision_that_workers_refuse_does_not_stay_published() -> None:
    """Else a worker that dies then could never be replaced."""
    port, taken = free_ports(2)
    with Upstream() as up, socket.socket() as holder:
        holder.bind(("127.0.0.1", taken))
        holder.listen()
        good = proxy_config(port, up.address)
        with GatewayProcess(good, workers=2) as gateway:
            bad = {"binds": [*good["binds"], proxy_config(taken, up.address)["binds"][0]]}
            gateway.write(bad)
            gateway.wait_metric("agentgateway_config_synchronized", 0)
            dump = gateway.dump()
            assert "port" in dump["lastError"]
            assert f"bind/bind/{taken}" not in dump["resources"]
            gateway.wait_applied(dump["revision"])
            old = gateway.worker_pids()
            for pid in old:
                os.kill(pid, signal.SIGKILL)
            gateway.wait_replaced(old)
            assert fetch(port).status == 200
            holder.close()
            revision = gateway.dump()["revision"]
            gateway.process.send_signal(signal.SIGHUP)
            gateway.wait_metric("agentgateway_config_synchronized", 1)
            gateway.wait_applied(revision + 1)
            assert fetch(taken).status == 200


def test_config_of_a_replaced_worker_is_that_of_the_others() -> None:
    port = free_ports(1)[0]
    with Upstream() as up:
        config = proxy_config(port, up.address)
        with GatewayProcess(config, workers=1) as gateway:
            gateway.reload({**config, "config": {"logging": {"format": "json"}}})
            old = gateway.worker_pids()
            os.kill(old[0], signal.SIGKILL)
            gateway.wait_replaced(old)
            assert fetch(port).status == 200
            gateway.stop()
            assert '"scope":"request"' not in gateway.log()
