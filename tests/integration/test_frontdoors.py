"""`config.frontDoor: granian` in a running gateway: who serves what, on one port."""

from __future__ import annotations

import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.certificates import make_pair
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config, run_until_exit
from tests.support.upstream import Answer, Seen, Upstream

DOOR = {"frontDoor": "granian"}


def granian(config: dict[str, Any], **static: Any) -> dict[str, Any]:
    # HTTP/1.1 to the upstream, whatever the client speaks.
    for bind in config["binds"]:
        for listener in bind["listeners"]:
            for route in listener["routes"]:
                for backend in route["backends"]:
                    backend["policies"] = {"http": {"version": "HTTP/1.1"}}
    return {**config, "config": {**DOOR, **static}}


def client() -> httpx.Client:
    return httpx.Client(http1=False, http2=True, timeout=20.0, trust_env=False)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(lambda seen: Answer(200, [("x-up", "1")], seen.body or b"ok")) as made:
        yield made


def test_http2_goes_to_granian_and_http1_does_not(upstream: Upstream) -> None:
    [port] = free_ports(1)
    with GatewayProcess(granian(proxy_config(port, upstream.address))) as gateway:
        with client() as http:
            upstream.take()
            answer = http.post(f"http://127.0.0.1:{port}/a?b=c", content=b"hello")
            assert (answer.status_code, answer.text) == (200, "hello")
            assert answer.http_version == "HTTP/2"
            assert answer.headers["server"] == "granian"
            [seen] = upstream.take()
            assert (seen.method, seen.target, seen.body) == ("POST", "/a?b=c", b"hello")
            stream = answer.extensions["network_stream"]
            own = stream.get_extra_info("client_addr")[1]
        first = fetch(port)
        assert first.status == 200
        assert first.get("server") != "granian"
        gateway.wait_metric("agentgateway_requests_total", 2)
        assert gateway.metric("agentgateway_downstream_connections_total") >= 2
        # The client's own address, not that of the relay.
        assert re.search(rf"src\.addr=127\.0\.0\.1:{own} .*http\.version=HTTP/2", gateway.log())


def test_8_bare_line_feeds_are_refused_all_the_same(upstream: Upstream) -> None:
    [port] = free_ports(1)
    with GatewayProcess(granian(proxy_config(port, upstream.address))):
        with socket.create_connection(("127.0.0.1", port), 20.0) as sock:
            sock.sendall(b"GET / HTTP/1.1\nHost: h.test\n\n")
            assert sock.makefile("rb").readline().startswith(b"HTTP/1.1 400")


def test_55_a_drain_lets_an_http2_stream_end() -> None:
    [port] = free_ports(1)
    end = threading.Event()

    def script(seen: Seen) -> Answer:
        def chunks() -> Iterator[bytes]:
            yield b"data: first\n\n"
            end.wait(20.0)
            yield b"data: last\n\n"

        return Answer(200, [("content-type", "text/event-stream")], chunks())

    with (
        Upstream(script) as up,
        GatewayProcess(granian(proxy_config(port, up.address))) as gateway,
        client() as http,
        http.stream("GET", f"http://127.0.0.1:{port}/") as answer,
    ):
        chunks = answer.iter_raw()
        assert next(chunks) == b"data: first\n\n"
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_not_ready()
        end.set()
        # httpx takes the GOAWAY of a drain for the end of its connection; the gateway does not.
        try:
            assert b"".join(chunks) == b"data: last\n\n"
        except httpx.RemoteProtocolError as error:
            assert "ConnectionTerminated" in str(error)
        assert gateway.process.wait(20.0) == 0


def test_an_upstream_is_left_when_the_client_resets(upstream: Upstream) -> None:
    [port] = free_ports(1)
    left = threading.Event()

    def script(seen: Seen) -> Answer:
        def chunks() -> Iterator[bytes]:
            try:
                while True:
                    yield b"data: tick\n\n"
            finally:
                left.set()

        return Answer(200, [], chunks())

    with Upstream(script) as up, GatewayProcess(granian(proxy_config(port, up.address))):
        with client() as http:
            with http.stream("GET", f"http://127.0.0.1:{port}/") as answer:
                assert next(answer.iter_raw())
            assert left.wait(20.0)


def test_https_is_refused_with_its_place(tmp_path: Path) -> None:
    pair = make_pair("h.test")
    (tmp_path / "cert.pem").write_text(pair.cert)
    (tmp_path / "key.pem").write_text(pair.key)
    tls = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    listeners = [{"routes": []}, {"protocol": "HTTPS", "tls": tls, "routes": []}]
    binds = [{"port": 1, "listeners": listeners[:1]}, {"port": 2, "listeners": listeners[1:]}]
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump({"config": DOOR, "binds": binds}, sort_keys=False))
    ended = run_until_exit(path)
    assert ended.returncode == 1
    assert "binds[1].listeners[0]" in ended.stderr
    assert "config.frontDoor is granian, which cannot serve HTTPS" in ended.stderr
