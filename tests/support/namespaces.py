"""Pods of a node as network namespaces on one switch, and what is seen on their wires.

Needs root, iproute2 and iptables; `reason_against` says what is missing. Everything is named after
this process and removed at the end.

A socket belongs to the namespace its thread was in when it was made, so `inside` lets this process
be a pod's application, and a thread that `enter`s one can be its sidecar.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import select
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
REDIRECT: Final = ROOT / "deploy" / "sidecar" / "redirect.sh"
_CLONE_NEWNET: Final = 0x40000000
_ETH_P_ALL: Final = 3
_PROGRAMS: Final = ("ip", "iptables", "ip6tables", "iptables-restore", "ip6tables-restore")
_serial = itertools.count()


def reason_against() -> str:
    """Why there can be no pods here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    # A machine that tests every change must not pass for lack of what it tests with.
    if missing and not os.environ.get("CI"):
        return f"not installed: {', '.join(missing)}"
    name = f"agw-try-{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        return f"no network namespaces: {error.stderr.strip()}"
    try:
        run("ip", "-n", name, "link", "add", "probe", "type", "veth", "peer", "name", "other")
        for program in ("iptables", "ip6tables"):
            run("ip", "netns", "exec", name, program, "-t", "nat", "-A", "OUTPUT", *_PROBE)
    except subprocess.CalledProcessError as error:
        return f"no packet filter in namespaces: {error.stderr.strip()}"
    finally:
        run("ip", "netns", "del", name)
    return ""


_PROBE: Final = ("-p", "tcp", "-m", "mark", "!", "--mark", "1", "-j", "REDIRECT", "--to-ports", "1")


def run(*command: str, **env: str) -> str:
    """Its output. Raises: CalledProcessError, with what it said."""
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
    )
    return done.stdout


def enter(name: str) -> None:
    """This thread is in that namespace from now on."""
    _enter(Path("/run/netns") / name)


def _enter(path: Path) -> None:
    with path.open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))


class Pod:
    """One namespace; `address` and `address6` are those of its only interface."""

    def __init__(self, switch: str, name: str, number: int) -> None:
        self.name = f"{switch}-{name}"
        self.address = f"10.99.0.{number + 10}"
        self.address6 = f"fd99::{number + 10:x}"
        port = f"port{number}"
        run("ip", "netns", "add", self.name)
        self.do("ip", "link", "set", "lo", "up")
        run(
            *("ip", "-n", switch, "link", "add", port, "type", "veth"),
            *("peer", "name", "eth0", "netns", self.name),
        )
        run("ip", "-n", switch, "link", "set", port, "master", "switch", "up")
        self.do("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.do("ip", "addr", "add", f"{self.address6}/64", "dev", "eth0", "nodad")
        self.do("ip", "link", "set", "eth0", "up")

    def do(self, *command: str, **env: str) -> str:
        """Run a command in the pod; its output."""
        return run("ip", "netns", "exec", self.name, *command, **env)

    @property
    def launcher(self) -> tuple[str, ...]:
        """What a command is put behind, to be run in the pod."""
        return ("ip", "netns", "exec", self.name)

    def redirect(self, *arguments: str, **env: str) -> str:
        """Run deploy/sidecar/redirect.sh."""
        return self.do(str(REDIRECT), *arguments, **env)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in the pod for a while."""
        home = Path(f"/proc/self/task/{threading.get_native_id()}/ns/net")
        with home.open() as file:
            enter(self.name)
            try:
                yield
            finally:
                _enter(Path(f"/proc/self/fd/{file.fileno()}"))

    def listen(self, port: int, host: str = "") -> socket.socket:
        """A listening socket of an application of the pod."""
        host = host or self.address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with self.inside():
            sock = socket.create_server((host, port), family=family, backlog=64)
        sock.settimeout(20)
        return sock

    def connect(self, host: str, port: int, seconds: float = 20.0) -> socket.socket:
        """A connection of an application of the pod. Raises: OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with self.inside():
            sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(seconds)
        try:
            sock.connect((host, port))
        except OSError:
            sock.close()
            raise
        return sock


class Node:
    """A switch and its pods."""

    def __init__(self, switch: str) -> None:
        self.switch = switch
        self.pods: list[Pod] = []
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "switch", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "switch", "up")

    def pod(self, name: str) -> Pod:
        """One more."""
        pod = Pod(self.switch, name, len(self.pods))
        self.pods.append(pod)
        return pod

    @contextmanager
    def sniffed(self) -> Iterator[Sniffer]:
        """What passes the switch while the block runs."""
        sniffer = Sniffer(self.switch)
        try:
            yield sniffer
        finally:
            sniffer.close()

    def close(self) -> None:
        """Remove it all."""
        for name in (*(pod.name for pod in self.pods), self.switch):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextmanager
def node() -> Iterator[Node]:
    """A node for as long as the block runs."""
    made = Node(f"agw{os.getpid()}n{next(_serial)}")
    try:
        yield made
    finally:
        made.close()


class Sniffer:
    """Every frame of a namespace, as AF_PACKET gives it."""

    def __init__(self, namespace: str) -> None:
        self._frames: list[bytes] = []
        self._wake, self._woken = socket.socketpair()
        has_socket = threading.Event()

        def listen() -> None:
            enter(namespace)
            kind = socket.htons(_ETH_P_ALL)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024 * 1024)
                has_socket.set()
                while True:
                    readable, _, _ = select.select([sock, self._woken], [], [])
                    if sock not in readable:
                        return  # all that came was taken
                    self._frames.append(sock.recv(1 << 17))

        self._thread = threading.Thread(target=listen, daemon=True)
        self._thread.start()
        assert has_socket.wait(20)

    def close(self) -> bytes:
        """Stop; all that was seen, one frame after the other."""
        if self._wake.fileno() != -1:
            self._wake.send(b".")
            self._thread.join(20)
            self._wake.close()
            self._woken.close()
        return b"".join(self._frames)
