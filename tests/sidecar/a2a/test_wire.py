"""Protocol buffers without a schema, beside the real library."""

from __future__ import annotations

import pytest
from a2a.types import a2a_pb2 as new

from sidecar.a2a import wire
from sidecar.a2a.wire import WireError

CARD = new.AgentCard(
    name="é",
    supported_interfaces=[new.AgentInterface(url="a"), new.AgentInterface(url="b" * 300)],
    capabilities=new.AgentCapabilities(streaming=True),
)


def test_reading() -> None:
    raw = CARD.SerializeToString()
    assert wire.text(raw, 1) == "é"
    assert wire.every(raw, 3, 1) == [b"a", b"b" * 300]
    assert wire.text(raw, 99) == ""
    assert wire.number(raw, 1, 7) == 1
    assert wire.number(raw, 2, 7) is None


def test_editing_leaves_the_rest() -> None:
    raw = CARD.SerializeToString() + wire.field(2000, b"unknown")
    same = wire.edited(raw, lambda _, value: value, frozenset((1, 3)))
    assert same == raw
    made = wire.edited(raw, lambda _, value: b"x" if value == b"a" else None, frozenset((1,)))
    assert new.AgentCard.FromString(made).name == ""
    assert wire.text(made, 2000) == "unknown"


@pytest.mark.parametrize(
    "raw",
    [b"\x0a\x05ab", b"\x0a", b"\x80" * 11, b"\x00\x01", b"\x0b", b"\x0e", b"\x0d\x00"],
    ids=["cut", "no length", "endless", "field 0", "group", "wire type 6", "short number"],
)
def test_damaged(raw: bytes) -> None:
    with pytest.raises(WireError):
        list(wire.fields(raw))
