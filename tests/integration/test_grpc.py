"""gRPC through the gateway with a real grpcio client and server: every kind of call.

Source: spec/config.md sections 3.11 and 11 (gRPC form of errors); gRPC over HTTP/2.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.authority import Authority
from tests.support.gateway import GatewayProcess, free_ports

PLAIN, TLS = free_ports(2)
SERVICE = "test.Echo"
SECONDS = 20.0
MESSAGE_BYTES = 8 * 1024 * 1024
LIMITS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES + 1024),
    ("grpc.max_send_message_length", MESSAGE_BYTES + 1024),
]


class Service:
    """The methods, and events that tell what became of their calls."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.started = threading.Event()
        self.sent = 0

    def unary(self, request: bytes, context: Any) -> bytes:
        told = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-seen", told.get("x-asked", "")), ("x-bin", b"\x00\xff")))
        context.set_trailing_metadata((("x-trailer", "last"), ("x_under_score", "kept")))
        return request

    def fail(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not yet: 100% söon")
        return b""

    def download(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def upload(self, requests: Iterable[bytes], context: Any) -> bytes:
        return b",".join(requests)

    def chat(self, requests: Iterable[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield b"re: " + request

    def hang(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.add_callback(self.ended.set)
        self.started.set()
        yield b"first"
        self.ended.wait(SECONDS)

    def flood(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.add_callback(self.ended.set)
        while context.is_active():
            self.sent += 1
            yield bytes(64 * 1024)

    def handler(self) -> Any:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
                "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
                "Download": grpc.unary_stream_rpc_method_handler(self.download),
                "Upload": grpc.stream_unary_rpc_method_handler(self.upload),
                "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
                "Hang": grpc.unary_stream_rpc_method_handler(self.hang),
                "Flood": grpc.unary_stream_rpc_method_handler(self.flood),
            },
        )


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def ports(service: Service, authority: Authority) -> Iterator[tuple[int, int]]:
    """Of the grpcio server: plaintext and TLS."""
    server = grpc.server(ThreadPoolExecutor(16), handlers=[service.handler()], options=LIMITS)
    plain = server.add_insecure_port("127.0.0.1:0")
    pair = authority.issue(["up.test"])
    secure = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([(pair.key.encode(), pair.cert.encode())]),
    )
    server.start()
    yield plain, secure
    server.stop(0).wait()


@pytest.fixture(scope="module")
def gateway(
    ports: tuple[int, int], authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("tls")
    pair = authority.issue(["edge.test"])
    for name, text in (("cert", pair.cert), ("key", pair.key), ("root", authority.root)):
        (folder / name).write_text(text)
    backend = {"host": f"127.0.0.1:{ports[0]}"}
    back_tls = {"root": str(folder / "root"), "hostname": "up.test"}

    def when(header: str) -> list[dict[str, Any]]:
        return [{"headers": [{"name": "x-case", "value": {"exact": header}}]}]

    dead = {"host": f"127.0.0.1:{free_ports(1)[0]}"}
    routes: list[dict[str, Any]] = [
        {
            "name": "all",
            "matches": [{"path": {"pathPrefix": f"/{SERVICE}"}}],
            "backends": [backend],
        },
        {
            "name": "tls",
            "matches": when("tls"),
            "backends": [{"host": f"127.0.0.1:{ports[1]}", "policies": {"backendTLS": back_tls}}],
        },
        {"name": "dead", "matches": when("dead"), "backends": [dead]},
        {"name": "none", "matches": when("none"), "backends": []},
        {
            "name": "denied",
            "matches": when("denied"),
            "policies": {"authorization": {"rules": ["false"]}},
            "backends": [backend],
        },
        {
            "name": "late",
            "matches": when("late"),
            "policies": {"timeout": {"requestTimeout": "50ms"}, "delay": {"duration": "10s"}},
            "backends": [backend],
        },
    ]
    for route in routes[1:]:
        route["matches"][0]["path"] = {"pathPrefix": f"/{SERVICE}"}
    tls = {"cert": str(folder / "cert"), "key": str(folder / "key")}
    config = {
        "binds": [
            {"port": PLAIN, "listeners": [{"routes": routes}]},
            {"port": TLS, "listeners": [{"protocol": "HTTPS", "tls": tls, "routes": routes}]},
        ]
    }
    with GatewayProcess(config) as process:
        yield process


@pytest.fixture(params=["plaintext", "tls"])
def channel(request: Any, gateway: GatewayProcess, authority: Authority) -> Iterator[grpc.Channel]:
    options = [("grpc.ssl_target_name_override", "edge.test"), *LIMITS]
    if request.param == "tls":
        made = grpc.secure_channel(
            f"127.0.0.1:{TLS}",
            grpc.ssl_channel_credentials(authority.root.encode()),
            options,
        )
    else:
        made = grpc.insecure_channel(f"127.0.0.1:{PLAIN}", options=LIMITS)
    with made:
        yield made


@pytest.fixture
def plain(gateway: GatewayProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{PLAIN}", options=LIMITS) as made:
        yield made


def unary(channel: grpc.Channel, name: str = "Unary") -> Any:
    return channel.unary_unary(f"/{SERVICE}/{name}")


def test_unary_with_metadata_both_ways(channel: grpc.Channel) -> None:
    answer, call = unary(channel).with_call(
        b"hello", timeout=SECONDS, metadata=(("x-asked", "me"),)
    )
    first, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert (answer, first["x-seen"], first["x-bin"]) == (b"hello", "me", b"\x00\xff")
    assert (last["x-trailer"], last["x_under_score"]) == ("last", "kept")


def test_status_message_and_trailers(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, "Fail")(b"", timeout=SECONDS)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "not yet: 100% söon"
    assert ("x-why", "because") in error.trailing_metadata()


def test_server_streaming(channel: grpc.Channel) -> None:
    download = channel.unary_stream(f"/{SERVICE}/Download")
    assert list(download(b"1000", timeout=SECONDS)) == [b"%d" % n for n in range(1000)]
    assert list(download(b"0", timeout=SECONDS)) == []


def test_client_streaming(channel: grpc.Channel) -> None:
    upload = channel.stream_unary(f"/{SERVICE}/Upload")
    parts = [b"%d" % n for n in range(500)]
    assert upload(iter(parts), timeout=SECONDS) == b",".join(parts)
    assert upload(iter(()), timeout=SECONDS) == b""


def test_both_streaming_in_turns(channel: grpc.Channel) -> None:
    """Each message goes out only once the last was answered, so nothing may be held back."""
    turn = threading.Semaphore(1)

    def talk() -> Iterator[bytes]:
        for number in range(50):
            assert turn.acquire(timeout=SECONDS)
            yield b"%d" % number

    heard = []
    for answer in channel.stream_stream(f"/{SERVICE}/Chat")(talk(), timeout=SECONDS):
        heard.append(answer)
        turn.release()
    assert heard == [b"re: %d" % n for n in range(50)]


def test_large_messages(channel: grpc.Channel) -> None:
    message = bytes(range(256)) * (MESSAGE_BYTES // 256)
    assert unary(channel)(message, timeout=SECONDS) == message


def test_many_calls_at_once(plain: grpc.Channel) -> None:
    call = unary(plain)
    futures = [call.future(b"%d" % n, timeout=SECONDS) for n in range(300)]
    assert [future.result() for future in futures] == [b"%d" % n for n in range(300)]


def test_upstream_tls(plain: grpc.Channel) -> None:
    metadata = (("x-case", "tls"),)
    assert unary(plain)(b"secret", timeout=SECONDS, metadata=metadata) == b"secret"


def test_client_cancels(plain: grpc.Channel, service: Service) -> None:
    service.ended.clear()
    call = plain.unary_stream(f"/{SERVICE}/Hang")(b"", timeout=SECONDS)
    assert next(call) == b"first"
    call.cancel()
    assert service.ended.wait(20)


def test_deadline_of_the_client(plain: grpc.Channel, service: Service) -> None:
    service.ended.clear()
    call = plain.unary_stream(f"/{SERVICE}/Hang")(b"", timeout=2.0)
    assert next(call) == b"first"
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert service.ended.wait(20)


def test_a_client_that_does_not_read_stops_the_server(
    plain: grpc.Channel, service: Service
) -> None:
    service.ended.clear()
    service.sent = 0
    call = plain.unary_stream(f"/{SERVICE}/Flood")(b"", timeout=SECONDS)
    for _ in range(3):
        assert len(next(call)) == 64 * 1024
    # The windows of both connections and of grpcio bound what is under way; 64 MiB is far above.
    seen = -1
    waiting = threading.Event()
    while seen != service.sent:
        seen = service.sent
        assert seen < 1024
        waiting.wait(0.3)
    call.cancel()
    assert service.ended.wait(20)


@pytest.mark.parametrize(
    ("case", "code", "details"),
    [
        ("dead", grpc.StatusCode.UNAVAILABLE, "upstream call failed: "),
        ("none", grpc.StatusCode.UNAVAILABLE, "no valid backends"),
        ("denied", grpc.StatusCode.PERMISSION_DENIED, "authorization failed"),
        ("late", grpc.StatusCode.UNAVAILABLE, "request timeout"),
    ],
)
def test_errors_of_the_gateway(
    case: str, code: grpc.StatusCode, details: str, channel: grpc.Channel
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel)(b"", timeout=SECONDS, metadata=(("x-case", case),))
    error: Any = caught.value
    assert error.code() is code
    assert error.details().startswith(details)


def test_no_route_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/other.Service/Call")(b"", timeout=SECONDS)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == "route not found"


def test_a_drain_lets_calls_end(ports: tuple[int, int], tmp_path: Path) -> None:
    port = free_ports(1)[0]
    config = {
        "config": {"connectionTerminationDeadline": "10s"},
        "binds": [
            {
                "port": port,
                "listeners": [{"routes": [{"backends": [{"host": f"127.0.0.1:{ports[0]}"}]}]}],
            }
        ],
    }
    go_on = threading.Event()

    def talk() -> Iterator[bytes]:
        yield b"before"
        assert go_on.wait(SECONDS)
        yield b"after"

    with (
        GatewayProcess(config) as gateway,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = channel.stream_stream(f"/{SERVICE}/Chat")(talk(), timeout=SECONDS)
        assert next(call) == b"re: before"
        gateway.process.terminate()
        gateway.wait_not_ready()
        go_on.set()
        assert list(call) == [b"re: after"]
        assert gateway.process.wait(SECONDS) == 0
