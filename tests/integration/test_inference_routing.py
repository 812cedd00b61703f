"""inferenceRouting through a real gateway and a real endpoint picker over grpcio.

Source: spec/config.md section 3.11; spec/k8s.md section 4; proposal 004 of the Gateway API
Inference Extension.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import yaml

from tests.integration.test_shared_endpoints import config
from tests.support.authority import Authority
from tests.support.client import Got, fetch
from tests.support.ext_proc import (
    Call,
    ProcessorServer,
    Said,
    at_once,
    echo,
    fields,
    head,
    streamed,
)
from tests.support.fixtures import SHARED, needs_fixtures
from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.upstream import Answer, Seen, Upstream

HEADER = "x-gateway-destination-endpoint"
KEY = "s3cr3t-of-the-backend"
Policy = dict[str, Any]


def picking(call: Call) -> Iterator[Said]:
    """Answers a head when it has all of the body, with what the request itself asks for."""
    first = next(call)
    asked = fields(first.request_headers.headers)
    parts = []
    if not first.request_headers.end_of_stream:
        for message in call:
            parts.append(message.request_body.body)
            if message.request_body.end_of_stream:
                break
    if "x-shed" in asked:
        yield at_once(429, b"saturated", [("x-why", "queue")])
        return
    chosen = asked.get("x-pick", "")
    yield head("request_headers", [(HEADER, chosen)] if chosen else [("x-chosen", "none")])
    if parts:
        text = b"".join(parts).replace(b'"small"', b'"small-v2"')
        yield streamed("request_body", text, ends=True)
    for message in call:
        yield echo(message)


def model(name: str, seen: Seen) -> Answer:
    if "x-broken" in dict(seen.headers) and name in (seen.get("x-broken") or ""):
        return Answer(503, [], b"out of memory")
    return Answer(200, [("x-served", name)], seen.body)


@dataclass
class Place:
    """A gateway with its pickers; `one` and `two` are endpoints of the service, `other` is none."""

    port: int
    gateway: GatewayProcess
    picker: ProcessorServer
    one: Upstream
    two: Upstream
    other: Upstream

    def ask(self, path: str, *picks: str, body: bytes = b"", **more: str) -> Got:
        headers = {"x-pick": ",".join(picks), **{k.replace("_", "-"): v for k, v in more.items()}}
        return fetch(self.port, path, "POST" if body else "GET", headers=headers, body=body)

    def call(self) -> Call:
        """The one stream since the last `take`, when it has ended."""
        self.picker.wait_ended()
        (call,) = self.picker.take()
        return call


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    authority = Authority()
    root = tmp_path_factory.mktemp("picker") / "root"
    root.write_text(authority.root)
    port, nobody = free_ports(2)
    with ExitStack() as stack:
        one, two, other = (
            stack.enter_context(Upstream(partial(model, name))) for name in ("one", "two", "other")
        )
        picker = stack.enter_context(ProcessorServer(picking))
        pair = authority.issue(["picker.test"])
        secured = stack.enter_context(ProcessorServer(picking, tls=pair))
        tls = {"backendTLS": {"root": str(root), "hostname": "picker.test"}}
        gone = {"endpointPicker": {"host": f"127.0.0.1:{nobody}"}}
        routings: dict[str, Policy] = {
            "validated": {},
            "passthrough": {"destinationMode": "passthrough"},
            "open": {"failureMode": "failOpen"},
            "gone": gone,
            "gone-open": {**gone, "failureMode": "failOpen"},
            "retried": {},
            "tls": {"endpointPicker": {"host": secured.address, "policies": tls}},
            "named": {"endpointPicker": {"backend": "picker"}},
        }
        data = config(port, one, two)
        (listener,) = data["binds"][0]["listeners"]
        listener["routes"] = [
            route(name, {"endpointPicker": {"host": picker.address}, **own})
            for name, own in routings.items()
        ]
        retried = next(one for one in listener["routes"] if one["name"] == "retried")
        retried["policies"] = {"retry": {"attempts": 1, "codes": [503]}}
        # The service of its own: what is ejected there is no concern of the other routes.
        own = retried["backends"][0]
        own["service"] = {"name": "default/spare", "port": 8000}
        own["policies"]["health"] = {"eviction": {"consecutiveFailures": 1, "duration": "10m"}}
        data["services"].append({**data["services"][0], "name": "spare", "hostname": "spare"})
        for workload in data["workloads"]:
            (ports,) = workload["services"].values()
            workload["services"]["default/spare"] = ports
        data["backends"] = [{"name": "picker", "host": picker.address}]
        gateway = stack.enter_context(GatewayProcess(data, workers=2))
        yield Place(port, gateway, picker, one, two, other)


def route(name: str, routing: Policy) -> Policy:
    return {
        "name": name,
        "matches": [{"path": {"pathPrefix": f"/{name}"}}],
        "backends": [
            {
                "service": {"name": "default/model", "port": 8000},
                "policies": {"inferenceRouting": routing, "backendAuth": {"key": KEY}},
            }
        ],
    }


@pytest.mark.parametrize("path", ["/validated", "/passthrough", "/tls", "/named", "/open"])
def test_requests_go_where_the_picker_says(path: str, place: Place) -> None:
    for upstream, name in ((place.one, "one"), (place.two, "two"), (place.one, "one")):
        got = place.ask(path, upstream.address)
        assert (got.status, got.get("x-served")) == (200, name)


def test_the_picker_sees_and_changes_the_body(place: Place) -> None:
    body = json.dumps({"model": "small", "prompt": "x" * 100_000}).encode()
    got = place.ask("/validated", place.two.address, body=body)
    assert (got.status, got.get("x-served")) == (200, "two")
    assert json.loads(got.body) == {**json.loads(body), "model": "small-v2"}
    # What came with its length goes on with it.
    assert place.ask("/validated", place.two.address, body=b'"small"').status == 200
    assert place.two.take()[-1].get("content-length") == "10"


def test_what_it_learns(place: Place) -> None:
    place.picker.take()
    assert place.ask("/validated", place.two.address, body=b"{}").status == 200
    call = place.call()
    # Credentials are for the endpoint alone.
    assert all(KEY.encode() not in one.SerializeToString() for one in call.taken)
    assert place.two.take()[-1].get("authorization") == f"Bearer {KEY}"
    (answer,) = (one for one in call.taken if one.HasField("response_headers"))
    told = answer.metadata_context.filter_metadata["envoy.lb"]
    assert dict(told) == {f"{HEADER}-served": place.two.address}
    assert b"".join(one.response_body.body for one in call.taken) == b"{}"


def test_the_log_says_where_it_went(place: Place) -> None:
    place.ask("/validated", place.one.address, body=b"{}")
    place.gateway.wait_line(f"inferencepool.selected_endpoint={place.one.address}")


def test_a_client_chooses_nothing(place: Place) -> None:
    lies = [(HEADER, place.two.address), (HEADER.replace("-", "_"), place.two.address)]
    got = fetch(place.port, "/validated", headers=[*lies, ("x-pick", place.one.address)])
    assert (got.status, got.get("x-served")) == (200, "one")
    got = fetch(place.port, "/validated", headers=lies)
    assert (got.status, got.text) == (500, "ext_proc failed: the endpoint picker chose no endpoint")


def test_the_picker_may_answer_itself(place: Place) -> None:
    got = place.ask("/validated", place.one.address, body=b"{}", x_shed="1")
    assert (got.status, got.text, got.get("x-why")) == (429, "saturated", "queue")


def test_what_is_no_endpoint_of_the_service(place: Place) -> None:
    got = place.ask("/validated", place.other.address)
    assert (got.status, place.other.take()) == (503, [])
    assert got.text.startswith("no healthy backends: ")
    # Of several, it goes to one that is.
    assert place.ask("/validated", place.other.address, place.two.address).get("x-served") == "two"
    assert place.ask("/passthrough", place.other.address).get("x-served") == "other"


@pytest.mark.parametrize("address", ["169.254.169.254:80", "[fe80::1]:80", "[::ffff:a9fe:a9fe]:80"])
def test_nobody_is_led_to_metadata_services(address: str, place: Place) -> None:
    assert place.ask("/passthrough", address).status == 503


@pytest.mark.parametrize(
    "choice",
    ["localhost:80", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "::1:80", "127.1:80", ","],
)
def test_what_is_no_choice(choice: str, place: Place) -> None:
    for path in ("/validated", "/passthrough", "/open"):
        got = place.ask(path, choice)
        assert got.status == 500
        assert got.text.startswith("ext_proc failed: the endpoint picker's choice")


def test_without_a_picker(place: Place) -> None:
    got = place.ask("/gone", place.one.address, body=b"{}")
    assert got.status == 500
    assert got.text.startswith("ext_proc failed: ")
    served = {place.ask("/gone-open", body=b"{}").get("x-served") for _ in range(40)}
    assert served == {"one", "two"}
    assert place.ask("/gone-open", body=b"all of it").body == b"all of it"
    # The same for a picker that is there and chooses none.
    assert place.ask("/open", body=b"{}").get("x-served") in ("one", "two")
    place.gateway.wait_line("inferencepool.selected_endpoint=")


def test_a_retry_goes_on_to_the_next(place: Place) -> None:
    picks = (place.one.address, place.two.address)
    assert place.ask("/retried", *picks, body=b"{}").get("x-served") == "one"
    place.picker.take()
    got = place.ask("/retried", *picks, body=b'"small"', x_broken="one")
    assert (got.status, got.get("x-served"), got.body) == (200, "two", b'"small-v2"')
    place.picker.wait_ended(2)
    assert len(place.picker.take()) == 2
    # It is ejected now, and called again when nothing else is left.
    assert place.ask("/retried", *picks).get("x-served") == "two"
    assert place.ask("/retried", picks[0]).get("x-served") == "one"


def test_the_picker_hears_of_the_end(place: Place) -> None:
    """A client that leaves does not keep a stream open."""
    place.picker.take()
    with socket.create_connection(("127.0.0.1", place.port), 20) as sock:
        sock.sendall(b"POST /validated HTTP/1.1\r\nhost: h.test\r\ncontent-length: 9\r\n\r\nabc")
        place.picker.wait_begun()
    place.picker.wait_ended()


# --- files --------------------------------------------------------------------------------------


def started(data: Any, port: int, pickers: ProcessorServer) -> GatewayProcess:
    (bind,) = data["binds"]
    bind["port"] = port
    (listener,) = bind["listeners"]
    (only,) = listener["routes"]
    routing = only["backends"][0]["policies"]["inferenceRouting"]
    routing["endpointPicker"]["host"] = pickers.address
    return GatewayProcess(data)


def test_the_example(place: Place) -> None:
    data = yaml.safe_load((ROOT / "deploy/examples/traffic-inference-routing.yaml").read_text())
    for workload, up in zip(data["workloads"], (place.one, place.two), strict=True):
        workload["workloadIps"] = ["127.0.0.1"]
        workload["services"] = {"default/my-model": {8000: up.port}}
    (port,) = free_ports(1)
    with started(data, port, place.picker):
        picks = f"{place.one.address},{place.two.address}"
        headers = {"x-pick": picks, "x-broken": "one"}
        got = fetch(port, "/v1/chat/completions", "POST", headers=headers, body=b"{}")
    assert (got.status, got.get("x-served")) == (200, "two")


@needs_fixtures
def test_the_reference_s_example(place: Place) -> None:
    """A service of which only the picker knows endpoints."""
    file = SHARED / "fixtures/configs/examples__llm-standalone-epp__config.yaml"
    (port,) = free_ports(1)
    with started(yaml.safe_load(file.read_text()), port, place.picker):
        headers = {"x-pick": place.other.address}
        got = fetch(port, "/v1/chat/completions", "POST", headers=headers, body=b"{}")
    assert (got.status, got.get("x-served")) == (200, "other")
