"""`POST /debug/trace`: requests of all workers as they happen.

Source: spec/config.md section 8.4, row 268.
"""

from __future__ import annotations

import http.client
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import orjson
import pytest

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.upstream import Answer, Seen, Upstream

(PORT,) = free_ports(1)
HELD, GO_ON = threading.Event(), threading.Event()
Json = dict[str, Any]


def script(seen: Seen) -> Answer:
    if seen.target == "/held":
        HELD.set()
        assert GO_ON.wait(30)
    return Answer(200, [("set-cookie", "a=tell-nobody")], b"ok")


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(script) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(up: Upstream) -> Iterator[GatewayProcess]:
    routes = [
        {
            "name": "shut",
            "matches": [{"path": {"pathPrefix": "/shut"}}],
            "policies": {"authorization": {"rules": ["false"]}},
            "backends": [{"host": up.address}],
        },
        {"name": "open", "backends": [{"host": up.address}]},
    ]
    config = {
        "config": {"sensitiveHeaders": ["x-mine"]},
        "binds": [{"port": PORT, "listeners": [{"name": "web", "routes": routes}]}],
    }
    with GatewayProcess(config, workers=2) as made:
        yield made


class Trace:
    """A listener; ready when both workers tell it."""

    def __init__(self, gateway: GatewayProcess, expression: str = "") -> None:
        target = f"/debug/trace?expression={quote(expression)}" if expression else "/debug/trace"
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=30)
        self._connection.request("POST", target, headers={"host": "localhost"})
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        assert self._answer.getheader("content-type", "").startswith("text/event-stream")
        assert {self.event()["worker"], self.event()["worker"]} == {0, 1}

    def event(self) -> Json:
        """The next one."""
        kind = ""
        while line := self._answer.readline().rstrip(b"\n"):
            name, _, value = line.partition(b": ")
            if name == b"event":
                kind = value.decode()
            elif name == b"data":
                found: Json = orjson.loads(value)
                assert found["type"] == kind
                assert self._answer.readline() == b"\n"
                return found
        return self.event() if not self.is_over else {}

    @property
    def is_over(self) -> bool:
        return self._answer.isclosed()

    def request(self) -> list[Json]:
        """All of the next request to end."""
        found = [self.event()]
        while found[-1]["type"] != "requestFinished":
            found.append(self.event())
        return found

    def close(self) -> None:
        self._answer.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def test_a_request(gateway: GatewayProcess, up: Upstream) -> None:
    secrets = {
        "authorization": "Bearer tell-nobody",
        "cookie": "tell-nobody",
        "x-mine": "tell-nobody",
    }
    with Trace(gateway) as trace:
        # The long way, and where a connection is kept the short one.
        for _ in range(3):
            fetch(PORT, "/x?key=tell-nobody", headers={**secrets, "x-plain": "seen"})
            events = trace.request()
            assert "tell-nobody" not in orjson.dumps(events).decode()
            assert [one["type"] for one in events] == [
                *("requestStarted", "requestSnapshot", "routeSelection", "backendCallStart"),
                *("backendCallResult", "responseSnapshot", "requestFinished"),
            ]
            started, asked, routed, called, _, answered, finished = events
            assert len({one["request"] for one in events}) == 1
            assert (started["method"], started["path"], started["host"]) == ("GET", "/x", "h.test")
            assert ["x-plain", "seen"] in asked["headers"]
            assert (routed["selectedRoute"], routed["listener"]) == ("default/open", "web")
            assert called["target"] == up.address
            assert ["set-cookie", "<redacted>"] in answered["headers"]
            assert (finished["status"], finished["severity"]) == (200, "success")


def test_refusals(gateway: GatewayProcess) -> None:
    with Trace(gateway) as trace:
        fetch(PORT, "/shut")
        events = trace.request()
    assert "backendCallStart" not in [one["type"] for one in events]
    last = events[-1]
    assert (last["status"], last["reason"], last["severity"]) == (403, "Authorization", "warn")


def test_what_is_wanted(gateway: GatewayProcess) -> None:
    with Trace(gateway, 'request.headers["x-me"] == "1"') as trace:
        for value in ("2", "1"):
            fetch(PORT, f"/{value}", headers={"x-me": value})
        fetch(PORT, "/none")
        assert trace.request()[0]["path"] == "/1"


def test_told_while_it_happens(gateway: GatewayProcess) -> None:
    with Trace(gateway) as trace:
        asking = threading.Thread(target=fetch, args=(PORT, "/held"))
        asking.start()
        assert HELD.wait(30)
        types = [trace.event()["type"] for _ in range(4)]
        assert types[-1] == "backendCallStart"
        GO_ON.set()
        asking.join()
        assert trace.request()[-1]["status"] == 200


def test_a_new_listener_ends_the_old(gateway: GatewayProcess) -> None:
    with Trace(gateway) as first, Trace(gateway) as second:
        while first.event():
            continue
        fetch(PORT, "/x")
        assert second.request()[-1]["status"] == 200


@pytest.mark.parametrize(
    ("target", "headers", "method", "status"),
    [
        ("/debug/trace?expression=1%20%2B", {}, "POST", 400),
        ("/debug/trace?expression=request.body.size()", {}, "POST", 400),
        (f"/debug/trace?expression={'a' * 5000}", {}, "POST", 400),
        ("/debug/trace", {}, "GET", 405),
        ("/debug/trace", {"origin": "http://evil.test"}, "POST", 403),
    ],
)
def test_refused(
    gateway: GatewayProcess, target: str, headers: dict[str, str], method: str, status: int
) -> None:
    got = fetch(gateway.admin_port, target, method, host="localhost", headers=headers)
    assert got.status == status


def test_processes_that_die(gateway: GatewayProcess) -> None:
    with Trace(gateway) as trace:
        assert "agw-trace" not in orjson.dumps(gateway.dump()).decode()
        os.kill(gateway.worker_pids()[0], signal.SIGKILL)
        assert trace.event()["type"] == "traceStarted"  # by its replacement
        os.kill(gateway.control_pid(), signal.SIGKILL)
        with suppress(OSError, http.client.HTTPException):  # cut, not ended
            while trace.event():
                continue
    assert fetch(PORT, "/x").status == 200
    gateway.wait_ready()
    with Trace(gateway) as trace:
        fetch(PORT, "/y")
        assert trace.request()[0]["path"] == "/y"
