"""Requests that nobody converts go to the next provider when the first one fails, too.

Source: spec/llm.md sections 0, 2.14, 2.15 and 3.3.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from websockets.sync.client import connect
from websockets.sync.server import Server, ServerConnection, serve

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import COMPLETION, openai
from tests.support.upstream import Answer, Seen, Upstream

Json = dict[str, Any]
PORT, LLM, NOBODY = free_ports(3)
ROUTES = {"/detect": "detect", "/raw": "passthrough", "/v1/realtime": "realtime"}
FAULTS = ("busy", "limited", "dropped", "absent")
KINDS = ("detect", "raw")


def bad(seen: Seen) -> Answer:
    """Fails as the path's beginning says."""
    if "/busy" in seen.target:
        return Answer(503, [], b"busy")
    if "/limited" in seen.target:
        return Answer(429, [], b"slow down")
    if "/refused" in seen.target:
        return Answer(400, [], b"no")
    return Answer(drop=True)


def session(connection: ServerConnection) -> None:
    """Says where the session is."""
    connection.send(json.dumps({"type": "session.created"}))
    for message in connection:
        connection.send(message)


@pytest.fixture(scope="module")
def first() -> Iterator[Upstream]:
    with Upstream(bad) as made:
        yield made


@pytest.fixture(scope="module")
def second() -> Iterator[Upstream]:
    with Upstream(openai) as made:
        yield made


@pytest.fixture(scope="module")
def live() -> Iterator[Server]:
    with serve(session, "127.0.0.1", 0, compression=None) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def provider(name: str, address: str) -> Json:
    """One entry of a group."""
    return {"name": name, "provider": {"openAI": {}}, "hostOverride": address}


@pytest.fixture(scope="module")
def gateway(first: Upstream, second: Upstream, live: Server) -> Iterator[GatewayProcess]:
    def route(path: str, *addresses: str, **ai: Any) -> Json:
        groups = [{"providers": [provider(f"p{i}", one)]} for i, one in enumerate(addresses)]
        return {
            "matches": [{"path": {"pathPrefix": path}}],
            "policies": {"ai": {"routes": ROUTES, **ai}},
            "backends": [{"ai": {"groups": groups}}],
        }

    nobody, server = f"127.0.0.1:{NOBODY}", f"127.0.0.1:{live.socket.getsockname()[1]}"
    only_one = {"failover": {"enabled": False}}
    routes = [
        *(route(f"/{one}", first.address, second.address) for one in (*FAULTS[:-1], "refused")),
        route("/absent", nobody, second.address),
        route("/alone", nobody, second.address, **only_one),
        *(route(f"/live/{one}", first.address, server) for one in ("busy", "dropped")),
        route("/live/absent", nobody, server),
    ]

    def model(name: str, address: str) -> Json:
        params = {"baseUrl": f"http://{address}/dropped"}
        return {"name": name, "provider": "openAI", "params": params, "passthrough": "detect"}

    targets = [{"model": "bad", "priority": 0}, {"model": "good", "priority": 1}]
    virtual = {"name": "over", "routing": {"failover": {"targets": targets}}}
    config = {
        "binds": [{"port": PORT, "listeners": [{"routes": routes}]}],
        "llm": {
            "port": LLM,
            "models": [model("bad", first.address), model("good", second.address)],
            "virtualModels": [virtual],
        },
    }
    with GatewayProcess(config) as made:
        yield made


def post(port: int, path: str) -> Got:
    """A chat completion, as bytes that need not be understood."""
    body = orjson.dumps({"model": "over", "messages": []})
    return fetch(port, path, "POST", headers={"content-type": "application/json"}, body=body)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_provider_answers(
    gateway: GatewayProcess, second: Upstream, kind: str, fault: str
) -> None:
    second.take()
    got = post(PORT, f"/{fault}/{kind}")
    assert (got.status, orjson.loads(got.body)) == (200, COMPLETION)
    (seen,) = second.take()
    assert orjson.loads(seen.body) == {"model": "over", "messages": []}
    assert seen.target == f"/{fault}/{kind}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_clients_own_fault_stays(gateway: GatewayProcess, second: Upstream, kind: str) -> None:
    second.take()
    got = post(PORT, f"/refused/{kind}")
    assert (got.status, got.body, second.take()) == (400, b"no", [])


@pytest.mark.parametrize("kind", KINDS)
def test_failover_can_be_switched_off(gateway: GatewayProcess, kind: str) -> None:
    assert post(PORT, f"/alone/{kind}").status == 503


def test_a_virtual_model_under_detect(gateway: GatewayProcess, second: Upstream) -> None:
    second.take()
    assert post(LLM, "/v1/other").status == 200
    (seen,) = second.take()
    assert orjson.loads(seen.body)["model"] == "good"


def test_a_form_under_detect(gateway: GatewayProcess, second: Upstream) -> None:
    def form(model: str) -> bytes:
        fields = (("file", "\x00\xff"), ("model", model), ("prompt", "over"))
        parts = (
            f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields
        )
        return "".join(parts).encode("latin-1") + b"--b--\r\n"

    second.take()
    fields = {"content-type": "multipart/form-data; boundary=b"}
    got = fetch(LLM, "/v1/audio/transcriptions", "POST", headers=fields, body=form("over"))
    assert got.status == 200
    (seen,) = second.take()
    assert seen.body == form("good")
    assert seen.get("content-type") == "multipart/form-data; boundary=b"


def test_a_body_that_streams_is_sent_once(
    gateway: GatewayProcess, first: Upstream, second: Upstream
) -> None:
    """Nobody has read it when there is no connection; afterwards it is gone."""

    def streamed(path: str) -> Got:
        fields = {"transfer-encoding": "chunked"}
        size = 300_000  # more than is held
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)
        return fetch(PORT, path, "POST", headers=fields, body=body)

    first.take()
    second.take()
    assert streamed("/absent/raw").status == 200
    (seen,) = second.take()
    assert seen.body == b"x" * 300_000
    assert streamed("/busy/raw").status == 503
    assert second.take() == []


@pytest.mark.parametrize("fault", ["busy", "dropped", "absent"])
def test_realtime_until_the_upgrade_is_accepted(gateway: GatewayProcess, fault: str) -> None:
    url = f"ws://127.0.0.1:{PORT}/live/{fault}/v1/realtime?model=gpt-realtime"
    with connect(url, compression=None) as client:
        assert json.loads(client.recv(timeout=20)) == {"type": "session.created"}
        client.send("x")
        assert client.recv(timeout=20) == "x"
