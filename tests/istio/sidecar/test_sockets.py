"""Marks, transparency and listeners, with and without the right to them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from istio.sidecar.sockets import (
    CaptureError,
    check_mark,
    check_transparent,
    listening,
    outgoing,
)

_CAP_NET_ADMIN = 12


def has_net_admin() -> bool:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.M)
    return found is not None and bool(int(found[1], 16) >> _CAP_NET_ADMIN & 1)


needs_net_admin = pytest.mark.skipif(not has_net_admin(), reason="needs CAP_NET_ADMIN")


@needs_net_admin
def test_sockets_are_marked_before_they_connect() -> None:
    check_mark(1337)
    check_transparent()
    with socket.socket() as sock:
        outgoing(1337)(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 1337
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_without_a_mark_nothing_is_needed() -> None:
    check_mark(0)
    with socket.socket() as sock:
        outgoing(0)(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give its rights up")
def test_who_may_not_mark_is_told_what_to_do() -> None:
    script = (
        "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "from istio.sidecar.sockets import *\n"
        "for check in (lambda: check_mark(1337), check_transparent):\n"
        "    try:\n"
        "        check()\n"
        "    except CaptureError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import istio.sidecar.sockets\n" + script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    mark, source = done.stdout.splitlines()
    assert mark.startswith("config.istio.sidecar.packetMark: cannot mark packets with 1337")
    assert "CAP_NET_ADMIN" in mark
    assert "set 0" in mark
    assert source.startswith("config.istio.sidecar.preserveSource")


def test_workers_share_a_port_and_strangers_are_named() -> None:
    one = listening("127.0.0.1", 0)
    port = one.getsockname()[1]
    other = listening("127.0.0.1", port)
    other.close()
    one.close()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(CaptureError, match=f"port {port}: in use by another process"):
            listening("127.0.0.1", port)
