"""`sessionAffinity` over two workers. Source: spec/config.md sections 3.11 and 10.5."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from sidecar.errors import ConfigError
from sidecar.gateway.balanced import affinity_of
from tests.integration.test_shared_endpoints import config
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.messages import services
from tests.support.upstream import Answer, Seen, Upstream

USERS = [f"user-{number}" for number in range(24)]


def named(name: bytes, seen: Seen) -> Answer:
    return Answer(200, [], name)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[int, list[Upstream]]]:
    with ExitStack() as stack:
        upstreams: list[Upstream] = []
        for number in range(3):
            answer = partial(named, str(number).encode())
            upstreams.append(stack.enter_context(Upstream(answer)))
        (port,) = free_ports(1)
        data: dict[str, Any] = config(port, *upstreams, consecutiveFailures=1, duration="10m")
        (backend,) = data["binds"][0]["listeners"][0]["routes"][0]["backends"]
        backend["policies"]["sessionAffinity"] = {"source": 'request.headers["x-user"]'}
        stack.enter_context(GatewayProcess(data, workers=2))
        yield port, upstreams


def served(port: int, user: str) -> str:
    got = fetch(port, headers={"x-user": user} if user else {})
    return got.text if got.status == 200 else ""


def test_a_value_has_its_endpoint_until_that_is_gone(running: tuple[int, list[Upstream]]) -> None:
    port, upstreams = running
    first = {user: served(port, user) for user in USERS}
    assert set(first.values()) == {"0", "1", "2"}
    assert {user: served(port, user) for user in USERS} == first
    # Without the value, endpoints are chosen as ever.
    assert {served(port, "") for _ in range(60)} == {"0", "1", "2"}
    upstreams[0].script = lambda seen: Answer(503)
    mine = [user for user in USERS if first[user] == "0"]
    assert served(port, mine[0]) == ""
    moved = {user: served(port, user) for user in USERS}
    assert all(moved[user] in ("1", "2") for user in mine)
    assert all(moved[user] == first[user] for user in USERS if user not in mine)


@pytest.mark.parametrize("source", ["request.body", "response.code", "1 +"])
def test_what_cannot_choose(source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        affinity_of({"source": source}, services())
    assert caught.value.path == "source"
