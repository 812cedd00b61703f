"""Pods whose only proxy is the gateway as their sidecar: mutual TLS between them, no ztunnel.

Real processes in network namespaces of their own; the applications are sockets of this process and
curl.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.hbone.pki import Pki, spiffe
from tests.support.gateway import GatewayProcess
from tests.support.namespaces import Node, Pod, node, reason_against
from tests.support.processes import wait_until
from tests.support.programs import needs_program

REASON = reason_against()
pytestmark = [pytest.mark.skipif(bool(REASON), reason=REASON), needs_program("curl")]
PKI = Pki()
PORT = 8080
SECRET = b"what nobody on the wire may read"
VIPS = {"a": "10.50.0.1", "b": "10.50.0.2", "old": "10.50.0.3"}
FRONTED = "10.50.0.9"
"""A service with the pods of `b`, called through the waypoint `w`."""
WAYPOINT = "default.default.svc.cluster.local"


class PodGateway(GatewayProcess):
    """Asked from inside of its pod."""

    def __init__(self, pod: Pod, config: dict[str, Any]) -> None:
        super().__init__(config, launcher=pod.launcher)
        self._pod = pod

    def _get(self, port: int, path: str) -> tuple[int, bytes]:
        with self._pod.inside():
            return super()._get(port, path)


@dataclass
class Mesh:
    """`a` calls, `b` and `old` are called, `c` has no sidecar, `w` is a waypoint."""

    node: Node
    a: Pod
    b: Pod
    c: Pod
    old: Pod
    w: Pod
    folder: Path

    def certificate(self, account: str) -> dict[str, str]:
        leaf = PKI.leaf(spiffe(account))
        files = {"chain": leaf.chain, "key": leaf.key, "roots": PKI.root_pem}
        for name, text in files.items():
            (self.folder / f"{account}.{name}").write_bytes(text)
        return {name: str(self.folder / f"{account}.{name}") for name in files}

    def config(self, account: str, **sidecar: Any) -> dict[str, Any]:
        istio = {
            "certificate": self.certificate(account),
            "policyFiles": [str(self.folder / "policies" / "*.yaml")],
            "sidecar": sidecar,
        }
        config = {"istio": istio, "connectionTerminationDeadline": "30s"}
        return {"config": config, **self.discovery()}

    def discovery(self) -> dict[str, Any]:
        pods = {"a": self.a, "b": self.b, "old": self.old, "w": self.w}
        serves = {
            **{name: {f"default/{name}.test": {"80": PORT, "81": PORT}} for name in VIPS},
            "w": {f"default/{WAYPOINT}": {"15008": 15008}},
        }
        serves["b"]["default/fronted.test"] = {"80": PORT}
        waypoint = {
            "name": "default",
            "namespace": "default",
            "hostname": WAYPOINT,
            "vips": ["/10.50.0.8"],
            "ports": {"15008": 15008},
        }
        fronted = {
            "name": "fronted",
            "namespace": "default",
            "hostname": "fronted.test",
            "vips": [f"/{FRONTED}"],
            "ports": {"80": PORT},
            "waypoint": {"destination": f"default/{WAYPOINT}"},
        }
        return {
            "services": [
                waypoint,
                fronted,
                *(
                    {
                        "name": name,
                        "namespace": "default",
                        "hostname": f"{name}.test",
                        "vips": [f"/{vip}"],
                        "ports": {"80": PORT, "81": PORT},
                    }
                    for name, vip in VIPS.items()
                ),
            ],
            "workloads": [
                {
                    "uid": name,
                    "name": name,
                    "namespace": "default",
                    "serviceAccount": name,
                    "workloadIps": [pod.address],
                    "protocol": "HBONE",
                    "services": serves[name],
                }
                for name, pod in pods.items()
            ],
        }

    def policy(self, *denied: str) -> None:
        """Deny these, all else is allowed."""
        principals = [name.removeprefix("spiffe://") for name in denied or ("nobody",)]
        document = {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "deny", "namespace": "default"},
            "spec": {
                "action": "DENY",
                "rules": [{"from": [{"source": {"principals": principals}}]}],
            },
        }
        path = self.folder / "policies" / "deny.yaml"
        path.parent.mkdir(exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(document))
        os.replace(fresh, path)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with node() as made:
        a, b, c, old, w = (made.pod(name) for name in ("a", "b", "c", "old", "w"))
        for pod in (a, b, old):
            pod.redirect()
            pod.do("ip", "route", "add", "10.50.0.0/16", "dev", "eth0")
        found = Mesh(made, a, b, c, old, w, tmp_path_factory.mktemp("mesh"))
        found.policy()
        yield found


@pytest.fixture(scope="module")
def from_a(mesh: Mesh) -> Iterator[GatewayProcess]:
    route = {
        "policies": {"requestHeaderModifier": {"set": {"x-by": "the sidecar's own route"}}},
        "backends": [{"service": {"name": "default/b.test", "port": 80}}],
    }
    config = mesh.config("a", mode="strict")
    config["binds"] = [{"port": 80, "mode": "internal", "listeners": [{"routes": [route]}]}]
    with PodGateway(mesh.a, config) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def to_b(mesh: Mesh) -> Iterator[GatewayProcess]:
    with PodGateway(mesh.b, mesh.config("b")) as gateway:
        yield gateway


@contextmanager
def application(pod: Pod) -> Iterator[list[bytes]]:
    """Says everything back, as HTTP where it was asked so; gives what each connection said."""
    heard: list[bytes] = []
    listener = pod.listen(PORT)
    listener.settimeout(None)

    def serve(sock: socket.socket) -> None:
        place = len(heard)
        heard.append(b"")
        with sock:
            try:
                while data := sock.recv(65536):
                    heard[place] += data
                    sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + data if b"HTTP/1" in data else data)
                    if b"HTTP/1" in data:
                        return
            except ConnectionError:
                heard[place] += b"<cut>"

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)


def curl(pod: Pod, url: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = (*pod.launcher, "curl", "-sS", "--noproxy", "*", "--max-time", "20", *options, url)
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


def echoes(client: socket.socket, data: bytes = SECRET) -> bool:
    client.sendall(data)
    answer = b""
    while len(answer) < len(data) and (part := client.recv(len(data))):
        answer += part
    return answer == data


def is_cut(client: socket.socket) -> bool:
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def is_reached(pod: Pod, host: str, seconds: float = 20.0) -> bool:
    """`seconds`: few where it is asked again and again: one that hangs may not take them all."""
    try:
        with pod.connect(host, PORT, seconds) as client:
            return echoes(client)
    except OSError:
        return False


def is_refused(pod: Pod, host: str, port: int) -> bool:
    try:
        with pod.connect(host, port) as client:
            client.sendall(SECRET)
            return is_cut(client)
    except (ConnectionResetError, BrokenPipeError, ConnectionRefusedError):
        return True


@pytest.mark.parametrize("url", ["http://{address}:8080/x", "http://10.50.0.2:81/x"])
def test_curl_from_pod_to_pod(
    mesh: Mesh, from_a: GatewayProcess, to_b: GatewayProcess, url: str
) -> None:
    with application(mesh.b) as heard, mesh.node.sniffed() as sniffer:
        said = curl(mesh.a, url.format(address=mesh.b.address), "-H", f"x: {SECRET.decode()}")
        seen = sniffer.close()
    assert said.returncode == 0, (said.stderr, from_a.log(), to_b.log())
    assert SECRET in said.stdout
    assert heard[0].startswith(b"GET /x HTTP/1.1\r\n")
    assert b"x-by" not in heard[0]  # octets, not requests
    assert SECRET not in seen
    assert b"GET /x" not in seen


def test_http_to_a_port_with_routes_goes_through_them(
    mesh: Mesh, from_a: GatewayProcess, to_b: GatewayProcess
) -> None:
    with application(mesh.b) as heard, mesh.node.sniffed() as sniffer:
        said = curl(mesh.a, f"http://{VIPS['b']}/x", "-H", f"x: {SECRET.decode()}")
        seen = sniffer.close()
    assert said.returncode == 0, (said.stderr, from_a.log(), to_b.log())
    assert heard, (said.stdout, from_a.log(), to_b.log())
    assert b"x-by: the sidecar's own route" in heard[0]
    assert SECRET not in seen


def test_through_a_waypoint_from_sidecar_to_sidecar(
    mesh: Mesh, from_a: GatewayProcess, to_b: GatewayProcess
) -> None:
    route = {
        "hostnames": ["fronted.test"],
        "policies": {
            "transformations": {
                "request": {"set": {"x-by": "'waypoint of ' + source.identity.serviceAccount"}}
            }
        },
        "backends": [{"service": {"name": "default/fronted.test", "port": 80}}],
    }
    bind = {
        "port": 15008,
        "tunnelProtocol": "hboneWaypoint",
        "listeners": [{"protocol": "HBONE", "routes": [route]}],
    }
    config = {
        "config": {"istio": {"certificate": mesh.certificate("w")}},
        "binds": [bind],
        **mesh.discovery(),
    }
    with (
        PodGateway(mesh.w, config) as waypoint,
        application(mesh.b) as heard,
        mesh.node.sniffed() as sniffer,
    ):
        # The port of `a`s own bind: its routes are not the way around a waypoint.
        said = curl(mesh.a, f"http://{FRONTED}/x", "-H", f"x: {SECRET.decode()}")
        assert said.returncode == 0, (said.stderr, from_a.log(), waypoint.log(), to_b.log())
        assert heard, (said.stdout, waypoint.log(), from_a.log(), to_b.log())
        assert b"x-by: waypoint of a" in heard[0]
        mesh.policy(spiffe("w"))

        def is_denied() -> bool:
            said = curl(mesh.a, f"http://{FRONTED}/x", "--max-time", "2").stdout
            return b"RBAC" in said or b"upstream" in said

        wait_until(is_denied)
        assert SECRET not in sniffer.close()
    mesh.policy()
    wait_until(lambda: reaches(mesh))


def reaches(mesh: Mesh) -> bool:
    with application(mesh.b):
        return is_reached(mesh.a, mesh.b.address, 2.0)


def test_others_are_refused_in_strict_mode(mesh: Mesh, to_b: GatewayProcess) -> None:
    with application(mesh.b) as heard:
        assert is_refused(mesh.c, mesh.b.address, PORT)
        assert heard == []
    to_b.wait_metric(
        "agentgateway_sidecar_connections_total", 1, direction="plaintext", flag="DENY"
    )


def test_a_policy_by_identity_and_its_change(
    mesh: Mesh, from_a: GatewayProcess, to_b: GatewayProcess
) -> None:
    with application(mesh.b) as heard, mesh.a.connect(mesh.b.address, PORT) as client:
        assert echoes(client)
        mesh.policy(spiffe("a"))
        assert is_cut(client)
        assert is_refused(mesh.a, mesh.b.address, PORT)
        assert len(heard) == 1
        mesh.policy()
        wait_until(lambda: is_reached(mesh.a, mesh.b.address, 2.0))
    name = "agentgateway_sidecar_connections_total"
    wait_until(lambda: to_b.metric(name, direction="inbound", flag="DENY") >= 2)


@pytest.mark.parametrize("whose", ["a", "b"])
def test_a_worker_that_is_killed_takes_its_connections_and_no_more(
    mesh: Mesh, from_a: GatewayProcess, to_b: GatewayProcess, whose: str
) -> None:
    gateway = from_a if whose == "a" else to_b
    with application(mesh.b), mesh.node.sniffed() as sniffer:
        clients = [mesh.a.connect(mesh.b.address, PORT) for _ in range(20)]
        assert all(echoes(client) for client in clients)
        pids = gateway.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert all(is_cut(client) for client in clients)
        gateway.wait_replaced(pids)
        for client in clients:
            client.close()
        assert is_reached(mesh.a, mesh.b.address)
        assert SECRET not in sniffer.close()


def test_a_drain_waits_for_what_lives(mesh: Mesh, from_a: GatewayProcess) -> None:
    with PodGateway(mesh.old, mesh.config("old")) as gateway, application(mesh.old):
        with mesh.a.connect(mesh.old.address, PORT) as client:
            assert echoes(client)
            gateway.process.send_signal(signal.SIGTERM)
            gateway.wait_not_ready()
            gateway.wait_draining()
            assert echoes(client)
            assert is_refused(mesh.a, mesh.old.address, PORT)
            client.shutdown(socket.SHUT_WR)
            assert is_cut(client)  # the application's own end
        assert gateway.process.wait(20) == 0
