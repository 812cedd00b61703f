"""Reloads that are refused, by control or by a worker: all goes on, also in new processes."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config
from tests.support.processes import hello, wait_gone, wait_until
from tests.support.upstream import Upstream


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
