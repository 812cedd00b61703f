"""Each `deploy/examples/traffic-*` that no other test runs, as it stands, with our own upstreams.

One gateway runs them all, one after the other.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.authority import Authority
from tests.support.client import Got, fetch
from tests.support.connect_proxy import ConnectProxy
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.idp import CLIENT, CLIENT_SECRET, Browser, Idp, Realm
from tests.support.octets import read_all
from tests.support.upstream import Answer, Seen, Upstream

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy/examples"
FUNCTIONS = yaml.safe_load((EXAMPLES / "traffic-api-key.yaml").read_text())["config"]
(PORT,) = free_ports(1)


def serve(seen: Seen) -> Answer:
    """Echoes, and sets what examples remove; `x-answer` asks for a status of the first attempt."""
    again = seen.get("x-retry-attempt") is not None
    status = 200 if again else int(seen.get("x-answer") or 200)
    headers = [("x-powered-by", "php"), ("x-cost-usd", "3"), ("x-tokens-used", "7")]
    return Answer(status, headers, seen.body or seen.target.encode())


@dataclass
class Running:
    gateway: GatewayProcess
    authority: Authority
    idp: Idp
    up: Upstream
    other: Upstream

    def load(self, name: str, **changes: str) -> None:
        """Run an example: `*.internal:8080` is the upstream, ports are ours."""
        text = (EXAMPLES / f"traffic-{name}.yaml").read_text()
        for pattern, text_instead in changes.items():
            text = text.replace(pattern, text_instead)
        text = text.replace("shadow.internal:8080", self.other.address)
        text = re.sub(r"[\w-]+\.internal:8080|127\.0\.0\.1:9000", self.up.address, text)
        text = re.sub(r"port: (3000|3128|8080)\b", f"port: {PORT}", text)
        data: dict[str, Any] = yaml.safe_load(text)
        # What is chosen at the start of a process is the same for all.
        data["config"] = FUNCTIONS
        self.gateway.reload(data)
        self.up.take()
        self.other.take()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("examples")
    authority = Authority("examples")  # its name tells it from that of the provider
    idp = Idp(folder, shop=Realm())
    (folder / "roots").write_text(authority.root + Path(idp.root).read_text())
    key = authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "tls.key").write_bytes(key)
    (folder / "tls.crt").write_text(authority.root)
    env = {
        "SSL_CERT_FILE": str(folder / "roots"),
        "TLS_DIR": str(folder),
        "OIDC_COOKIE_SECRET": "0f" * 32,
        "OIDC_CLIENT_SECRET": CLIENT_SECRET,
    }
    with (
        Upstream(serve) as up,
        Upstream() as other,
        idp.upstream,
        GatewayProcess({"config": FUNCTIONS}, env=env) as gateway,
    ):
        yield Running(gateway, authority, idp, up, other)
        assert "Traceback" not in gateway.log()


def ask(target: str = "/", method: str = "GET", body: bytes | None = None, **headers: str) -> Got:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return fetch(PORT, target, method, headers=named, body=body)


def test_paths_hosts_and_headers(running: Running) -> None:
    running.load("http")
    answer = ask("/api/x?q=1", x_internal="1")
    assert (answer.status, answer.text) == (200, "/v2/x?q=1")
    assert (answer.get("cache-control"), answer.get("x-powered-by")) == ("no-store", None)
    (seen,) = running.up.take()
    assert (seen.get("host"), seen.get("via")) == ("api.example.com", "gateway")
    assert (seen.get("x-forwarded-prefix"), seen.get("x-internal")) == ("/api", None)
    (copy,) = running.other.wait(1)
    assert (copy.method, copy.target) == ("GET", "/v2/x?q=1")
    answer = ask("/old/x?q=1")
    location = "https://www.example.com/api/x?q=1"
    assert (answer.status, answer.get("location")) == (301, location)


def test_faults_on_purpose(running: Running) -> None:
    running.load("fault-injection")
    assert orjson.loads(ask("/status").body) == {"asked": "/status"}
    assert (ask("/x").status, ask("/x", x_slow="yes").status) == (200, 200)
    answer = ask("/x", x_fail="yes")
    assert (answer.status, answer.text) == (503, "injected fault")
    assert len(running.up.take()) == 2


def test_slow_failing_and_large_ones(running: Running) -> None:
    running.load("resilience")
    assert ask("/x", x_answer="503").status == 200
    assert [one.get("x-retry-attempt") for one in running.up.take()] == [None, "1"]
    assert ask("/x", "POST", b"a", x_answer="503").status == 503
    assert ask("/x", "PUT", b"a" * 65537).status == 413
    assert len(running.up.take()) == 1


def test_pages_of_other_origins(running: Running) -> None:
    running.load("browsers")
    page, app = "https://www.example.com", "https://a.apps.example.com"
    answer = ask("/", "OPTIONS", origin=page, access_control_request_method="PUT")
    assert (answer.status, answer.get("access-control-allow-origin")) == (200, page)
    assert ask("/", "POST", b"", origin=page, sec_fetch_site="cross-site").status == 200
    answer = ask("/", "POST", b"", origin=app, sec_fetch_site="cross-site")
    assert (answer.status, answer.text) == (403, "CSRF validation failed")
    # The page may read why.
    assert answer.get("access-control-allow-origin") == app
    assert ask("/", "POST", b"", origin=app, sec_fetch_site="same-origin").status == 200
    assert len(running.up.take()) == 2


def test_keys_and_what_each_may_do(running: Running) -> None:
    running.load("api-key")
    assert ask("/").status == 401
    ops, web = "change-me", "web-key"
    assert ask("/", x_api_key=web).status == 200
    (seen,) = running.up.take()
    assert (seen.get("x-team"), seen.get("x-api-key")) == ("web", None)
    refused = [ask("/admin", x_api_key=web), ask("/", "POST", b"", x_api_key=web)]
    assert [(one.status, one.text) for one in refused] == [(403, "authorization failed")] * 2
    allowed = [ask("/admin", x_api_key=ops), ask("/", "POST", b"", x_api_key=ops)]
    assert [one.status for one in allowed] == [200, 200]


def test_requests_and_responses_are_changed(running: Running) -> None:
    running.load("transformations")
    answer = ask("/tenants/search", "POST", b'{"q": "tea"}', x_debug="1", x_answer="201")
    assert (answer.status, answer.get("x-status")) == (200, "201")
    (seen,) = running.up.take()
    assert (seen.method, seen.target) == ("PUT", "/v2/search")
    assert (seen.get("x-asked"), seen.get("x-debug")) == ("tea", None)
    assert orjson.loads(seen.body) == {"query": "tea", "limit": 10}
    assert orjson.loads(orjson.loads(answer.body)["found"]) == {"query": "tea", "limit": 10}
    for accept, form in (("application/json", "json"), ("text/html", "text")):
        ask("/", accept=accept)
        assert running.up.take()[0].get("x-form") == form
    ask("/")
    assert running.up.take()[0].get("x-form") == "text"


def test_policies_apart_from_what_they_act_on(running: Running) -> None:
    running.load("targeted")
    keyed = partial(ask, authorization="Bearer change-me")
    assert (ask("/nowhere").status, keyed("/x").status) == (401, 200)
    assert running.up.take()[0].get("x-hop") == "gateway"
    assert [keyed("/api").status, keyed("/api", x_version="2").status] == [403, 200]
    refused = [keyed(path, "DELETE", x_version="2").status for path in ("/x", "/api")]
    assert refused == [403, 403]
    assert len(running.up.take()) == 1


def test_who_may_connect_and_how(running: Running) -> None:
    running.load("frontend")
    assert ask("/").status == 200
    many = {f"x-{number}": "1" for number in range(50)}
    assert fetch(PORT, "/", headers=many).status == 431
    assert connected("a.example.com:443").startswith(b"HTTP/1.1 405 ")
    running.load("frontend", **{"127.0.0.0/8": "192.0.2.0/24"})
    with socket.create_connection(("127.0.0.1", PORT), 20) as sock:
        assert read_all(sock) == b""


def test_names_as_they_were_spelt(running: Running) -> None:
    running.load("header-case")
    with socket.create_connection(("127.0.0.1", PORT), 20) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        # This upstream spells its own in lower case; the other way round is in test_header_case.
        assert b"\r\nx-powered-by: php\r\n" in read_all(sock)


def test_local_limits(running: Running) -> None:
    running.load("ratelimiting-local")
    answer = ask("/api")
    assert (answer.status, answer.get("x-ratelimit-limit")) == (200, "20")
    assert ask("/batch").status == 429
    assert ask("/batch", x_team="a", x_items="1000").status == 200
    assert ask("/batch", x_team="a", x_items="1000").status == 429
    assert ask("/batch", x_team="b", x_items="1").status == 200
    assert ask("/m", x_team="a").status == 200


def test_budgets(running: Running) -> None:
    running.load("budgets")
    assert ask("/").status == 429
    assert [ask("/", x_team="a").status for _ in range(3)] == [200, 200, 429]
    assert ask("/", x_team="b").status == 200


def test_browsers_log_in(running: Running) -> None:
    base = "https://idp.example.com/realms/shop"
    client = {"clientId: gateway": f"clientId: {CLIENT}"}
    running.load("oidc", **{base: running.idp.issuer("shop")}, **client)
    browser = Browser(PORT, running.idp, "localhost:3000")
    back = browser.log_in("/basket?of=ada")
    assert (back.status, back.get("location")) == (302, "/basket?of=ada")
    assert browser.get("/basket?of=ada").status == 200
    (seen,) = running.up.take()
    assert (seen.get("x-user"), seen.get("x-email")) == ("ada", "ada@example.com")
    assert "agw_oidc" not in (seen.get("cookie") or "")
    assert ask("/basket", sec_fetch_mode="cors").status == 401


def test_users_stay_at_their_endpoints(running: Running) -> None:
    first, second = running.up, running.other
    ports = (f"{{80: {one.port}}}" for one in (first, second))
    places = {f"[10.0.0.{number}]": "[127.0.0.1]" for number in (1, 2)}
    running.load(
        "session-affinity",
        **places,
        **{
            f"chat-{number}, namespace: default, workloadIps: [127.0.0.1], services: "
            "{default/chat.default.svc: {80: 8080}": f"chat-{number}, namespace: default, "
            f"workloadIps: [127.0.0.1], services: {{default/chat.default.svc: {port}"
            for number, port in zip((1, 2), ports, strict=True)
        },
    )
    for _ in range(2):
        for user in range(16):
            assert ask("/", x_user=str(user)).status == 200
    users = [{one.get("x-user") for one in upstream.take()} for upstream in (first, second)]
    assert users[0].isdisjoint(users[1])
    assert all(users)


def connected(authority: str, *fields: str, port: int = 0) -> bytes:
    """All that comes back to a CONNECT behind which the client is silent."""
    with socket.create_connection(("127.0.0.1", port or PORT), 20) as sock:
        lines = (f"CONNECT {authority} HTTP/1.1", f"host: {authority}", *fields, "", "")
        sock.sendall("\r\n".join(lines).encode())
        return read_all(sock)


def test_a_forward_proxy(running: Running) -> None:
    running.load("connect")
    assert connected("a.example.com:443").startswith(b"HTTP/1.1 407 ")
    ada = "proxy-authorization: Basic " + base64.b64encode(b"ada:password").decode()
    assert connected("other.test:443", ada).startswith(b"HTTP/1.1 404 ")


@contextmanager
def tunnelled(authority: str) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", PORT), 20) as sock:
        sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(1)
        assert head.startswith(b"HTTP/1.1 200 ")
        yield sock


def test_what_clients_of_the_proxy_ask_for_meets_rules(running: Running) -> None:
    running.load("egress-proxy")
    with tunnelled("other.test:80") as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: other.test\r\nconnection: close\r\n\r\n")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.endswith(b"authorization failed")


def test_a_proxy_that_looks_into_tls(running: Running) -> None:
    running.load("egress-inspection")
    context = ssl.create_default_context(cadata=running.authority.root)
    with (
        tunnelled("other.test:443") as raw,
        context.wrap_socket(raw, server_hostname="other.test") as sock,
    ):
        certificate = x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"")
        assert certificate.issuer != certificate.subject
        sock.sendall(b"GET / HTTP/1.1\r\nhost: other.test\r\nconnection: close\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 403 ")


def test_a_backend_behind_a_proxy(running: Running) -> None:
    pair = running.authority.issue(["api.example.com"])
    folder = running.gateway.path.parent
    (folder / "crt").write_text(pair.cert)
    (folder / "key").write_text(pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    credential = "Basic Z2F0ZXdheTpzZWNyZXQ="
    with Upstream(serve, tls=context) as secured:
        hosts = {"api.example.com:443": secured.address}
        with ConnectProxy(hosts, credential=credential) as proxy:
            running.load("backend-tunnel", **{"proxy.internal:3128": proxy.address})
            answer = ask("/x")
            assert (answer.status, answer.text) == (200, "/x")
            assert len(proxy.asked) == 1
