"""A waypoint over time: renewed certificates, workers that die, drains, and what it shows.

Source: spec istio sections 1.5 to 1.8 and 6 (rows 18, 22, 26).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hbone.errors import PeerRejectedError
from tests.hbone.pki import END, Pki, spiffe
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mesh import WAYPOINT, Inbound, Proxies, put_certificate
from tests.support.processes import wait_until
from tests.support.upstream import Answer, Seen, Upstream

DOMAIN = "svc.cluster.local"
RENEWED = spiffe("renewed")
SEALED = "127.0.0.5"


@dataclass
class Net:
    proxies: Proxies
    gateway: GatewayProcess
    hbone: Inbound
    folder: Path
    pki: Pki
    port: int
    config: dict[str, Any]

    def door(self, name: str, expected: str = WAYPOINT) -> int:
        return self.proxies.door(self.port, f"{name}.shop.{DOMAIN}:80", expected=expected)


def answered(seen: Seen) -> Answer:
    fields = [("connection", "close")] if seen.target == "/last" else []
    return Answer(200, fields, seen.target.encode())


@contextmanager
def running(folder: Path, workers: int = 1, pki: Pki | None = None, **more: Any) -> Iterator[Net]:
    pki = pki or Pki()
    certificate = put_certificate(pki.leaf(WAYPOINT), pki, folder)
    (port,) = free_ports(1)
    with (
        Proxies(pki) as proxies,
        Upstream(answered) as app,
    ):
        hbone = proxies.inbound(spiffe("sealed", namespace="shop"))
        names = ("plain", "raw", "sealed")
        config: dict[str, Any] = {
            "config": {"istio": {"certificate": certificate, **more.pop("istio", {})}, **more},
            "binds": [
                {
                    "port": port,
                    "tunnelProtocol": "hboneWaypoint",
                    "listeners": [{"protocol": "HBONE"}],
                }
            ],
            "services": [
                {
                    "name": name,
                    "namespace": "shop",
                    "hostname": f"{name}.shop.{DOMAIN}",
                    "ports": {"80": app.port},
                    "waypoint": {"destination": f"default/default.default.{DOMAIN}"},
                    **({"appProtocols": {"80": "TCP"}} if name == "raw" else {}),
                }
                for name in names
            ],
            "workloads": [
                {
                    "uid": name,
                    "namespace": "shop",
                    "workloadIps": [SEALED if name == "sealed" else "127.0.0.1"],
                    "services": {f"shop/{name}.shop.{DOMAIN}": {"80": app.port}},
                    **(
                        {
                            "protocol": "HBONE",
                            "hboneMtlsPort": hbone.port,
                            "serviceAccount": "sealed",
                        }
                        if name == "sealed"
                        else {}
                    ),
                }
                for name in names
            ],
        }
        with GatewayProcess(config, workers=workers) as gateway:
            yield Net(proxies, gateway, hbone, folder, pki, port, config)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder, pki = tmp_path_factory.mktemp("life"), Pki()
    lists = folder / "revoked.pem"
    lists.write_bytes(pki.crl())
    with running(folder, pki=pki, istio={"revocations": str(lists)}) as made:
        yield made


@contextmanager
def open_stream(port: int) -> Iterator[socket.socket]:
    """A connection on which one request was answered already."""
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        ask(sock)
        yield sock


def is_cut(port: int) -> bool:
    """Whether a connection ends before anything is said on it."""
    try:
        with socket.create_connection(("127.0.0.1", port), 20) as sock:
            return sock.recv(1) == b""
    except ConnectionError:
        return True


def ask(sock: socket.socket) -> None:
    sock.sendall(b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n")
    data = b""
    while not data.endswith(b"/x"):
        part = sock.recv(65536)
        assert part, data
        data += part


def test_the_dump_shows_no_key(net: Net) -> None:
    shown = str(net.gateway.dump()["resources"]["identity/own"])
    assert "PRIVATE" not in shown
    assert "BEGIN CERTIFICATE" in shown


def test_metrics(net: Net) -> None:
    with open_stream(net.door("raw")):
        net.gateway.wait_metric("agentgateway_hbone_tunnels", 1, direction="inbound")
        net.gateway.wait_metric_above("agentgateway_hbone_connections", 0, direction="inbound")
    net.gateway.wait_metric("agentgateway_hbone_tunnels", 0, direction="inbound")
    net.gateway.wait_metric_above("agentgateway_hbone_tunnels_total", 0, status="200")
    net.gateway.wait_metric_above("agentgateway_hbone_received_bytes_total", 0)
    net.gateway.wait_metric_above("agentgateway_hbone_handshake_seconds_count", 0)
    expiry = net.gateway.metric("agentgateway_certificate_expiry_timestamp_seconds")
    assert expiry == END.timestamp()


def test_nothing_but_tunnels_goes_to_who_takes_tunnels(net: Net) -> None:
    port = net.config["services"][0]["ports"]["80"]
    door = net.door("sealed")
    with socket.create_server((SEALED, port)) as listening:
        try:
            # What was kept from earlier is used up by the first.
            for refuse, status in ((0, 200), (401, 503), (503, 503), (0, 200)):
                net.hbone.refuse = refuse
                assert fetch(door, "/last").status == status
        finally:
            net.hbone.refuse = 0
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_a_renewed_certificate_is_for_new_connections(net: Net) -> None:
    assert fetch(net.door("sealed")).status == 200
    with open_stream(net.door("raw")) as sock:
        revision = net.gateway.dump()["revision"]
        put_certificate(net.pki.leaf(RENEWED), net.pki, net.folder)
        wait_revision(net.gateway, revision)
        try:
            ask(sock)  # nothing was dropped
            # Whoever comes anew meets the new identity, and so does who is called.
            other = net.proxies.door(
                net.port,
                f"plain.shop.{DOMAIN}:80",
                identity=spiffe("newcomer"),
                expected=RENEWED,
            )
            assert fetch(other).status == 200
            before = len(net.proxies.refused)
            stale = net.proxies.door(
                net.port, f"plain.shop.{DOMAIN}:80", identity=spiffe("another")
            )
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", stale), 20) as s,
            ):
                assert s.recv(1) == b""
            assert isinstance(net.proxies.refused[before], PeerRejectedError)
            net.hbone.seen.clear()
            assert fetch(net.door("sealed", RENEWED)).status == 200
        finally:
            revision = net.gateway.dump()["revision"]
            put_certificate(net.pki.leaf(WAYPOINT), net.pki, net.folder)
            wait_revision(net.gateway, revision)


def wait_revision(gateway: GatewayProcess, before: int) -> None:
    """The three files are replaced one after the other: until the last of them is in force."""
    gateway.wait_line(f"configuration revision {before + 1}")
    gateway.wait_applied(before + 1)


def test_a_certificate_that_fits_no_key_changes_nothing(net: Net) -> None:
    revision = net.gateway.dump()["revision"]
    good = (net.folder / "key.pem").read_bytes()
    (net.folder / "key.pem").write_bytes(net.pki.leaf(WAYPOINT).key)
    try:
        net.gateway.wait_line("the private key does not belong to the certificate")
        assert net.gateway.dump()["revision"] == revision
        assert fetch(net.door("plain")).status == 200
    finally:
        (net.folder / "key.pem").write_bytes(good)


def test_who_is_revoked_is_cut_off(net: Net) -> None:
    lists, fresh = net.folder / "revoked.pem", net.folder / "revoked.new"
    bad = net.proxies.door(net.port, f"raw.shop.{DOMAIN}:80", identity=spiffe("bad"))
    with open_stream(bad) as sock, open_stream(net.door("raw")) as other:
        gone = net.proxies.leaves[spiffe("bad")].certificate
        listed = net.pki.crl(gone)
        fresh.write_bytes(listed)
        fresh.replace(lists)
        sock.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
        ask(other)
        assert is_cut(bad)
        assert is_cut(bad)
        # A list that nobody signed whom we know changes nothing: the workers refuse it.
        revision = net.gateway.dump()["revision"]
        fresh.write_bytes(Pki("foreign").crl())
        fresh.replace(lists)
        net.gateway.wait_line("no known issuer signed the revocation list")
        net.gateway.wait_applied(revision + 2)  # what was there before, once more
        assert is_cut(bad)
        ask(other)
        fresh.write_bytes(listed)
        fresh.replace(lists)
        net.gateway.wait_line("configuration read again: nothing changed")


def test_a_worker_that_dies_takes_its_tunnels_alone(net: Net) -> None:
    with contextlib.ExitStack() as stack:
        door = net.door("raw")
        streams = [stack.enter_context(open_stream(door)) for _ in range(100)]
        pids = net.gateway.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for sock in streams:
            sock.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        net.gateway.wait_replaced(pids)
        assert fetch(door).status == 200


def test_a_drain_lets_tunnels_end(tmp_path: Path) -> None:
    with running(tmp_path, connectionTerminationDeadline="60s") as net:
        door = net.door("raw")
        with open_stream(door) as sock:
            net.gateway.process.send_signal(signal.SIGTERM)
            net.gateway.wait_not_ready()
            net.gateway.wait_draining()
            ask(sock)  # it goes on
            before = len(net.proxies.refused)
            # The connection takes no more tunnels, and the port no more connections.
            with (
                contextlib.suppress(ConnectionError),
                socket.create_connection(("127.0.0.1", door), 20) as s,
            ):
                assert s.recv(1) == b""
            wait_until(lambda: bool(net.proxies.refused[before:]))
        assert net.gateway.process.wait(30) == 0


def test_a_drain_cuts_what_does_not_end(tmp_path: Path) -> None:
    with (
        running(tmp_path, connectionTerminationDeadline="1s") as net,
        open_stream(net.door("raw")) as sock,
    ):
        sock.settimeout(20)
        assert net.gateway.stop() == 0
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


@pytest.mark.parametrize("fallback", [False, True])
def test_without_a_certificate_nothing_goes_out_in_the_clear(
    tmp_path: Path, fallback: bool
) -> None:
    (port,) = free_ports(1)
    with Upstream() as app:
        config = {
            "config": {"istio": {"plaintextFallback": fallback}},
            "binds": [
                {
                    "port": port,
                    "listeners": [
                        {"routes": [{"backends": [{"service": {"name": "shop/a.b", "port": 80}}]}]}
                    ],
                }
            ],
            "services": [
                {"name": "a", "namespace": "shop", "hostname": "a.b", "ports": {"80": app.port}}
            ],
            "workloads": [
                {
                    "uid": "w",
                    "namespace": "shop",
                    "workloadIps": ["127.0.0.1"],
                    "protocol": "HBONE",
                    "services": {"shop/a.b": {"80": app.port}},
                }
            ],
        }
        with GatewayProcess(config):
            got = fetch(port, "/", "POST", body=b"secret")
        assert got.status == (200 if fallback else 503)
        assert len(app.connections) == (1 if fallback else 0)
