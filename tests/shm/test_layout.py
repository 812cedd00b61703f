"""The header: what is accepted, and how each kind of damage is named."""

from __future__ import annotations

import struct

import pytest

from shm import layout
from shm.errors import SegmentRefusedError
from shm.layout import HEADER_BYTES, Header, Kind

KIND = Kind("config", 3)


def header_bytes(*, sealed: bool = True) -> bytearray:
    data = bytearray(HEADER_BYTES)
    layout.write_header(memoryview(data), Header(KIND, 4096, (1, 2, 3, 4)))
    if sealed:
        layout.seal(memoryview(data))
    return data


def test_round_trip() -> None:
    header = layout.read_header("/x", memoryview(header_bytes()), 4096, KIND)
    assert header == Header(KIND, 4096, (1, 2, 3, 4))


def test_an_unsealed_header_is_foreign() -> None:
    with pytest.raises(SegmentRefusedError, match=r"/x: .*no magic"):
        layout.read_header("/x", memoryview(header_bytes(sealed=False)), 4096, KIND)


@pytest.mark.parametrize(
    ("offset", "patch", "message"),
    [
        pytest.param(0, b"\x7fELF", "no magic", id="54-foreign"),
        pytest.param(8, struct.pack("=I", 9), "header version 9", id="54-other-header"),
        pytest.param(24, struct.pack("=Q", 1 << 40), "corrupt header", id="54-size-flipped"),
        pytest.param(40, b"\xff", "corrupt header", id="54-parameter-flipped"),
        pytest.param(64, b"\x00\x01", "corrupt header", id="54-checksum-flipped"),
    ],
)
def test_damage_is_named(offset: int, patch: bytes, message: str) -> None:
    data = header_bytes()
    data[offset : offset + len(patch)] = patch
    with pytest.raises(SegmentRefusedError, match=message):
        layout.read_header("/x", memoryview(data), 4096, KIND)


@pytest.mark.parametrize(
    ("kind", "file_bytes", "message"),
    [
        pytest.param(Kind("metrics", 3), 4096, "holds a 'config' table", id="other-table"),
        pytest.param(Kind("config", 4), 4096, "layout version 3, this program has 4", id="older"),
        pytest.param(KIND, 4095, "4095 bytes long, its header says 4096", id="54-truncated"),
    ],
)
def test_what_does_not_fit_is_refused(kind: Kind, file_bytes: int, message: str) -> None:
    with pytest.raises(SegmentRefusedError, match=message):
        layout.read_header("/x", memoryview(header_bytes()), file_bytes, kind)


def test_the_owner_and_generation_do_not_disturb_the_checksum() -> None:
    data = header_bytes()
    data[layout.OWNER_OFFSET : layout.GENERATION_OFFSET + 8] = b"\xff" * 32
    assert layout.read_header("/x", memoryview(data), 4096, KIND).size_bytes == 4096


@pytest.mark.parametrize(("size", "result"), [(0, 0), (1, 64), (64, 64), (65, 128)])
def test_aligned(size: int, result: int) -> None:
    assert layout.aligned(size) == result
