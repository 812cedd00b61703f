"""What clients say of themselves in X-Forwarded-* and its kin: passed on, or as configured.

Source: spec hardening section 4.3 D 39, A 14, 17, D 38; docs/configuration.md (X-Forwarded-*). As
in agentgateway nothing is added or taken away unasked: a gateway cannot know whether a trusted
proxy stands before it. What is pinned here is that nobody can have such a field removed, doubled or
hidden by other means, and that a configured value wins over every spelling a client finds.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.h2 import RawH2
from tests.support.hostile_http1 import chunked, get
from tests.support.origin import Client, Origin, Recorded

Fields = list[tuple[bytes, bytes]]
CLAIMS: Fields = [
    (b"x-forwarded-for", b"203.0.113.9"),
    (b"x-forwarded-for", b"10.0.0.1"),
    (b"x-forwarded-host", b"internal.example"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-port", b"443"),
    (b"x-forwarded-prefix", b"/admin"),
    (b"forwarded", b"for=203.0.113.9;proto=https"),
    (b"x-real-ip", b"203.0.113.9"),
    (b"x-user", b"root"),
]
OWN = {"x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http", "x-forwarded-host": "edge.test"}


class Front:
    """A gateway with `/open`, which changes nothing, `/set` and `/remove`, which do."""

    def __init__(self, origin: Origin, port: int) -> None:
        self.origin = origin
        self.port = port

    def _recorded(self, status: int) -> Recorded:
        assert status == 200
        return self.origin.requests.pop()

    def by_h1(self, path: str, fields: Fields, body: bytes = b"") -> Recorded:
        lines = [b": ".join(pair) for pair in fields]
        with Client(self.port) as client:
            data = get(*lines, line=f"GET {path} HTTP/1.1".encode())
            return self._recorded(client.ask(data + body).status)

    def by_h2(self, path: str, fields: Fields) -> Recorded:
        pseudo = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example")]
        with RawH2(self.port) as client:
            client.send(client.head(1, [*pseudo, (b":path", path.encode()), *fields]))
            return self._recorded(client.outcome(1).status)

    def ask(self, version: str, path: str, fields: Fields) -> Recorded:
        return self.by_h1(path, fields) if version == "h1" else self.by_h2(path, fields)


@pytest.fixture(scope="module", params=["native", "granian"])
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    port = free_ports(1)[0]
    with Origin() as origin:
        backend = {"host": origin.address, "policies": {"http": {"version": "HTTP/1.1"}}}
        names = [name.decode() for name, _ in CLAIMS]
        policies = {
            "/open": {},
            "/set": {"transformations": {"request": {"set": _expressions()}}},
            "/remove": {"requestHeaderModifier": {"remove": sorted(set(names))}},
        }
        routes = [
            {"matches": [{"path": {"exact": path}}], "policies": policy, "backends": [backend]}
            for path, policy in policies.items()
        ]
        config = {
            "config": {"frontDoor": request.param},
            "binds": [{"port": port, "listeners": [{"routes": routes}]}],
        }
        with GatewayProcess(config):
            yield Front(origin, port)


def _expressions() -> dict[str, str]:
    return {
        "x-forwarded-for": "source.address",
        "x-forwarded-proto": "request.scheme",
        "x-forwarded-host": '"edge.test"',
    }


def values(request: Recorded, fields: Fields) -> list[tuple[str, list[str]]]:
    return [(name.decode(), request.values(name.decode())) for name, _ in fields]


@pytest.mark.parametrize("version", ["h1", "h2"])
def test_39_claims_pass_unchanged_and_none_is_added(front: Front, version: str) -> None:
    request = front.ask(version, "/open", CLAIMS)
    pairs = [(name.encode(), value.encode()) for name, value in request.headers]
    assert [pair for pair in pairs if pair in CLAIMS] == CLAIMS
    assert request.values("x-forwarded-for") == ["203.0.113.9", "10.0.0.1"]
    bare = front.ask(version, "/open", [])
    assert not any("forwarded" in name or name == "via" for name, _ in bare.headers)


@pytest.mark.parametrize("version", ["h1", "h2"])
def test_39_a_value_that_is_set_replaces_every_claim(front: Front, version: str) -> None:
    twins = [(b"x_forwarded_for", b"203.0.113.9"), (b"x-forwarded_host", b"internal.example")]
    shouted = [(b"X-Forwarded-For", b"203.0.113.9")] if version == "h1" else []
    request = front.ask(version, "/set", [*CLAIMS, *twins, *shouted])
    for name, value in OWN.items():
        assert request.values(name) == [value]
    assert not any("_" in name for name, _ in request.headers)


@pytest.mark.parametrize("version", ["h1", "h2"])
def test_39_claims_that_are_removed_are_gone(front: Front, version: str) -> None:
    request = front.ask(version, "/remove", CLAIMS)
    assert all(not found for _, found in values(request, CLAIMS))


@pytest.mark.parametrize("path", ["/open", "/set"])
@pytest.mark.parametrize("name", sorted({name.decode() for name, _ in CLAIMS} - {"x-user"}))
def test_39_connection_cannot_have_a_field_removed(front: Front, path: str, name: str) -> None:
    """Else a client could hide what a trusted proxy before this gateway said of it (case 17)."""
    nominated = (b"Connection", f"close, {name}".encode())
    request = front.by_h1(path, [nominated, *CLAIMS])
    expected = [value.decode() for key, value in CLAIMS if key.decode() == name]
    assert request.values(name) == ([OWN[name]] if path == "/set" and name in OWN else expected)


def test_39_claims_in_trailers_are_dropped(front: Front) -> None:
    lines = b"".join(b"%b: %b\r\n" % pair for pair in CLAIMS[:4])
    with Client(front.port) as client:
        data = chunked(b"2\r\nxx\r\n0\r\n" + lines + b"X-Sum: 1\r\n\r\n")
        assert client.ask(data.replace(b"POST / ", b"POST /open ")).status == 200
    request = front.origin.requests.pop()
    assert request.trailers == [("x-sum", "1")]
    assert request.values("x-forwarded-for") == []
