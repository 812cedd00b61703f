"""Calls of policies over real sockets: where they go, what bounds them, how each failure is told.

Source: spec/config.md sections 0.4, 9.1 and 10.4.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc as grpcio
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded

from sidecar.errors import ConfigError, UpstreamError
from sidecar.gateway.backends import Backends, Discovery
from sidecar.gateway.callouts import Backlog, CheckedCallouts, WorkerCallouts
from sidecar.gateway.endpoints import Endpoints
from sidecar.gateway.levels import Levels
from sidecar.http import grpc
from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.net.dialer import Address
from sidecar.policies.base import Services
from sidecar.policies.callouts import Callout, Nowhere, outgoing
from sidecar.policies.ratelimit import PATH, Asked, question, verdict
from sidecar.telemetry.metrics import Registry, UpstreamMetrics
from tests.support.authority import Authority
from tests.support.compiled import InProcess, ask_for, snapshot_data
from tests.support.gateway import free_ports
from tests.support.h2 import H2Upstream
from tests.support.messages import services as plain_services
from tests.support.octets import TcpUpstream, read_all
from tests.support.rls import Answer as Told
from tests.support.rls import RateLimitServer
from tests.support.upstream import Answer, Seen, Upstream

MESSAGE = question("d", [Asked((("a", "b"),))])
SECONDS = 20.0
BASE: dict[str, Any] = {"binds": [{"port": 1, "listeners": [{"routes": []}]}]}


class Column:
    """A metrics column in memory: how often each series was observed."""

    def __init__(self) -> None:
        self.observed: list[str] = []

    def counter(self, key: bytes) -> Any:
        raise AssertionError(key)

    gauge = counter

    def histogram(self, key: bytes, bounds: tuple[float, ...]) -> Any:
        return _Cell(self.observed, key.decode())


class _Cell:
    def __init__(self, observed: list[str], key: str) -> None:
        self._observed = observed
        self._key = key

    def observe(self, x: float, /) -> None:
        assert x >= 0
        self._observed.append(self._key)


class Harness:
    """Callouts of one document."""

    def __init__(self, process: InProcess, document: dict[str, Any]) -> None:
        self.backlog = Backlog()
        self.column = Column()
        self.callouts = WorkerCallouts(self.backlog)
        services = Services(process.clock, plain_services().cel, callouts=self.callouts)
        data = snapshot_data({**BASE, **document})

        def of(kind: str) -> dict[str, Any]:
            mark = f"{kind}/"
            return {key[len(mark) :]: one for key, one in data.items() if key.startswith(mark)}

        backends = Backends(
            process.pools,
            services,
            process.random,
            {},
            of("backend"),
            Discovery(of("service"), of("workload")),
            Endpoints(),
            Address("127.0.0.1", 15000),
        )
        metrics = UpstreamMetrics(Registry(self.column))
        levels = Levels(of("policy").values())
        self.callouts.attach(backends, levels, metrics, None, process.clock)

    def to(self, reference: dict[str, Any] | str, **policies: Any) -> Callout:
        if isinstance(reference, str):
            reference = {"host": reference}
        return self.callouts.resolve(reference, policies, "RateLimit")


@asynccontextmanager
async def harness(**document: Any) -> AsyncIterator[Harness]:
    async with InProcess(BASE) as process:
        made = Harness(process, document)
        yield made
        await made.backlog.close(SECONDS)


def get(target: str = "/", body: bytes = b"", **headers: str) -> Request:
    fields = Headers((name.encode(), value.encode()) for name, value in headers.items())
    return outgoing("POST" if body else "GET", target, fields, body, of=ask_for("/client"))


async def body_of(response: Response) -> bytes:
    return await response.body.read()


async def ask(callout: Callout, seconds: float = SECONDS) -> bool:
    """Whether a rate limit service says that the limit is reached."""
    data = await callout.unary(PATH, MESSAGE, seconds, ask_for("/client"))
    return verdict(data).is_over


# --- send ---------------------------------------------------------------------------------


async def test_send_over_http1_holds_the_answer_and_keeps_the_connection():
    with Upstream() as up:
        async with harness() as made:
            callout = made.to(up.address)
            for count in range(3):
                sent = b"%d" % count
                answer = await callout.send(get("/a?b", sent, **{"x-a": "1"}), SECONDS)
                assert (answer.status, await body_of(answer)) == (200, sent)
            seen = up.take()
            assert len(up.connections) == 1
            assert (seen[0].method, seen[0].target, seen[0].get("x-a")) == ("POST", "/a?b", "1")
            assert seen[0].get("host") == up.address
            assert callout.label == up.address
            series = "agentgateway_upstream_call_duration_seconds\0kind=Policy\0subtype=RateLimit"
            assert made.column.observed == [series] * 3


async def test_send_over_http2_where_the_destination_says_so():
    with H2Upstream() as up:
        async with harness() as made:
            callout = made.to(up.address, http={"version": "HTTP/2.0"})
            answer = await callout.send(get("/x", b"abc"), SECONDS)
            assert await body_of(answer) == b"abc"
            assert up.requests[0][":path"] == "/x"


async def test_an_answer_that_is_too_long_is_a_failure():
    with Upstream(lambda seen: Answer(body=b"x" * 100)) as up:
        async with harness() as made:
            callout = made.to(up.address)
            assert len(await body_of(await callout.send(get(), SECONDS, 100))) == 100
            with pytest.raises(UpstreamError, match="larger than 99 bytes"):
                await callout.send(get(), SECONDS, 99)
    with Upstream(lambda seen: Answer(body=[b"x" * 50] * 3)) as up:
        async with harness() as made:
            with pytest.raises(UpstreamError, match="larger than 99 bytes"):
                await made.to(up.address).send(get(), SECONDS, 99)


async def test_the_deadline_holds_for_the_body_too():
    released = threading.Event()

    def slow(seen: Seen) -> Answer:
        def pieces() -> Any:
            yield b"first"
            released.wait(SECONDS)

        return Answer(body=pieces())

    with Upstream(slow) as up:
        try:
            async with harness() as made:
                with pytest.raises(UpstreamError) as caught:
                    await made.to(up.address).send(get(), 0.05)
                assert (caught.value.status, caught.value.code) == (504, "Timeout")
                assert up.address in str(caught.value)
                # What the operator says of the destination goes before the policy's own bound.
                callout = made.to(up.address, http={"requestTimeout": "40ms"})
                with pytest.raises(UpstreamError, match=r"0\.04 s"):
                    await callout.send(get(), SECONDS)
        finally:
            released.set()


async def test_a_destination_that_drops_the_call_is_not_asked_twice():
    with Upstream(lambda seen: Answer(drop=True)) as up:
        async with harness() as made:
            with pytest.raises(UpstreamError):
                await made.to(up.address).send(get(body=b"x"), SECONDS)
            assert len(up.take()) == 1


async def test_nobody_listens():
    (port,) = free_ports(1)
    async with harness() as made:
        with pytest.raises(UpstreamError) as caught:
            await made.to(f"127.0.0.1:{port}").send(get(), SECONDS)
        assert not caught.value.sent


async def test_the_policies_of_the_call_are_honoured():
    with Upstream(lambda seen: Answer(headers=[("x-up", "1")], body=b"b")) as up:
        async with harness() as made:
            callout = made.to(
                up.address,
                requestHeaderModifier={"set": {"x-token": "t"}},
                transformations={
                    "request": {"set": {"x-path": "request.path"}},
                    "response": {"set": {"x-seen": "response.headers['x-up']"}},
                },
            )
            answer = await callout.send(get("/p"), SECONDS)
            assert answer.headers.get(b"x-seen") == b"1"
            (seen,) = up.take()
            assert (seen.get("x-token"), seen.get("x-path")) == ("t", "/p")


# --- where to -----------------------------------------------------------------------------


async def test_a_named_backend_with_its_own_and_targeted_policies():
    with Upstream() as up:
        policy = {
            "name": {"name": "p", "namespace": "default"},
            "target": {"backend": {"backend": {"name": "limits", "namespace": ""}}},
            "policy": {"requestHeaderModifier": {"set": {"x-from": "targeted"}}},
        }
        backend = {"name": "limits", "host": up.address}
        async with harness(backends=[backend], policies=[policy]) as made:
            await made.to({"backend": "limits"}).send(get(), SECONDS)
            own = {"set": {"x-from": "call"}}
            callout = made.to({"backend": "/limits"}, requestHeaderModifier=own)
            await callout.send(get(), SECONDS)
            assert [one.get("x-from") for one in up.take()] == ["targeted", "call"]


async def test_a_service_is_balanced():
    with Upstream() as first, Upstream() as second:
        services = [
            {
                "name": "rls",
                "namespace": "default",
                "hostname": "rls.test",
                "vips": [],
                "ports": {"8081": first.port},
            }
        ]
        workloads = [
            {
                "uid": f"w{port}",
                "name": f"w{port}",
                "namespace": "default",
                "workloadIps": ["127.0.0.1"],
                "services": {"default/rls.test": {"8081": port}},
            }
            for port in (first.port, second.port)
        ]
        async with harness(services=services, workloads=workloads) as made:
            callout = made.to({"service": {"name": "default/rls.test", "port": 8081}})
            for _ in range(20):
                await callout.send(get(), SECONDS)
            assert callout.label == "service/default/rls.test:8081"
            assert first.take()
            assert second.take()


@pytest.mark.parametrize(
    "reference", [{"backend": "nobody"}, {"service": {"name": "a/b", "port": 1}}]
)
async def test_a_destination_that_does_not_exist_fails_each_call(reference):
    async with harness() as made:
        with pytest.raises(UpstreamError) as caught:
            await made.to(reference).send(get(), SECONDS)
        assert not caught.value.sent


@pytest.mark.parametrize(
    ("reference", "policies", "path"),
    [
        ({"host": "no port"}, {}, "host"),
        ({}, {}, ""),
        ({"host": "a:1"}, {"backendTLS": {"root": "no PEM"}}, "policies.backendTLS.root"),
        ({"host": "a:1"}, {"transformations": {"request": {"set": {"x": "("}}}}, "policies."),
    ],
)
async def test_what_cannot_be_called_is_refused(reference, policies, path):
    async with harness() as made:
        with pytest.raises(ConfigError) as caught:
            made.callouts.resolve(reference, policies, "RateLimit")
        assert caught.value.path.startswith(path)
    with pytest.raises(ConfigError) as checked:
        CheckedCallouts(plain_services()).resolve(reference, policies, "RateLimit")
    assert checked.value.path == caught.value.path


async def test_a_process_without_a_network_calls_nobody():
    callout = Nowhere().resolve({"host": "a:1"}, {}, "RateLimit")
    with pytest.raises(UpstreamError):
        await callout.send(get(), SECONDS)
    with pytest.raises(UpstreamError):
        await ask(callout)
    assert not callout.unary_later(PATH, MESSAGE, SECONDS, ask_for("/"))


async def test_copies_go_where_the_backend_says(tmp_path: Path):
    root = Authority()
    pair = root.issue(["shadow.test"])
    for name, text in (("root", root.root), ("pair", pair.cert + pair.key)):
        (tmp_path / name).write_text(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair")
    answer = Answer(body=[b"x" * 65536] * 40)  # more than a policy's answer may have
    with Upstream(lambda seen: answer, tls=context) as up:
        tls = {"root": str(tmp_path / "root"), "hostname": "shadow.test"}
        backend = {"name": "shadow", "host": up.address, "policies": {"backendTLS": tls}}
        async with harness(backends=[backend]) as made:
            shadow = made.callouts.shadow({"backend": "shadow"})
            await shadow.discard(get("/copy"), SECONDS)
            assert [one.target for one in up.take()] == ["/copy"]
            (series,) = made.column.observed
            assert "kind=Mirror\0subtype=Http" in series


# --- gRPC ---------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [None, 100])
async def test_many_calls_at_once(streams):
    with RateLimitServer(streams=streams) as rls:
        async with harness() as made:
            callout = made.to(rls.address)
            answers = await asyncio.gather(*(ask(callout) for _ in range(200)))
            assert answers == [False] * 200
            asked = rls.take()
            assert len(asked) == 200
            assert asked[0].descriptors[0].entries == (("a", "b"),)


async def test_metadata_is_sent():
    with RateLimitServer() as rls:
        async with harness() as made:
            client = ask_for("/")
            await made.to(rls.address).unary(PATH, MESSAGE, SECONDS, client, ((b"x-key", b"v"),))
            assert rls.take()[0].metadata["x-key"] == "v"


async def test_tls_to_the_service():
    root = Authority()
    pair = root.issue(["rls.test"])
    with RateLimitServer(tls=pair) as rls:
        async with harness() as made:
            tls = {"root": root.root, "hostname": "rls.test"}
            assert not await ask(made.to(rls.address, backendTLS=tls))
            for wrong in ({**tls, "hostname": "other.test"}, {"hostname": "rls.test"}):
                with pytest.raises(UpstreamError):
                    await ask(made.to(rls.address, backendTLS=wrong))
            with pytest.raises(UpstreamError):
                await ask(made.to(rls.address))
            assert len(rls.take()) == 1


@pytest.mark.parametrize(
    ("code", "number"),
    [(grpcio.StatusCode.UNAVAILABLE, 14), (grpcio.StatusCode.UNIMPLEMENTED, 12)],
)
async def test_a_status_is_an_error_without_the_peers_words(code, number):
    with RateLimitServer(lambda asked: Told(status=code)) as rls:
        async with harness() as made:
            with pytest.raises(grpc.GrpcError) as caught:
                await ask(made.to(rls.address))
            assert caught.value.grpc_status == number
            assert caught.value.detail == "s3cr3t details"
            assert "s3cr3t" not in str(caught.value)
            # It was acted on, so that it is not asked again.
            assert len(rls.take()) == 1


async def test_a_method_that_is_not_there():
    with RateLimitServer() as rls:
        async with harness() as made:
            with pytest.raises(grpc.GrpcError) as caught:
                await made.to(rls.address).unary("/no.Such/Method", b"", SECONDS, ask_for("/"))
            assert caught.value.grpc_status == grpc.UNIMPLEMENTED


async def test_a_service_that_hangs_is_given_up_and_told():
    with RateLimitServer(lambda asked: Told(hang=True)) as rls:
        async with harness() as made:
            with pytest.raises(UpstreamError) as caught:
                await ask(made.to(rls.address), 0.3)
            assert caught.value.status == 504
            assert await asyncio.to_thread(rls.cancelled.wait, SECONDS)


async def test_a_client_that_leaves_ends_the_call():
    with RateLimitServer(lambda asked: Told(hang=True)) as rls:
        async with harness() as made:
            task = asyncio.ensure_future(ask(made.to(rls.address)))
            await asyncio.to_thread(rls.wait, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(rls.cancelled.wait, SECONDS)


async def test_a_service_that_goes_away_is_found_again():
    first = RateLimitServer()
    async with harness() as made:
        callout = made.to(first.address)
        with first:
            assert not await ask(callout)
        # GOAWAY and the end of the connection came; nobody listens now.
        with pytest.raises(UpstreamError):
            await ask(callout)
        with RateLimitServer(port=first.port) as second:
            assert not await ask(callout)
            assert len(second.take()) == 1


class Leaving(TcpUpstream):
    """Leaves its first call by GOAWAY and the end of the connection; answers the others."""

    def __init__(self, *, is_acted_on: bool) -> None:
        super().__init__(self._converse)
        self.last_stream_id = 1 if is_acted_on else 0
        self.calls = 0

    def _converse(self, sock: socket.socket) -> None:
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        sock.sendall(connection.data_to_send())
        leaves = False
        while data := sock.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, StreamEnded):
                    self.calls += 1
                    leaves = self.calls == 1
                    if leaves:
                        connection.close_connection(last_stream_id=self.last_stream_id)
                    else:
                        head = [(":status", "200"), ("content-type", "application/grpc")]
                        connection.send_headers(event.stream_id, head)
                        connection.send_data(event.stream_id, grpc.frame(Told().encoded()))
                        connection.send_headers(event.stream_id, [("grpc-status", "0")], True)
            sock.sendall(connection.data_to_send())
            if leaves:
                # Unread octets at the close would be a reset, which may overtake the GOAWAY.
                sock.shutdown(socket.SHUT_WR)
                read_all(sock)
                return


@pytest.mark.parametrize("is_acted_on", [False, True])
async def test_only_what_was_not_acted_on_is_asked_again(is_acted_on):
    with Leaving(is_acted_on=is_acted_on) as up:
        async with harness() as made:
            if is_acted_on:
                with pytest.raises(UpstreamError):
                    await ask(made.to(up.address))
            else:
                assert not await ask(made.to(up.address))
            assert up.calls == (1 if is_acted_on else 2)


async def test_peers_that_do_not_speak_grpc():
    with TcpUpstream(lambda sock: sock.close()) as closing:
        async with harness() as made:
            with pytest.raises(UpstreamError):
                await ask(made.to(closing.address))
    with Upstream() as http1:
        async with harness() as made:
            with pytest.raises(UpstreamError):
                await ask(made.to(http1.address))
    with H2Upstream() as echo:
        async with harness() as made:
            with pytest.raises(grpc.GrpcError, match="not gRPC"):
                await ask(made.to(echo.address))


async def test_a_peer_that_resets_every_connection():
    def reset(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()

    with TcpUpstream(reset) as up:
        async with harness() as made:
            with pytest.raises(UpstreamError):
                await ask(made.to(up.address))


# --- in the background --------------------------------------------------------------------


async def test_a_call_for_which_nobody_waits_is_made_once():
    with RateLimitServer() as rls:
        async with harness() as made:
            assert made.to(rls.address).unary_later(PATH, MESSAGE, SECONDS, ask_for("/"))
        assert len(rls.take()) == 1


async def test_a_call_in_the_background_that_fails_is_logged(caplog):
    (port,) = free_ports(1)
    async with harness() as made:
        assert made.to(f"127.0.0.1:{port}").unary_later(PATH, MESSAGE, SECONDS, ask_for("/"))
    assert f"127.0.0.1:{port}" in caplog.text


async def test_the_background_has_a_bound_and_ends_with_the_worker():
    backlog = Backlog()
    release = asyncio.Event()
    ended: list[bool] = []

    async def wait() -> None:
        try:
            await release.wait()
        finally:
            ended.append(release.is_set())

    assert all(backlog.add(wait) for _ in range(1024))
    assert not backlog.add(wait)
    await backlog.close(0.0)
    assert ended == [False] * 1024
    assert backlog.add(wait)
    release.set()
    await backlog.close(SECONDS)
    assert ended[-1]
