"""extProc through a real gateway and a real processor over grpcio.

Source: spec/config.md sections 3.2, 3.9, 9.1 and 11; envoy.service.ext_proc.v3.
"""

from __future__ import annotations

import http.client
import queue
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import yaml

from sidecar.policies._pb import ext_proc_pb2 as pb
from tests.support.authority import Authority
from tests.support.client import fetch
from tests.support.ext_proc import Call, ProcessorServer, Said, fields, head, whole
from tests.support.gateway import ROOT, GatewayProcess, free_ports, proxy_config
from tests.support.processor_scripts import SCRIPTS, SECONDS, STEPS, Chat, page, script
from tests.support.upstream import Upstream

PORT, GATED, CHAT, NOBODY = free_ports(4)
Policy = dict[str, Any]


@pytest.fixture(scope="module")
def processor() -> Iterator[ProcessorServer]:
    with ProcessorServer(script) as made:
        yield made


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(page) as made:
        yield made


@pytest.fixture(scope="module")
def chat() -> Iterator[Chat]:
    with Chat() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(
    processor: ProcessorServer, up: Upstream, chat: Chat, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("proc")
    authority = Authority()
    (folder / "root").write_text(authority.root)
    path = str(folder / "proc.sock")
    own: Policy = {"host": processor.address}
    short = {"policies": {"http": {"requestTimeout": "300ms"}}}

    def options(**given: Any) -> Policy:
        return {"processingOptions": given}

    special: dict[str, Policy] = {
        "held": options(requestBodyMode="buffered", responseBodyMode="buffered"),
        "partial": options(requestBodyMode="bufferedPartial", responseBodyMode="none"),
        "stepped": options(allowModeOverride=True),
        "heads": options(requestBodyMode="none", responseBodyMode="none"),
        "silent": short,
        "attributes": {
            "requestAttributes": {"path": "request.path", "none": "request.nope"},
            "responseAttributes": {"code": "response.code"},
            "metadataContext": {
                "own": {"user": "request.headers['x-user']"},
                "agentgateway.dev.grpc_initial_metadata": {"x-tenant": "'blue'"},
            },
        },
        "gone": {"host": f"127.0.0.1:{NOBODY}"},
        "open-late": {"host": f"127.0.0.1:{NOBODY}", "failureMode": "failOpen"},
        "tls": {
            "policies": {"backendTLS": {"root": str(folder / "root"), "hostname": "proc.test"}}
        },
        "unix": {"host": f"unix:{path}"},
    }
    pair = authority.issue(["proc.test"])
    with ProcessorServer(script, tls=pair) as secured, ProcessorServer(script, path=path):
        special["tls"]["host"] = secured.address
        routes = [
            {
                "name": name,
                "matches": [{"path": {"pathPrefix": f"/{name}"}}],
                "policies": {"extProc": {**own, **special.get(name, {})}},
                "backends": [{"host": up.address}],
            }
            for name in SCRIPTS
        ]
        later = next(one for one in routes if one["name"] == "read-later")
        later["policies"]["transformations"] = {"request": {"body": "string(request.body) + '?'"}}
        named = next(one for one in routes if one["name"] == "named")
        named["policies"] = {"extProc": {"backend": "processor"}}
        routes += [
            {
                "name": f"{name}-open",
                "matches": [{"path": {"exact": f"/{name}/open"}}],
                "policies": {
                    "extProc": {**own, **special.get(name, {}), "failureMode": "failOpen"}
                },
                "backends": [{"host": up.address}],
            }
            for name in ("silent", "lies", "gone", "evil")
        ]
        gated = {
            "policies": {"extProc": own},
            "routes": [
                {
                    "name": "changed",
                    "matches": [{"path": {"exact": "/changed"}}],
                    "backends": [{"host": up.address}],
                }
            ],
        }
        config = {
            "binds": [
                {"port": PORT, "listeners": [{"routes": routes}]},
                {"port": GATED, "listeners": [gated]},
                {
                    "port": CHAT,
                    "listeners": [
                        {
                            "routes": [
                                {
                                    "policies": {"extProc": own},
                                    "backends": [{"host": chat.address}],
                                }
                            ]
                        }
                    ],
                },
            ],
            "backends": [{"name": "processor", "host": processor.address}],
            "frontendPolicies": {
                "http": {"maxBufferSize": 100_000},
                "accessLog": {"add": {"team": "extproc.team.name"}},
            },
        }
        with GatewayProcess(config, workers=2) as made:
            yield made


# --- both directions ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/changing", "/tls", "/unix", "/named"])
@pytest.mark.parametrize("chunked", [False, True])
def test_headers_and_bodies_of_both_directions(
    path: str, chunked: bool, gateway: GatewayProcess
) -> None:
    sent = [("x-user", "evil"), ("x_user", "evil"), ("x-gone", "1")]
    body = b"hello" * 20_000
    if chunked:
        sent.append(("transfer-encoding", "chunked"))
    data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    got = fetch(PORT, path, "POST", headers=sent, body=data)
    assert (got.status, got.get("x-said"), got.get("x-secret")) == (203, "yes", None)
    assert (got.get("x-user"), got.get("x-gone"), got.get("x-length")) == ("ann", "-", "100000")
    assert got.get("x-target") == "/changed?x=1"
    assert got.body == body.upper()


def test_without_bodies_nothing_of_them_is_sent(
    gateway: GatewayProcess, processor: ProcessorServer
) -> None:
    processor.take()
    assert fetch(PORT, "/passing", "HEAD").status == 200
    assert processor.wait_ended() == [False]
    (call,) = processor.take()
    kinds = [one.WhichOneof("request") for one in call.taken]
    assert kinds == ["request_headers", "response_headers"]
    assert call.taken[0].request_headers.end_of_stream
    assert call.taken[1].response_headers.end_of_stream
    assert fields(call.taken[1].response_headers.headers)[":status"] == "200"
    assert call.taken[0].protocol_config.request_body_mode == pb.FULL_DUPLEX_STREAMED
    assert call.headers[":authority"] == "h.test"


def test_only_heads(gateway: GatewayProcess, processor: ProcessorServer) -> None:
    processor.take()
    got = fetch(PORT, "/heads", "POST", body=b"abc")
    assert (got.status, got.body, got.get("content-length")) == (200, b"abc", "3")
    processor.wait_ended()
    (call,) = processor.take()
    kinds = [one.WhichOneof("request") for one in call.taken]
    assert kinds == ["request_headers", "response_headers"]


def test_a_head_may_be_answered_after_its_body(gateway: GatewayProcess) -> None:
    body = bytes(range(256)) * 4000
    got = fetch(PORT, "/late", "POST", body=body)
    assert (got.status, got.get("x-user"), got.body == body) == (200, str(len(body)), True)


def test_bodies_that_are_held(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/held", "POST", body=b"abc")
    assert (got.status, got.body) == (200, b"!abc!")
    assert (got.get("x-length"), got.get("x-user"), got.get("content-length")) == ("4", "4", "5")
    got = fetch(PORT, "/held", "POST", body=b"x" * 100_001)
    assert got.status == 413


def test_the_beginning_of_a_body_that_is_too_long(gateway: GatewayProcess) -> None:
    body = b"a" * 100_000 + b"b" * 50_000
    got = fetch(PORT, "/partial", "POST", body=body)
    assert got.status == 200
    assert got.body == b"a" * 100_000 + b"..." + b"b" * 50_000
    got = fetch(PORT, "/partial", "POST", body=b"abc")
    assert (got.body, got.get("x-user")) == (b"cba!", "3")


def test_what_reads_a_body_after_the_processor_reads_its_work(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/read-later", "POST", body=b"abc")
    assert (got.status, got.body) == (203, b"ABC?")


def test_pieces_that_wait_for_their_answers(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/stepped", "POST", body=b"abc")
    assert (got.status, got.body) == (200, b"<abc>")


def test_trailers(gateway: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", PORT), SECONDS) as sock:
        sock.sendall(
            b"GET /trailing HTTP/1.1\r\nhost: h.test\r\nte: trailers\r\n"
            b"connection: te, close\r\n\r\n"
        )
        data = b""
        while piece := sock.recv(65536):
            data += piece
    assert b"3\r\none\r\n" in data or b"6\r\nonetwo\r\n" in data
    assert data.endswith(b"0\r\nx-sum: 6+\r\n\r\n")


def test_a_stream_of_events_passes_as_it_comes(gateway: GatewayProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=SECONDS)
    connection.request("GET", "/slow")
    answer = connection.getresponse()
    for index, step in enumerate(STEPS):
        assert answer.read(9) == b"data: %d\n\n" % index
        step.set()
    assert answer.read() == b""
    connection.close()


def test_before_a_route_is_chosen_it_may_choose(gateway: GatewayProcess) -> None:
    got = fetch(GATED, "/changing", "POST", body=b"abc")
    assert (got.status, got.get("x-target"), got.body) == (203, "/changed?x=1", b"ABC")


def test_attributes_and_metadata(gateway: GatewayProcess, processor: ProcessorServer) -> None:
    processor.take()
    assert fetch(PORT, "/attributes", headers={"x-user": "ann"}).status == 200
    processor.wait_ended()
    (call,) = processor.take()
    space = "envoy.filters.http.ext_proc"
    first, *rest = call.taken
    assert dict(first.attributes[space]) == {"path": "/attributes"}
    assert dict(first.metadata_context.filter_metadata["own"]) == {"user": "ann"}
    assert call.metadata["x-tenant"] == "blue"
    answers = [one for one in rest if one.HasField("response_headers")]
    assert [dict(one.attributes[space]) for one in answers] == [{"code": 200.0}]
    assert sum(bool(one.attributes) for one in call.taken) == 2


def test_what_it_tells_is_known(gateway: GatewayProcess) -> None:
    assert fetch(PORT, "/telling").get("x-user") == "t"
    assert "team=blue" in gateway.wait_line("team=blue")


def test_grpc_passes_both_ways_at_once(chat_port: int) -> None:
    said: queue.Queue[bytes] = queue.Queue()
    with grpc.insecure_channel(f"127.0.0.1:{chat_port}") as channel:
        call = channel.stream_stream("/test.Chat/Chat")(
            iter(said.get, b""), timeout=SECONDS, metadata=(("x-user", "ann"),)
        )
        for text in (b"one", b"two" * 30_000):
            said.put(text)
            assert next(call) == b"re: " + text
        said.put(b"fail")
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "as asked"
        assert dict(call.trailing_metadata())["x-sum"] == "6+"
        said.put(b"")


@pytest.fixture
def chat_port(gateway: GatewayProcess, chat: Chat) -> int:
    return CHAT


# --- answers of its own -------------------------------------------------------------------------


def test_it_may_answer_a_request(gateway: GatewayProcess, up: Upstream) -> None:
    up.take()
    for body in (None, b"abc"):
        got = fetch(PORT, "/refusing", "POST", body=body)
        assert (got.status, got.text, got.get("x-why")) == (429, "too much", "plan")
    grpc = fetch(PORT, "/refusing", "POST", headers={"content-type": "application/grpc"})
    assert (grpc.status, grpc.get("grpc-status"), grpc.get("grpc-message")) == (
        200,
        "8",
        "too much",
    )
    assert up.take() == []


def test_it_may_answer_in_the_place_of_the_backend(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/refusing-answers", "POST", body=b"abc")
    assert (got.status, got.text, got.get("x-why")) == (451, "not for you", "law")
    assert got.get("x-secret") is None


def test_it_may_answer_when_it_sees_the_body(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/refusing-bodies", "POST", body=b"abc")
    assert (got.status, got.text) == (422, "bad words")


def test_it_may_leave_when_it_has_seen_enough(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/leaving", "POST", body=b"abc")
    assert (got.status, got.get("x-user"), got.body) == (200, "left", b"abc")


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["silent", "lies", "gone", "other", "nothing"])
def test_a_processor_that_fails(name: str, gateway: GatewayProcess) -> None:
    got = fetch(PORT, f"/{name}", "POST", body=b"abc")
    assert got.status == 500
    assert got.text.startswith("ext_proc failed: ")
    assert "s3cr3t" not in got.text
    assert "reason=ExtProc" in gateway.wait_line(f"/{name} ")


@pytest.mark.parametrize("name", ["silent", "lies", "gone"])
def test_a_processor_that_fails_open(name: str, gateway: GatewayProcess) -> None:
    got = fetch(PORT, f"/{name}/open", "POST", body=b"abc")
    assert (got.status, got.body) == (200, b"abc")
    chunked = [("transfer-encoding", "chunked")]
    got = fetch(PORT, f"/{name}/open", "POST", headers=chunked, body=b"3\r\nabc\r\n0\r\n\r\n")
    assert (got.status, got.body) == (200, b"abc")


@pytest.mark.parametrize("path", ["/evil", "/evil/open", "/smuggling", "/framing"])
def test_what_cannot_be_done_is_refused_in_any_mode(
    path: str, gateway: GatewayProcess, up: Upstream
) -> None:
    up.take()
    got = fetch(PORT, path)
    assert got.status == 500
    assert got.text.startswith("ext_proc failed: it sets a header")
    assert up.take() == []


def test_a_response_that_has_begun_is_cut(gateway: GatewayProcess) -> None:
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        fetch(PORT, "/dying-later", "POST", body=b"abc")
    assert "ext_proc failed" in gateway.wait_line("/dying-later")


def test_a_client_that_leaves_ends_the_stream(
    gateway: GatewayProcess, processor: ProcessorServer
) -> None:
    processor.take()
    with socket.create_connection(("127.0.0.1", PORT), SECONDS) as sock:
        sock.sendall(b"POST /passing HTTP/1.1\r\nhost: h.test\r\ncontent-length: 100\r\n\r\nabc")
        calls = processor.wait_begun()
    processor.wait_ended()
    assert calls[0].headers[":method"] == "POST"


def test_streams_are_measured(gateway: GatewayProcess) -> None:
    name = "agentgateway_upstream_call_duration_seconds_count"
    labels = {"kind": "Policy", "subtype": "ExtProc"}
    before = gateway.metric(name, **labels)
    fetch(PORT, "/passing")
    gateway.wait_metric(name, before + 1, **labels)


def test_a_processor_that_is_replaced_is_found_again(up: Upstream) -> None:
    (port,) = free_ports(1)
    first = ProcessorServer()
    policies = {"extProc": {"host": first.address}}
    with GatewayProcess(proxy_config(port, up.address, policies=policies)) as gateway:
        with first:
            assert fetch(port, method="POST", body=b"abc").body == b"abc"
        got = fetch(port)
        assert (got.status, got.text.partition(":")[0]) == (500, "ext_proc failed")
        with ProcessorServer(port=first.port):
            assert fetch(port, method="POST", body=b"abc").body == b"abc"
            assert gateway.stop() == 0
        log = gateway.log()
    assert "Traceback" not in log
    assert sum("the processor at" in line for line in log.splitlines()) == 1


def test_the_example_marks_what_passes(up: Upstream) -> None:
    (port,) = free_ports(1)
    config = yaml.safe_load((ROOT / "deploy/examples/traffic-ext-proc.yaml").read_text())
    config["gateways"]["default"]["port"] = port
    (route,) = config["routes"]
    route["backends"] = [{"host": up.address}]

    def marking(call: Call) -> Iterator[Said]:
        for message in call:
            kind = str(message.WhichOneof("request"))
            if kind == "request_body":
                yield whole(kind, message.request_body.body + b"!")
            else:
                yield head(kind, [("x-user", "marked")])

    with ProcessorServer(marking) as server:
        route["policies"]["extProc"]["host"] = server.address
        with GatewayProcess(config):
            got = fetch(port, "/x", "POST", headers={"x-tenant": "blue"}, body=b"abc")
            assert (got.status, got.get("x-user"), got.body) == (200, "marked", b"abc!")
        (call,) = server.take()
        attributes = call.taken[0].attributes["envoy.filters.http.ext_proc"]
        assert dict(attributes) == {"tenant": "blue"}


def test_nothing_went_wrong_inside(gateway: GatewayProcess) -> None:
    """Last, so that it has seen what all of the above did."""
    log = gateway.log()
    assert "Traceback" not in log
    assert "never retrieved" not in log
    assert "failed inside the gateway" not in log
