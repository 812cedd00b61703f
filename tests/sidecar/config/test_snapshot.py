"""The binary form: what goes in comes out, in slices, and damage is refused."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.snapshot import (
    Resource,
    Snapshot,
    encode,
    read_header,
    read_index,
    read_record,
)
from sidecar.errors import ConfigError

HEADER_BYTES = 64


def snapshot_of(data: dict[str, dict[str, object]]) -> Snapshot:
    return Snapshot({f"route/{name}": Resource.of("route", name, data[name]) for name in data})


SAMPLE = snapshot_of({f"r{index}": {"value": index, "text": "é"} for index in range(10)})
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(max_size=20), st.dictionaries(st.text(), PLAIN), max_size=8))
def test_round_trip(data: dict[str, dict[str, object]]) -> None:
    snapshot = snapshot_of(data)
    buffer = encode(snapshot, 7)
    header = read_header(buffer)
    assert (header.generation, header.count, header.total_bytes) == (7, len(data), len(buffer))
    decoded = {record.key: read_record(buffer, record) for record in read_index(buffer)}
    assert decoded == snapshot.dump()
    assert list(decoded) == list(snapshot.resources)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_longer_than_the_snapshot(kind: Any) -> None:
    buffer = kind(encode(SAMPLE, 2**64 - 1) + bytes(4096))
    records = list(read_index(buffer))
    assert [record.key for record in records] == list(SAMPLE.resources)
    assert read_record(buffer, records[3]) == {"value": 3, "text": "é"}


def test_the_digest_is_that_of_the_json_in_its_order() -> None:
    """Log fields and header changes are ordered maps, so another order is another resource."""
    data: dict[str, object] = {"b": 1, "a": {"d": [1, None], "c": "x"}}
    resource = Resource.of("route", "r", data)
    text = json.dumps(data, separators=(",", ":")).encode()
    assert resource.encoded == text
    assert resource.digest == blake2b(text, digest_size=16).digest()
    assert resource == Resource.of("route", "r", dict(data))
    assert resource != Resource.of("route", "r", {"a": data["a"], "b": 1})
    assert resource.key == "route/r"


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="JSON"):
        Resource.of("route", "r", {"value": 2**70})
    with pytest.raises(ConfigError, match="name"):
        Resource.of("route", "r" * 70_000, {})
    with pytest.raises(ConfigError, match="name"):
        Resource.of("route", "\ud800", {})


def changed_at(buffer: bytes, offset: int) -> bytes:
    damaged = bytearray(buffer)
    damaged[offset] ^= 0xFF
    return bytes(damaged)


BUFFER = encode(SAMPLE, 1)
DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut off"),
    "half a header": (BUFFER[:40], "cut off"),
    "half a snapshot": (BUFFER[:-1], "cut off"),
    "foreign magic": (b"X" + BUFFER[1:], "foreign magic"),
    "other version": (changed_at(BUFFER, 8), "format"),
    "other header size": (changed_at(BUFFER, 10), "format"),
    "more records than fit": (changed_at(BUFFER, 26), "sizes"),
    "index larger than all": (changed_at(BUFFER, 34), "sizes"),
    "damaged digest of the index": (changed_at(BUFFER, 50), "index"),
    "damaged index": (changed_at(BUFFER, HEADER_BYTES + 3), "index"),
    "zeros": (bytes(4096), "foreign magic"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(name: str) -> None:
    buffer, reason = DAMAGE[name]
    with pytest.raises(ConfigError, match=reason):
        list(read_index(buffer))


def test_a_damaged_record_is_refused_and_the_others_are_read() -> None:
    records = list(read_index(BUFFER))
    damaged = changed_at(BUFFER, records[5].offset + 2)
    found = list(read_index(damaged))
    assert read_record(damaged, found[4]) == {"value": 4, "text": "é"}
    with pytest.raises(ConfigError, match="route/r5"):
        read_record(damaged, found[5])


@given(st.integers(0, len(BUFFER) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(offset: int, change: int) -> None:
    damaged = bytearray(BUFFER)
    damaged[offset] ^= change
    try:
        decoded = {one.key: read_record(damaged, one) for one in read_index(damaged)}
    except ConfigError:
        return
    pytest.fail(f"damage was believed: {decoded}")


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(foreign: bytes) -> None:
    with pytest.raises(ConfigError):
        list(read_index(foreign))


def test_an_index_entry_does_not_depend_on_the_others() -> None:
    first = encode(SAMPLE, 1)
    resources = {**SAMPLE.resources, "route/z": Resource.of("route", "z", {"a": 1})}
    second = encode(Snapshot(resources), 1)
    entry = next(iter(SAMPLE.resources.values())).entry
    assert first[HEADER_BYTES : HEADER_BYTES + len(entry)] == entry
    assert second[HEADER_BYTES : HEADER_BYTES + len(entry)] == entry
    assert orjson.loads(second[-7:]) == {"a": 1}
