"""Processes under fire (spec hardening section 4.3 F): killed and drained."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config
from tests.support.load import Load
from tests.support.processes import PATIENCE_SECONDS, client_ports_of, hello, wait_gone, wait_until
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
            assert {p for p, one in held.items() if one.resent} == lost & held.keys()
            # Who comes back at once may meet the victim's socket a moment before it is closed.
            assert all(one.resent for one in load.tallies if one.failures)
            assert all("ConnectionResetError" in text for text in load.failures)
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
            levels = "/logging?level=sidecar.gateway.control=warn"
            assert fetch(gateway.admin_port, levels, "POST", host="localhost").status == 200
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
        gateway.stop()
        assert "changed on disk" not in gateway.log()  # its level is that of the one before


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
