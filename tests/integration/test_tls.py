"""TLS end to end: listeners by server name, client certificates, backends, certificate reload.

Source: spec/config.md sections 1.4, 2.1, 3.11 and 7.2; with openssl s_client and curl.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.support.authority import Authority
from tests.support.certificates import Pair
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.programs import needs_program
from tests.support.upstream import Answer, Upstream

PORT, MUTUAL, STRICT, BACK = free_ports(4)
CLIENT = "spiffe://cluster.local/ns/shop/sa/cart"


class Files:
    """Certificates of a test as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority("server root")
        self.clients = Authority("client root")
        self.text("root", self.authority.root)
        self.text("client-root", self.clients.root)

    def text(self, name: str, text: str) -> str:
        fresh = self.folder / f".{name}"
        fresh.write_text(text)
        os.replace(fresh, self.folder / name)
        return str(self.folder / name)

    def pair(self, name: str, pair: Pair) -> dict[str, str]:
        """`cert` and `key` of a `tls` block."""
        return {
            "cert": self.text(f"{name}.crt", pair.cert),
            "key": self.text(f"{name}.key", pair.key),
        }

    def server(self, name: str, *names: str) -> dict[str, str]:
        return self.pair(name, self.authority.issue(names))

    def trust(self) -> ssl.SSLContext:
        """A client's context."""
        return ssl.create_default_context(cadata=self.authority.root)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


def says(text: str, **more: Any) -> dict[str, Any]:
    return {"routes": [{"policies": {"directResponse": {"status": 200, "body": text}, **more}}]}


CLAIM = "x-forwarded-client-cert"
CLAIMED = {
    "matches": [{"path": {"exact": "/claimed"}}],
    "policies": {
        "directResponse": {
            "status": 200,
            "bodyExpression": f'string("{CLAIM}" in request.headers)',
        }
    },
}
WHO = """{"sub": source.subject, "cn": source.subjectCn, "iss": source.issuer,
 "id": source.spiffeId, "ns": source.identity.namespace, "sa": source.identity.serviceAccount,
 "td": source.identity.trustDomain, "san": source.subjectAltNames,
 "pem": source.certificate.startsWith("-----BEGIN CERTIFICATE-----")}"""


@pytest.fixture(scope="module")
def upstream(files: Files) -> Iterator[Upstream]:
    pair = files.server("upstream", "up.test", "spiffe://td/ns/n/sa/up")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair["cert"], pair["key"])
    context.load_verify_locations(cadata=files.clients.root)
    context.verify_mode = ssl.CERT_OPTIONAL
    with Upstream(lambda seen: Answer(200, body=b"over TLS"), tls=context) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(files: Files, upstream: Upstream) -> Iterator[GatewayProcess]:
    one = files.server("one", "one.test")
    wild = files.server("wild", "*.wild.test")
    mutual = {**files.server("mutual", "mutual.test"), "root": str(files.folder / "client-root")}
    strict = {**files.server("strict", "strict.test"), "minTLSVersion": "TLS_V1_3"}
    client = files.pair("gateway", files.clients.issue(["gateway.test"]))
    root = str(files.folder / "root")
    who = f"toJson({WHO})"

    def backend(path: str, **tls: Any) -> dict[str, Any]:
        return {
            "matches": [{"path": {"exact": path}}],
            "backends": [{"host": upstream.address, "policies": {"backendTLS": tls}}],
        }

    only_cart = {"authorization": {"rules": [f'source.spiffeId == "{CLIENT}"']}}
    config = {
        "binds": [
            {
                "port": PORT,
                "listeners": [
                    {"name": "one", "protocol": "HTTPS", "hostname": "one.test", "tls": one}
                    | says("one"),
                    {"name": "wild", "protocol": "HTTPS", "hostname": "*.wild.test", "tls": wild}
                    | says("wild"),
                ],
            },
            {
                "port": MUTUAL,
                "listeners": [
                    {"protocol": "HTTPS", "tls": mutual}
                    | {
                        "routes": [
                            CLAIMED,
                            {
                                "matches": [{"path": {"exact": "/who"}}],
                                "policies": {
                                    "directResponse": {"status": 200, "bodyExpression": who}
                                },
                            },
                            {
                                "matches": [{"path": {"exact": "/cart"}}],
                                "policies": {
                                    **only_cart,
                                    "directResponse": {"status": 200, "body": "cart"},
                                },
                            },
                        ]
                    }
                ],
            },
            {
                "port": STRICT,
                "listeners": [{"protocol": "HTTPS", "tls": strict} | says("strict")],
            },
            {
                "port": BACK,
                "listeners": [
                    {
                        "routes": [
                            CLAIMED,
                            backend("/good", root=root, hostname="up.test"),
                            backend("/name", root=root),
                            backend("/other", root=root, hostname="other.test"),
                            backend("/unknown", hostname="up.test"),
                            backend("/insecure", insecure=True),
                            backend("/host", root=root, insecureHost=True),
                            backend("/san", root=root, subjectAltNames=["spiffe://td/ns/n/sa/up"]),
                            backend("/not-san", root=root, subjectAltNames=["spiffe://td/no"]),
                            backend("/client", root=root, hostname="up.test", **client),
                        ]
                    }
                ],
            },
        ]
    }
    with GatewayProcess(config) as process:
        yield process


@pytest.mark.parametrize(
    ("name", "text"), [("one.test", "one"), ("a.wild.test", "wild"), ("ONE.test", "one")]
)
@pytest.mark.usefixtures("gateway")
def test_listener_and_certificate_by_server_name(name: str, text: str, files: Files) -> None:
    assert fetch(PORT, host=name, tls=files.trust()).text == text


@pytest.mark.usefixtures("gateway")
def test_a_name_nobody_serves_is_closed(files: Files) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        fetch(PORT, host="other.test", tls=files.trust())


@pytest.mark.usefixtures("gateway")
def test_a_host_of_another_listener_is_misdirected(files: Files) -> None:
    with (
        socket.create_connection(("127.0.0.1", PORT), 20) as raw,
        files.trust().wrap_socket(raw, server_hostname="one.test") as sock,
        sock.makefile("rb") as stream,
    ):
        got = []
        for host in (b"a.wild.test", b"other.test", b"one.test"):
            sock.sendall(b"GET / HTTP/1.1\r\nhost: %b\r\n\r\n" % host)
            head = [stream.readline()]
            while (line := stream.readline().lower()) != b"\r\n":
                head.append(line)
            length = next(int(line[15:]) for line in head if line.startswith(b"content-length"))
            got.append((head[0].split()[1], stream.read(length)))
    assert got == [
        (b"421", b"misdirected request"),
        (b"404", b"listener not found"),
        (b"200", b"one"),
    ]


@pytest.mark.usefixtures("gateway")
def test_plaintext_on_a_tls_port_is_closed() -> None:
    with socket.create_connection(("127.0.0.1", PORT), 20) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: one.test\r\n\r\n")
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            return  # closed with octets unread, which the kernel tells by a reset


@pytest.mark.usefixtures("gateway")
def test_lowest_version(files: Files) -> None:
    old = files.trust()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        fetch(STRICT, host="strict.test", tls=old)
    assert fetch(STRICT, host="strict.test", tls=files.trust()).text == "strict"
    assert fetch(PORT, host="one.test", tls=old).text == "one"


@pytest.mark.usefixtures("gateway")
def test_client_certificate_becomes_source(files: Files) -> None:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Shop"),
            x509.NameAttribute(NameOID.COMMON_NAME, "cart"),
        ]
    )
    mine = files.pair("client", files.clients.issue([CLIENT, "cart.shop"], subject))
    context = files.trust()
    context.load_cert_chain(mine["cert"], mine["key"])
    answer = fetch(MUTUAL, "/who", host="mutual.test", tls=context)
    assert answer.status == 200, answer.text
    assert orjson.loads(answer.body) == {
        "sub": "O=Shop, CN=cart",
        "cn": "cart",
        "iss": "CN=client root",
        "id": CLIENT,
        "ns": "shop",
        "sa": "cart",
        "td": "cluster.local",
        "san": [CLIENT, "cart.shop"],
        "pem": True,
    }
    assert fetch(MUTUAL, "/cart", host="mutual.test", tls=context).text == "cart"


@pytest.mark.usefixtures("gateway")
def test_what_is_said_of_a_certificate_is_believed_of_who_has_one(files: Files) -> None:
    said = {CLAIM: "URI=spiffe://cluster.local/ns/shop/sa/cart"}
    assert fetch(BACK, "/claimed", headers=said).text == "false"
    mine = files.pair("proxy", files.clients.issue(["proxy.test"]))
    context = files.trust()
    context.load_cert_chain(mine["cert"], mine["key"])
    answer = fetch(MUTUAL, "/claimed", host="mutual.test", headers=said, tls=context)
    assert answer.text == "true"


@pytest.mark.usefixtures("gateway")
def test_another_client_is_not_authorized(files: Files) -> None:
    mine = files.pair("stranger", files.clients.issue(["spiffe://cluster.local/ns/x/sa/y"]))
    context = files.trust()
    context.load_cert_chain(mine["cert"], mine["key"])
    answer = fetch(MUTUAL, "/cart", host="mutual.test", tls=context)
    assert (answer.status, answer.text) == (403, "authorization failed")


@pytest.mark.parametrize("issuer", ["none", "wrong"])
@pytest.mark.usefixtures("gateway")
def test_no_entry_without_a_good_client_certificate(issuer: str, files: Files) -> None:
    context = files.trust()
    if issuer == "wrong":
        mine = files.pair("wrong", Authority("client root").issue([CLIENT]))
        context.load_cert_chain(mine["cert"], mine["key"])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        fetch(MUTUAL, "/who", host="mutual.test", tls=context)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/good", 200),
        ("/name", 503),
        ("/other", 503),
        ("/unknown", 503),
        ("/insecure", 200),
        ("/host", 200),
        ("/san", 200),
        ("/not-san", 503),
        ("/client", 200),
    ],
)
@pytest.mark.usefixtures("gateway")
def test_backend_tls(path: str, status: int) -> None:
    answer = fetch(BACK, path)
    assert answer.status == status, answer.text
    if status == 503:
        assert answer.text.startswith("upstream call failed: ")


@needs_program("openssl")
@pytest.mark.parametrize(("alpn", "chosen"), [("h2,http/1.1", "h2"), ("http/1.1", "http/1.1")])
@pytest.mark.usefixtures("gateway")
def test_openssl_s_client(alpn: str, chosen: str, files: Files) -> None:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{PORT}", "-servername", "one.test"]
    command += ["-CAfile", str(files.folder / "root"), "-verify_return_error", "-alpn", alpn]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=20, check=False)
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, output
    assert f"ALPN protocol: {chosen}" in output
    assert "Verify return code: 0 (ok)" in output
    assert "TLSv1.3" in output


@needs_program("curl")
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.usefixtures("gateway")
def test_curl(version: str, files: Files) -> None:
    command = ["curl", "-sS", version, "--cacert", str(files.folder / "root")]
    command += ["--resolve", f"a.wild.test:{PORT}:127.0.0.1", "-w", " %{http_version} %{http_code}"]
    command.append(f"https://a.wild.test:{PORT}/")
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    number = "2" if version == "--http2" else "1.1"
    assert done.stdout.decode() == f"wild {number} 200", done.stderr


def serial_of(sock: ssl.SSLSocket) -> int:
    der = sock.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def ask(sock: ssl.SSLSocket) -> bytes:
    sock.sendall(b"GET / HTTP/1.1\r\nhost: r.test\r\n\r\n")
    whole = b""
    while not whole.endswith(b"reloaded"):
        piece = sock.recv(4096)
        assert piece, whole
        whole += piece
    return whole.split(b"\r\n")[0]


def test_certificates_are_reloaded_from_their_files(tmp_path: Path) -> None:
    """A new file is served to new connections within the reload; those open go on."""
    files, port = Files(tmp_path), free_ports(1)[0]
    listener = {"protocol": "HTTPS", "tls": files.server("r", "r.test")} | says("reloaded")
    context = files.trust()

    def connect() -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", port), 20)
        return context.wrap_socket(raw, server_hostname="r.test")

    config = {"binds": [{"port": port, "listeners": [listener]}]}
    with GatewayProcess(config, workers=2) as gateway, connect() as old:
        before = serial_of(old)
        assert ask(old) == b"HTTP/1.1 200 OK"
        revision = gateway.dump()["revision"]
        # Key and certificate arrive as two renames: between them the pair does not fit together,
        # which is a refused reload and not an outage.
        files.server("r", "r.test")
        gateway.wait_applied(revision + 1)
        with connect() as new:
            assert serial_of(new) != before
            assert ask(new) == b"HTTP/1.1 200 OK"
        assert ask(old) == b"HTTP/1.1 200 OK"
        # A broken file keeps what is served.
        files.text("r.crt", "garbage")
        gateway.wait_metric("agentgateway_config_synchronized", 0)
        with connect() as new:
            assert ask(new) == b"HTTP/1.1 200 OK"


def test_a_handshake_that_does_not_come_is_ended(tmp_path: Path) -> None:
    files, port = Files(tmp_path), free_ports(1)[0]
    listener = {"protocol": "HTTPS", "tls": files.server("s", "s.test")} | says("slow")
    config = {
        "frontendPolicies": {"tls": {"handshakeTimeout": "200ms"}},
        "binds": [{"port": port, "listeners": [listener]}],
    }
    with GatewayProcess(config), socket.create_connection(("127.0.0.1", port), 20) as sock:
        assert sock.recv(1) == b""
