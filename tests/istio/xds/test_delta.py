"""The delta protocol: messages in, events and requests out; and that both ends come to agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from istio.errors import XdsError
from istio.xds._pb import discovery_pb2 as wire
from istio.xds.delta import Delta, Node, Received

A, B = "type.googleapis.com/test.A", "type.googleapis.com/test.B"


def response(
    *names: str,
    type_url: str = A,
    removed: Sequence[str] = (),
    nonce: str = "n1",
    version: str = "1",
) -> wire.DeltaDiscoveryResponse:
    message = wire.DeltaDiscoveryResponse(
        type_url=type_url, nonce=nonce, removed_resources=list(removed)
    )
    for name in names:
        one = message.resources.add(name=name, version=version)
        one.resource.type_url = type_url
        one.resource.value = name.encode()
    return message


def sent(request: bytes | None) -> wire.DeltaDiscoveryRequest:
    assert request is not None
    return wire.DeltaDiscoveryRequest.FromString(request)


def begun(*types: str) -> tuple[Delta, list[wire.DeltaDiscoveryRequest]]:
    delta = Delta(Node("agentgateway~1.2.3.4~pod.ns~ns.svc", {"NAME": "pod", "N": [1]}), types)
    return delta, [sent(request) for request in delta.begin()]


def taken(delta: Delta, message: wire.DeltaDiscoveryResponse) -> Received:
    return delta.receive(message.SerializeToString())


def test_first_requests_are_wildcards_with_the_node() -> None:
    _, requests = begun(A, B)
    assert [one.type_url for one in requests] == [A, B]
    for request in requests:
        assert request.node.id == "agentgateway~1.2.3.4~pod.ns~ns.svc"
        assert dict(request.node.metadata)["NAME"] == "pod"
        assert not request.resource_names_subscribe
        assert not request.initial_resource_versions
        assert request.response_nonce == ""


def test_what_was_applied_is_acknowledged() -> None:
    delta, _ = begun(A)
    received = taken(delta, response("x", "y", removed=["z"]))
    assert [(one.name, one.version, one.payload) for one in received.items] == [
        ("x", "1", b"x"),
        ("y", "1", b"y"),
    ]
    assert received.removed == ("z",)
    answer = sent(delta.settle(received, {}))
    assert (answer.type_url, answer.response_nonce) == (A, "n1")
    assert not answer.HasField("error_detail")
    assert not answer.HasField("node")
    assert delta.held(A) == {"x": "1", "y": "1"}


def test_a_refusal_names_the_bad_ones_and_keeps_the_good() -> None:
    delta, _ = begun(A)
    received = taken(delta, response("x", "y"))
    answer = sent(delta.settle(received, {"y": "no such port"}))
    assert answer.error_detail.code == 3
    assert answer.error_detail.message == "y: no such port"
    assert delta.held(A) == {"x": "1"}


def test_a_refused_change_keeps_the_version_that_is_held() -> None:
    delta, _ = begun(A)
    delta.settle(taken(delta, response("x")), {})
    delta.settle(taken(delta, response("x", version="2", nonce="n2")), {"x": "bad"})
    assert delta.held(A) == {"x": "1"}
    (again,) = map(sent, delta.begin())
    assert dict(again.initial_resource_versions) == {"x": "1"}


def test_what_stands_in_for_a_refused_one_is_told_of() -> None:
    """Else nobody would say that it is gone."""
    delta = Delta(Node("n"), (A, B), {A})
    for _ in delta.begin():
        pass
    for type_url in (A, B):
        delta.settle(taken(delta, response("x", type_url=type_url)), {"x": "bad"})
    a, b = map(sent, delta.begin())
    assert dict(a.initial_resource_versions) == {"x": ""}
    assert dict(b.initial_resource_versions) == {}
    delta.settle(taken(delta, response(removed=["x"])), {})
    assert delta.held(A) == {}


def test_a_reconnect_says_what_is_held() -> None:
    delta, _ = begun(A, B)
    delta.settle(taken(delta, response("x", "y")), {})
    delta.settle(taken(delta, response(removed=["y"], nonce="n2")), {})
    a, b = map(sent, delta.begin())
    assert dict(a.initial_resource_versions) == {"x": "1"}
    assert dict(b.initial_resource_versions) == {}
    assert a.HasField("node")


def test_ready_when_every_type_was_handled_once() -> None:
    delta, _ = begun(A, B)
    assert delta.pending == (A, B)
    received = taken(delta, response("x"))
    assert delta.pending == (A, B)
    delta.settle(received, {"x": "bad"})
    assert delta.pending == (B,)
    delta.settle(taken(delta, response(type_url=B)), {})
    assert delta.pending == ()
    delta.begin()
    assert delta.pending == ()


def test_an_answer_to_a_stream_that_is_gone_is_recorded_and_not_sent() -> None:
    delta, _ = begun(A)
    received = taken(delta, response("x"))
    delta.begin()
    assert delta.settle(received, {}) is None
    assert delta.held(A) == {"x": "1"}


def test_of_one_name_twice_the_last_counts() -> None:
    delta, _ = begun(A)
    message = response("x", "y")
    message.resources.add(name="x", version="2").resource.type_url = A
    assert {one.name: one.version for one in taken(delta, message).items} == {"x": "2", "y": "1"}
    message.resources.add(name="x", version="3")
    received = taken(delta, message)
    assert [one.name for one in received.items] == ["y"]
    assert received.refused == {"x": "it carries no data"}


@pytest.mark.parametrize(
    ("name", "type_url", "has_data", "reason"),
    [
        ("x", B, True, f"it is of type {B}"),
        ("x", A, False, "it carries no data"),
        ("", A, True, "it has no name"),
    ],
)
def test_bad_resources(name: str, type_url: str, has_data: bool, reason: str) -> None:
    delta, _ = begun(A)
    message = response("good")
    bad = message.resources.add(name=name, version="1")
    if has_data:
        bad.resource.type_url = type_url
    received = taken(delta, message)
    assert [one.name for one in received.items] == ["good"]
    assert received.refused == {name: reason}
    answer = sent(delta.settle(received, {}))
    assert answer.error_detail.message == f"{name or '<unnamed>'}: {reason}"
    assert delta.held(A) == {"good": "1"}


def test_a_type_nobody_asked_for_is_refused() -> None:
    delta, _ = begun(A)
    received = taken(delta, response("x", type_url=B, removed=["y"]))
    assert (received.items, received.removed) == ((), ())
    assert "not asked for" in sent(delta.settle(received, {})).error_detail.message
    empty = taken(delta, response(type_url=B))
    assert sent(delta.settle(empty, {})).error_detail.message == "the type was not asked for"
    assert delta.pending == (A,)


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05ab", response("x", nonce="")])
def test_what_ends_the_stream(message: bytes | wire.DeltaDiscoveryResponse) -> None:
    delta, _ = begun(A)
    data = message if isinstance(message, bytes) else message.SerializeToString()
    with pytest.raises(XdsError):
        delta.receive(data)


def test_a_long_refusal_is_cut() -> None:
    delta, _ = begun(A)
    names = [f"name{number}" for number in range(2000)]
    received = taken(delta, response(*names))
    text = sent(delta.settle(received, dict.fromkeys(names, "z" * 1000))).error_detail.message
    assert len(text) < 17000
    assert text.endswith(" more")
    assert text.startswith("name0: zzz")


class Plane:
    """A control plane that keeps the protocol, for the property below."""

    def __init__(self) -> None:
        self.content: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._nonce = 0

    def connect(self, versions: Mapping[str, str]) -> wire.DeltaDiscoveryResponse | None:
        self._told = dict(versions)
        return self.push()

    def push(self) -> wire.DeltaDiscoveryResponse | None:
        changed = {n: v for n, v in self.content.items() if self._told.get(n) != v}
        removed = [name for name in self._told if name not in self.content]
        if not changed and not removed:
            return None
        self._nonce += 1
        message = wire.DeltaDiscoveryResponse(
            type_url=A, nonce=str(self._nonce), removed_resources=removed
        )
        for name, version in changed.items():
            one = message.resources.add(name=name, version=version)
            one.resource.type_url, one.resource.value = A, version.encode()
        self._told = dict(self.content)
        return message


NAMES = st.sampled_from("abcde")
STEPS = st.one_of(
    st.tuples(st.just("set"), NAMES, st.sampled_from(["1", "2", "3", "bad"])),
    st.tuples(st.just("remove"), NAMES, st.just("")),
    st.tuples(st.just("push"), st.just(""), st.just("")),
    st.tuples(st.just("reconnect"), st.just(""), st.just("")),
    st.tuples(st.just("cut"), st.just(""), st.just("")),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_both_ends_come_to_agree(steps: list[tuple[str, str, str]]) -> None:
    """Whatever changes, is refused, or is lost on the way: a reconnect repairs it."""
    plane, (delta, _) = Plane(), begun(A)
    held: dict[str, str] = {}

    def apply(message: wire.DeltaDiscoveryResponse | None) -> None:
        if message is None:
            return
        received = taken(delta, message)
        for name in received.removed:
            held.pop(name, None)
        refused = {one.name: "bad" for one in received.items if one.payload == b"bad"}
        held.update({one.name: one.version for one in received.items if one.name not in refused})
        delta.settle(received, refused)
        assert delta.held(A) == held

    def connect() -> wire.DeltaDiscoveryResponse | None:
        return plane.connect(dict(sent(delta.begin()[0]).initial_resource_versions))

    for action, name, version in steps:
        if action == "set":
            plane.content[name] = version
        elif action == "remove":
            plane.content.pop(name, None)
        elif action == "push":
            apply(plane.push())
        elif action == "reconnect":
            apply(connect())
        else:
            plane.push()  # lost on the way, with the stream it was sent by
            connect()
    apply(connect())
    good = {name: version for name, version in plane.content.items() if version != "bad"}
    assert {name: version for name, version in held.items() if name in good} == good
    # Of what is bad now an older one may be held; of what is gone, nothing.
    assert held.keys() <= plane.content.keys()
