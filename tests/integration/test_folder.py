"""What a gateway that is killed as a whole leaves in TMPDIR, and what the next one makes of it."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

from tests.support.gateway import ROOT, GatewayProcess, free_ports, run_until_exit
from tests.support.mcp_server import McpClient, mcp_config
from tests.support.processes import descendants, wait_gone

SCRIPT = str(ROOT / "tests" / "support" / "mcp_stdio.py")


def test_the_next_gateway_removes_what_a_killed_one_left() -> None:
    """And not what one that lives has, whose workers find each other all the while."""
    first, second, third = free_ports(3)
    target = {"name": "local", "stdio": {"cmd": sys.executable, "args": [SCRIPT]}}
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        env = {"TMPDIR": path}

        def folders() -> set[str]:
            return {one.name for one in Path(path).iterdir() if one.name.startswith("agw-")}

        with GatewayProcess(mcp_config(first, target), workers=2, env=env) as living:
            (own,) = folders()
            with GatewayProcess(mcp_config(second, target), env=env) as victim:
                (left,) = folders() - {own}
                assert (Path(path) / left / "worker-0.sock").is_socket()
                below = descendants(victim.process.pid)
                victim.process.send_signal(signal.SIGKILL)
                victim.process.wait()
                for pid in below:
                    wait_gone(pid)
                assert folders() == {own, left}
            with GatewayProcess(mcp_config(third, target), env=env) as heir:
                assert left not in folders()
                assert own in folders()
                client = McpClient(first)
                client.initialize()
                for n in range(6):
                    assert client.text("echo", text=f"v{n}") == f"v{n}"
                assert heir.stop() == 0
            assert folders() == {own}
            assert living.stop() == 0
        assert not folders()


def test_a_tmpdir_that_is_too_long_is_told_at_the_start(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    long = tmp_path / ("x" * 100)
    long.mkdir()
    document = tmp_path / "gateway.yaml"
    document.write_text(
        "config: {adminAddr: 'off', statsAddr: 'off', readinessAddr: 'off'}\n"
        f"binds: [{{port: {port}, listeners: [{{routes: []}}]}}]\n"
    )
    ended = run_until_exit(document, env={"TMPDIR": str(long)})
    assert ended.returncode == 1
    assert "error: TMPDIR (" in ended.stderr
    assert "bytes too long for the workers' sockets, whose paths may have 107" in ended.stderr
