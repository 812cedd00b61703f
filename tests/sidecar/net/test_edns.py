"""EDNS0: what the configuration may ask for, and what the resolver then sends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.net.edns import edns0_problem, use_edns0

ROOT = Path(__file__).resolve().parents[3]


def test_what_can_be_had(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    assert edns0_problem(None, {}, conf) == ""
    assert edns0_problem(False, {}, conf) == ""
    conf.write_text("# options edns0\nnameserver 10.0.0.1\noptions ndots:5\n")
    assert edns0_problem(False, {}, conf) == ""
    conf.write_text("nameserver 10.0.0.1\noptions ndots:5 edns0 trust-ad\n")
    assert "resolv.conf" in edns0_problem(False, {}, conf)
    assert "RES_OPTIONS" in edns0_problem(False, {"RES_OPTIONS": "edns0"}, tmp_path / "none")


@pytest.mark.parametrize(
    ("wanted", "before", "after"),
    [
        (True, "", "edns0"),
        (True, "ndots:1", "ndots:1 edns0"),
        (True, "edns0", "edns0"),
        (False, "ndots:1", "ndots:1"),
        (None, "ndots:1", "ndots:1"),
    ],
)
def test_other_options_stay(wanted: bool | None, before: str, after: str) -> None:
    env = {"RES_OPTIONS": before}
    use_edns0(wanted, env)
    assert env["RES_OPTIONS"] == after


PROBE = """
import asyncio, socket, struct, sys, threading, uvloop
from sidecar.net.edns import use_edns0
from sidecar.net.resolve import Resolver

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
additional = []

def serve():
    while True:
        query, peer = server.recvfrom(4096)
        additional.append(struct.unpack("!H", query[10:12])[0])
        end = 12
        while query[end]:
            end += query[end] + 1
        question = query[12 : end + 5]
        is_a = question[-4:-2] == b"\\0\\1"
        head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, int(is_a), 0, 0)
        record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\x0a\\1\\2\\3" if is_a else b""
        server.sendto(head + question + record, peer)

threading.Thread(target=serve, daemon=True).start()
use_edns0(sys.argv[1] == "yes" or None)

async def main():
    return await Resolver(asyncio.get_running_loop()).pick("name.example")

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    assert runner.run(main()) == "10.1.2.3"
assert set(additional) == {int(sys.argv[1] == "yes")}, additional
"""


def reason_against() -> str:
    """Why there can be no resolver of one's own here; empty when there can."""
    if os.geteuid() != 0:
        return "another /etc/resolv.conf needs root"
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "not installed: unshare or ip"
    done = subprocess.run(["unshare", "-mn", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "no namespaces here"


@pytest.mark.skipif(bool(reason_against()), reason=reason_against() or "runs")
@pytest.mark.parametrize("wanted", ["yes", "no"])
def test_queries_have_the_option(tmp_path: Path, wanted: str) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\n")
    (tmp_path / "probe.py").write_text(PROBE)
    script = 'mount --bind "$1" /etc/resolv.conf && ip link set lo up && exec "$2" "$3" "$4"'
    command = ["unshare", "-mn", "sh", "-c", script, "sh", str(conf), sys.executable]
    done = subprocess.run(
        [*command, str(tmp_path / "probe.py"), wanted],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
