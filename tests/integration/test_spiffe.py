"""TLS by SPIFFE end to end: `deploy/examples/traffic-spiffe.yaml` with an agent of ours.

Source: spec/config.md sections 1.4, 3.11 (backendTLS) and 8.1 (spiffe.endpoint). One gateway for
all, in the order of its life: before the first certificate, with it, renewed, without an agent.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from cryptography import x509

from tests.hbone.pki import Leaf, Pki
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.programs import needs_program
from tests.support.spiffe_agent import Agent, Answer, federated, svid
from tests.support.upstream import Answer as HttpAnswer
from tests.support.upstream import Seen, Upstream

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy/examples/traffic-spiffe.yaml"
SERVING, CALLING, RELAYED, OUTER = free_ports(4)
GATEWAY = "spiffe://example.org/gateway"
CART = "spiffe://example.org/ns/shop/sa/cart"
ADMIN = "spiffe://example.org/ns/default/sa/admin"
UP = "spiffe://example.org/ns/default/sa/upstream"
FRIEND = "spiffe://partner.test/agent"
EXPIRY = "agentgateway_svid_expiry_timestamp_seconds"


class Unready(GatewayProcess):
    """Starts without waiting, for it is ready only when a test has given it a certificate."""

    is_awaited = False

    def wait_ready(self) -> None:
        if self.is_awaited:
            super().wait_ready()

    def pending(self) -> bytes:
        """What readiness waits for, once it can be asked."""
        until = time.monotonic() + 60
        while True:
            assert time.monotonic() < until, self.log()
            try:
                found = self._get(self.readiness_port, "/healthz/ready")[1]
            except OSError:
                found = b"control"
            if b"certificate" in found:
                return found
            time.sleep(0.02)


def put(folder: Path, name: str, leaf: Leaf) -> tuple[str, str]:
    """Paths of certificate and key."""
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    for path, content in zip(paths, (leaf.chain, leaf.key), strict=True):
        path.write_bytes(content)
    return str(paths[0]), str(paths[1])


@dataclass
class World:
    folder: Path
    gateway: Unready
    socket: Path
    agent: Agent
    ours: Pki
    partner: Pki
    stranger: Pki
    up: Upstream
    ups: ssl.SSLContext

    def give(self, leaf: Leaf) -> None:
        """The agent's next answer."""
        answer = Answer(svids=[svid(self.ours, leaf, GATEWAY)])
        for name, der in federated({"partner.test": self.partner}).items():
            answer.federated_bundles[name] = der
        self.agent.put(answer)

    def client(self, leaf: Leaf | None, name: str = "client") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # an SVID has no host's name
        context.load_verify_locations(cadata=self.ours.root_pem.decode())
        if leaf is not None:
            context.load_cert_chain(*put(self.folder, name, leaf))
        return context

    def serve_as(self, leaf: Leaf) -> None:
        """What the upstream shows from now on."""
        self.ups.load_cert_chain(*put(self.folder, "up", leaf))

    def revised(self, revision: int) -> None:
        """Until all workers run a later one."""
        self.gateway.wait_applied(revision + 1)


def document(agent: str, up: Upstream, plain: Upstream) -> dict[str, Any]:
    text = EXAMPLE.read_text()
    for old, new in (
        ("unix:///run/spire/agent.sock", agent),
        ("3000", str(SERVING)),
        ("3001", str(CALLING)),
        ("upstream.internal:8443", up.address),
        ("web.internal:8080", plain.address),
    ):
        assert old in text
        text = text.replace(old, new)
    made: dict[str, Any] = yaml.safe_load(text)
    # Beside the example: an upstream of any name, one of a partner, and the partner's clients.
    for path, names in (("/any", None), ("/partner", [FRIEND])):
        tls: dict[str, Any] = {"spiffe": {}}
        if names is not None:
            tls["subjectAltNames"] = names
        made["routes"].append(
            {
                "name": path[1:],
                "gateways": "calling",
                "matches": [{"path": {"exact": path}}],
                "backends": [{"host": up.address, "policies": {"backendTLS": tls}}],
            }
        )
    made["config"]["additionalTrustDomains"] = "partner.test"
    # And TLS that ends here before octets are relayed, over a port and through a tunnel.
    made["gateways"]["relayed"] = {"port": RELAYED, "protocol": "TLS", "tls": {"spiffe": {}}}
    made["tcpRoutes"] = [{"gateways": "relayed", "backends": [{"host": plain.address}]}]
    made["binds"] = [{"port": OUTER, "tunnelProtocol": "connect", "listeners": [{"routes": []}]}]
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("spiffe")
    ours, partner, stranger = Pki("ours"), Pki("partner"), Pki("stranger")
    path = folder / "agent.sock"
    ups = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ups.load_cert_chain(*put(folder, "up", ours.leaf(UP)))
    ups.load_verify_locations(cadata=ours.root_pem.decode())
    ups.verify_mode = ssl.CERT_REQUIRED

    def said(seen: Seen) -> HttpAnswer:
        shown = seen.get("x-client-spiffe-id") or "over TLS"
        shown += seen.get("x-forwarded-client-cert") or ""
        return HttpAnswer(200, [("connection", "close")], shown.encode())

    with (
        Agent(path) as agent,
        Upstream(said, tls=ups) as up,
        Upstream(said) as plain,
        Unready(document(agent.address, up, plain)) as gateway,
    ):
        yield World(folder, gateway, path, agent, ours, partner, stranger, up, ups)


@pytest.fixture(scope="module")
def ready(world: World) -> World:
    """With a certificate."""
    world.give(world.ours.leaf(GATEWAY))
    world.gateway.is_awaited = True
    world.gateway.wait_ready()
    return world


def refused(context: ssl.SSLContext) -> None:
    """A listener hangs up, before the handshake or after it."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        fetch(SERVING, "/whoami", tls=context)


def test_before_the_first_certificate(world: World) -> None:
    assert b"certificate" in world.gateway.pending()
    refused(world.client(world.ours.leaf(CART)))
    answer = fetch(CALLING, "/")
    assert answer.status == 503
    assert "the SPIFFE agent has given no certificate that is valid now" in answer.text


def test_who_the_client_is(ready: World) -> None:
    cart = ready.client(ready.ours.leaf(CART))
    assert fetch(SERVING, "/whoami", tls=cart).text == CART
    assert fetch(SERVING, "/", tls=cart, headers={"x-client-spiffe-id": ADMIN}).text == CART
    said = {"x-forwarded-client-cert": f"URI={ADMIN}"}
    assert fetch(SERVING, "/", tls=cart, headers=said).text == CART
    assert fetch(SERVING, "/admin", tls=cart).status == 403
    admin = ready.client(ready.ours.leaf(ADMIN))
    assert fetch(SERVING, "/admin", tls=admin).text == "welcome"


def test_clients_of_other_trust_domains(ready: World) -> None:
    friend = ready.client(ready.partner.leaf(FRIEND))
    assert fetch(SERVING, "/whoami", tls=friend).text == FRIEND
    for leaf in (
        ready.partner.leaf(CART),
        ready.ours.leaf(FRIEND),
        ready.stranger.leaf(CART),
        ready.ours.leaf("spiffe://other.test/x"),
        ready.ours.leaf(CART, ADMIN),
        None,
    ):
        refused(ready.client(leaf))


def through(context: ssl.SSLContext, port: int) -> bytes:
    """What the relayed upstream, or the listener, answers through the tunnel."""
    with socket.create_connection(("127.0.0.1", OUTER), timeout=20) as outer:
        outer.sendall(f"CONNECT a:{port} HTTP/1.1\r\nhost: a:{port}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += outer.recv(1)
        assert head.startswith(b"HTTP/1.1 200"), head
        with context.wrap_socket(outer) as inner:
            inner.sendall(b"GET /whoami HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            answer = b""
            while piece := inner.recv(4096):
                answer += piece
    return answer


def test_wherever_tls_ends_the_client_is_looked_at(ready: World) -> None:
    cart, forged = ready.client(ready.ours.leaf(CART)), ready.client(ready.partner.leaf(CART))
    assert fetch(RELAYED, tls=cart).text == "over TLS"
    assert through(cart, RELAYED).endswith(b"over TLS")
    assert through(cart, SERVING).endswith(CART.encode())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        fetch(RELAYED, tls=forged)
    for port in (RELAYED, SERVING):
        try:
            assert through(forged, port) == b""
        except (ssl.SSLError, ConnectionError):
            continue  # which of the two, is the network's to say


@needs_program("openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl(version: str, ready: World) -> None:
    (ready.folder / "bundle.pem").write_bytes(ready.ours.root_pem)
    cert, key = put(ready.folder, "openssl", ready.ours.leaf(CART))
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{SERVING}", version, "-quiet"]
    command += ["-verify_return_error", "-CAfile", str(ready.folder / "bundle.pem")]
    command += ["-cert", cert, "-key", key]
    request = b"GET /whoami HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    done = subprocess.run(command, input=request, capture_output=True, timeout=20, check=False)
    assert done.stdout.startswith(b"HTTP/1.1 200 OK"), done.stderr
    assert done.stdout.endswith(CART.encode())


@needs_program("curl")
def test_curl(ready: World) -> None:
    cert, key = put(ready.folder, "curl", ready.ours.leaf(CART))
    # It can look for a host's name only, which the certificate does not have.
    command = ["curl", "-sS", "--insecure", "--http2", "--cert", cert, "--key", key]
    command += ["-w", " %{http_version}", f"https://127.0.0.1:{SERVING}/whoami"]
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert done.stdout.decode() == f"{CART} 2", done.stderr


def test_whom_the_gateway_calls(ready: World) -> None:
    upstream, friend = ready.ours.leaf(UP), ready.partner.leaf(FRIEND)
    other, forged = ready.ours.leaf(CART), ready.partner.leaf(UP)
    expected = {
        "/": (upstream,),
        "/any": (upstream, other),
        "/partner": (friend,),
    }
    for leaf in (upstream, friend, other, forged, ready.stranger.leaf(UP)):
        ready.serve_as(leaf)
        for path, good in expected.items():
            answer = fetch(CALLING, path)
            assert answer.status == (200 if leaf in good else 503), (path, answer.text)
    ready.serve_as(upstream)


def serial_of(sock: ssl.SSLSocket) -> int:
    der = sock.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def ask(sock: ssl.SSLSocket) -> None:
    sock.sendall(b"GET /whoami HTTP/1.1\r\nhost: a\r\n\r\n")
    whole = b""
    while not whole.endswith(CART.encode()):
        piece = sock.recv(4096)
        assert piece, whole
        whole += piece


def opened(context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", SERVING), timeout=20))


def test_rotation_under_an_open_connection(ready: World) -> None:
    gateway = ready.gateway
    context = ready.client(ready.ours.leaf(CART))
    renewed = ready.ours.leaf(GATEWAY)
    with closing(opened(context)) as sock:
        ask(sock)
        before = serial_of(sock)
        revision = gateway.dump()["revision"]
        ready.give(renewed)
        ready.revised(revision)
        with closing(opened(context)) as other:
            assert serial_of(other) == renewed.certificate.serial_number != before
            ask(other)
        ask(sock)
    assert fetch(CALLING, "/").status == 200
    gateway.wait_metric(EXPIRY, renewed.certificate.not_valid_after_utc.timestamp())


def test_nothing_of_it_is_dumped(ready: World) -> None:
    dump = ready.gateway._get(ready.gateway.admin_port, "/config_dump")[1]
    assert b"PRIVATE KEY" not in dump
    assert b"svid/own" not in dump
    told = ready.gateway.dump()["mesh"]["certificate"]
    assert (told["spiffeId"], told["federated"]) == (GATEWAY, ["partner.test"])
    assert "PRIVATE" not in ready.gateway.log()


def test_the_agent_dies_and_comes_back(ready: World) -> None:
    gateway = ready.gateway
    context = ready.client(ready.ours.leaf(CART))
    ready.agent.put(grpc.StatusCode.UNAVAILABLE)
    ready.agent.stop()
    gateway.wait_line("the certificate stays until")
    assert fetch(SERVING, "/whoami", tls=context).text == CART
    assert fetch(CALLING, "/").status == 200
    assert gateway.is_ready()
    revision = gateway.dump()["revision"]
    last = ready.ours.leaf(GATEWAY)
    with Agent(ready.socket) as ready.agent:
        ready.give(last)
        ready.revised(revision)
        with closing(opened(context)) as sock:
            assert serial_of(sock) == last.certificate.serial_number
