"""`config.frontDoor: granian` in a running gateway: who serves what, on one port."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from h2.connection import H2Connection
from hyperframe.frame import GoAwayFrame, PingFrame

from tests.sidecar.net.test_granian import Client
from tests.support.certificates import make_pair
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config, run_until_exit
from tests.support.stream import frames_of
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
        gateway.wait_metric_above("agentgateway_downstream_connections_total", 1)
        # The client's own address, not that of the relay.
        pattern = rf"src\.addr=127\.0\.0\.1:{own} .*http\.version=HTTP/2"
        until = time.monotonic() + 20.0
        while not re.search(pattern, gateway.log()):
            assert time.monotonic() < until, gateway.log()
            time.sleep(0.01)


def test_the_client_is_whom_a_proxy_header_names(upstream: Upstream) -> None:
    [port] = free_ports(1)
    config = granian(proxy_config(port, upstream.address))
    config["frontendPolicies"] = {"proxyProtocol": {"version": "v1"}}
    preface = H2Connection()
    preface.initiate_connection()
    head = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h.test")]
    preface.send_headers(1, head, end_stream=True)
    with (
        GatewayProcess(config) as gateway,
        socket.create_connection(("127.0.0.1", port), 20.0) as sock,
    ):
        sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n" + preface.data_to_send())
        until = time.monotonic() + 20.0
        while "src.addr=192.0.2.7:4711" not in gateway.log():
            assert time.monotonic() < until, gateway.log()
            time.sleep(0.01)


def test_8_bare_line_feeds_are_refused_all_the_same(upstream: Upstream) -> None:
    [port] = free_ports(1)
    with (
        GatewayProcess(granian(proxy_config(port, upstream.address))),
        socket.create_connection(("127.0.0.1", port), 20.0) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\nHost: h.test\n\n")
        assert sock.makefile("rb").readline().startswith(b"HTTP/1.1 400")


async def test_55_a_drain_lets_an_http2_stream_end() -> None:
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
    ):
        http = await Client.connect(port)
        answer = http.answers[http.send()]
        await http.until(lambda: bool(answer.body))
        gateway.process.send_signal(signal.SIGTERM)
        octets = b""
        async with asyncio.timeout(20.0):
            # python-h2 takes the first GOAWAY for the end, so the octets are looked at as such.
            while not (pings := [f for f in frames_of(octets) if isinstance(f, PingFrame)]):
                octets += await http.reader.read(65536)
            http.writer.write(PingFrame(0, pings[0].opaque_data, flags=["ACK"]).serialize())
            end.set()
            octets += await http.reader.read()
        assert any(isinstance(frame, GoAwayFrame) for frame in frames_of(octets))
        assert b"data: last\n\n" in octets
        http.close()
        assert await asyncio.to_thread(gateway.process.wait, 20.0) == 0


def test_50_the_upstream_is_left_when_the_client_leaves() -> None:
    [port] = free_ports(1)
    script = Answer(200, [], (b"data: tick\n\n" for _ in itertools.count()))
    with (
        Upstream(lambda seen: script) as up,
        GatewayProcess(granian(proxy_config(port, up.address))) as gateway,
    ):
        with client() as http, http.stream("GET", f"http://127.0.0.1:{port}/") as answer:
            assert next(answer.iter_raw())
        until = time.monotonic() + 20.0
        while up.connections[0].fileno() != -1:
            assert time.monotonic() < until, gateway.log()
            time.sleep(0.01)


def test_https_is_refused_with_its_place(tmp_path: Path) -> None:
    pair = make_pair("h.test")
    (tmp_path / "cert.pem").write_text(pair.cert)
    (tmp_path / "key.pem").write_text(pair.key)
    tls = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    listeners = [{"routes": []}, {"protocol": "HTTPS", "tls": tls, "routes": []}]
    binds = [{"port": 1, "listeners": listeners[:1]}, {"port": 2, "listeners": listeners[1:]}]
    path = tmp_path / "gateway.yaml"
    aged = {"http": {"maxConnectionDuration": "1m"}}
    document = {"config": DOOR, "binds": binds, "frontendPolicies": aged}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    ended = run_until_exit(path)
    assert ended.returncode == 1
    assert "binds[1].listeners[0]" in ended.stderr
    assert "config.frontDoor is granian, which cannot serve HTTPS" in ended.stderr
    assert (
        "frontendPolicies.http.maxConnectionDuration: config.frontDoor is granian" in ended.stderr
    )
