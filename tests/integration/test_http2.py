"""HTTP/2 end to end: in by prior knowledge and ALPN, out by the rules of the upstream version.

Source: spec/config.md sections 3.11 and 4.9; RFC 9113; with h2load.
"""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.authority import Authority
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.h2 import H2Upstream
from tests.support.programs import needs_program
from tests.support.upstream import Answer, Seen, Upstream

PLAIN, TLS = free_ports(2)
H2, H1 = {"http": {"version": "HTTP/2.0"}}, {"http": {"version": "HTTP/1.1"}}


class Peers:
    """The gateway's certificate and its upstreams."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.folder = folder
        for name, dns in (("edge", "edge.test"), ("up", "up.test")):
            pair = self.authority.issue([dns])
            (folder / f"{name}.crt").write_text(pair.cert)
            (folder / f"{name}.key").write_text(pair.key)
        (folder / "root").write_text(self.authority.root)

    def server_context(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "up.crt", self.folder / "up.key")
        context.set_alpn_protocols(list(alpn))
        return context

    def trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.root)
        context.check_hostname = False
        return context


def tell(seen: Seen) -> Answer:
    """What came, with trailers behind a chunked body."""
    return Answer(200, [("x-upstream", "h1")], [b"body: ", seen.body], [("x-trailer", "t")])


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    return Peers(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def h1(peers: Peers) -> Iterator[Upstream]:
    with Upstream(tell) as made:
        yield made


@pytest.fixture(scope="module")
def h2c() -> Iterator[H2Upstream]:
    with H2Upstream() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(peers: Peers, h1: Upstream, h2c: H2Upstream) -> Iterator[GatewayProcess]:
    folder = peers.folder
    with (
        H2Upstream(peers.server_context("h2", "http/1.1")) as h2_tls,
        Upstream(tell, tls=peers.server_context("http/1.1")) as h1_tls,
    ):
        back = {"backendTLS": {"root": str(folder / "root"), "hostname": "up.test"}}

        def route(path: str, address: str, **policies: Any) -> dict[str, Any]:
            return {
                "matches": [{"path": {"pathPrefix": path}}],
                "backends": [{"host": address, "policies": policies}],
            }

        routes = [
            route("/h2c/default", h2c.address),
            route("/h2c/set", h2c.address, **H2),
            route("/h1/set", h1.address, **H1),
            route("/h1/default", h1.address),
            route("/alpn/h2", h2_tls.address, **back),
            route("/alpn/h1", h1_tls.address, **back),
            route("/alpn/set", h2_tls.address, **back, **H2),
            route("/alpn/mismatch", h1_tls.address, **back, **H2),
        ]
        tls = {"cert": str(folder / "edge.crt"), "key": str(folder / "edge.key")}
        config = {
            "binds": [
                {"port": PLAIN, "listeners": [{"routes": routes}]},
                {"port": TLS, "listeners": [{"protocol": "HTTPS", "tls": tls, "routes": routes}]},
            ]
        }
        with GatewayProcess(config) as process:
            yield process


Clients = dict[str, httpx.Client]


@pytest.fixture(scope="module")
def clients(gateway: GatewayProcess, peers: Peers) -> Iterator[Clients]:
    """By version and scheme of the downstream side."""
    with (
        httpx.Client(http2=True, http1=False, base_url=f"http://127.0.0.1:{PLAIN}") as h2_plain,
        httpx.Client(base_url=f"http://127.0.0.1:{PLAIN}") as h1_plain,
        httpx.Client(
            http2=True, verify=peers.trust(), base_url=f"https://127.0.0.1:{TLS}"
        ) as h2_tls,
        httpx.Client(verify=peers.trust(), base_url=f"https://127.0.0.1:{TLS}") as h1_tls,
    ):
        # The listener has a hostname for any name, and an address is no server name.
        yield {"h2": h2_plain, "h1": h1_plain, "h2s": h2_tls, "h1s": h1_tls}


@pytest.mark.parametrize(
    ("client", "path", "upstream"),
    [
        ("h2", "/h2c/default", "h2"),
        ("h1", "/h1/default", "h1"),
        ("h2s", "/h1/default", "h1"),
        ("h1s", "/h1/default", "h1"),
        ("h1", "/h2c/set", "h2"),
        ("h1s", "/h2c/set", "h2"),
        ("h2s", "/h2c/set", "h2"),
        ("h2", "/h1/set", "h1"),
        ("h1", "/alpn/h2", "h2"),
        ("h2", "/alpn/h2", "h2"),
        ("h2s", "/alpn/h2", "h2"),
        ("h2", "/alpn/h1", "h1"),
        ("h1", "/alpn/set", "h2"),
    ],
)
def test_version_of_the_upstream(client: str, path: str, upstream: str, clients: Clients) -> None:
    answer = clients[client].post(path, content=b"hello")
    assert answer.status_code == 200, answer.text
    assert answer.http_version == ("HTTP/2" if client.startswith("h2") else "HTTP/1.1")
    assert answer.headers["x-upstream"] == upstream
    assert answer.text == ("hello" if upstream == "h2" else "body: hello")


def test_grpc_over_tls_goes_out_as_http2(clients: Clients) -> None:
    kind = {"content-type": "application/grpc"}
    answer = clients["h2s"].post("/h2c/default", content=b"x", headers=kind)
    assert answer.headers["x-upstream"] == "h2"


def test_an_upstream_without_the_version_asked_for(clients: Clients) -> None:
    answer = clients["h2"].get("/alpn/mismatch")
    assert answer.status_code == 503
    assert answer.text.startswith("upstream call failed: ")


def test_underscored_names_are_dropped_from_either_version(clients: Clients, h1: Upstream) -> None:
    """Hardening case 38: a twin that CGI would take for the name with a hyphen."""
    h1.take()
    for client in ("h1", "h2", "h2s"):
        clients[client].get("/h1/set", headers={"x_user": "forged", "x-real": "1"})
    for seen in h1.take():
        assert seen.get("x_user") is None
        assert seen.get("x-real") == "1"


def test_cookies_are_one_field(clients: Clients, h1: Upstream) -> None:
    h1.take()
    clients["h2"].get("/h1/set", headers=[("cookie", "a=1"), ("cookie", "b=2")])
    assert h1.take()[0].get_all("cookie") == ["a=1; b=2"]


def test_authority_becomes_host(clients: Clients, h1: Upstream, h2c: H2Upstream) -> None:
    h1.take()
    clients["h2"].get("/h1/set", headers={"host": "shop.test:81"})
    assert h1.take()[0].get_all("host") == ["shop.test:81"]
    h2c.requests.clear()
    clients["h1"].get("/h2c/set", headers={"host": "shop.test"})
    assert h2c.requests[0][":authority"] == "shop.test"
    assert "host" not in h2c.requests[0]
    assert h2c.requests[0][":scheme"] == "http"


def test_head_and_empty_answers(clients: Clients) -> None:
    assert clients["h2"].head("/h1/set").content == b""
    assert clients["h2s"].head("/h1/default").status_code == 200


def test_large_bodies_both_ways(clients: Clients) -> None:
    """Bodies both ways, larger than a window, each whole."""
    body = bytes(range(256)) * 4096
    with clients["h2"].stream("POST", "/h1/set", content=body) as answer:
        assert b"".join(answer.iter_bytes()) == b"body: " + body


@needs_program("h2load")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.usefixtures("gateway")
def test_h2load(scheme: str) -> None:
    port = PLAIN if scheme == "http" else TLS
    command = [
        "h2load",
        "-n",
        "2000",
        "-c",
        "4",
        "-m",
        "20",
        f"{scheme}://127.0.0.1:{port}/h2c/set",
    ]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    output = done.stdout.decode()
    told = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    assert told is not None, output
    assert told.groups() == ("2000", "0", "0", "0"), output
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in output


def test_a_refused_stream_leaves_the_connection(clients: Clients) -> None:
    """A route that does not exist is an answer on its stream alone."""
    assert clients["h2"].get("/none").status_code == 404
    assert clients["h2"].get("/h2c/set").status_code == 200
