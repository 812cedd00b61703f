"""The header every segment begins with, as bytes: packing, unpacking and checking. No I/O.

Source: design sections 5 (magic, layout version, size, generation) and 8.

Header, 128 bytes, native byte order (the two ends are one machine), all words aligned:

    offset size type  field           written by               a reader may see torn
    0      8    bytes magic           creator, last of all     no: one word
    8      4    u32   header version  creator                  no: before the magic
    12     4    u32   table version   creator                  no: before the magic
    16     8    char  table kind      creator                  no: before the magic
    24     8    u64   size, bytes     creator                  no: before the magic
    32     32   u64*4 parameters      creator                  no: before the magic
    64     4    u32   CRC-32 of 8..63 creator                  no: before the magic
    68     4    -     zero
    72     8    u64   owner pid       creator, `adopt`         between the three owner words
    80     8    u64   owner start, ticks since boot            (a torn owner reads as a dead one)
    88     8    u64   owner pid namespace, inode number
    96     8    u64   generation      the table's writer       no: one aligned word
    104    24   -     zero

Invariants:
    H1  The magic is stored last: a segment with the magic has a complete header.
    H2  Bytes 8..67 never change once the magic is there; the CRC covers them.
    H3  `size` equals the size of the file. A difference means truncation, and touching the missing
        pages would end the process with SIGBUS, so it is checked before the first access.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import final

from shm.errors import SegmentRefusedError

MAGIC = b"AGWSHM\r\n"
HEADER_VERSION = 1
HEADER_BYTES = 128
LINE_BYTES = 64
"""A cache line: what two writers must not share."""

OWNER_OFFSET = 72
GENERATION_OFFSET = 96

_FIXED = struct.Struct("=II8sQ4Q")
_CRC = struct.Struct("=I")
_FIXED_OFFSET = 8
_CRC_OFFSET = _FIXED_OFFSET + _FIXED.size

assert _CRC_OFFSET == 64, "header design note"


@final
@dataclass(frozen=True, slots=True)
class Kind:
    """What a segment holds: the table's kind (≤ 8 ASCII characters), its layout's version."""

    name: str
    version: int

    def encoded(self) -> bytes:
        """The kind as the header's eight bytes."""
        return self.name.encode("ascii").ljust(8, b"\0")


@final
@dataclass(frozen=True, slots=True)
class Header:
    """The unchanging part of a header. `size_bytes` includes the header itself."""

    kind: Kind
    size_bytes: int
    parameters: tuple[int, int, int, int]


def aligned(size_bytes: int, to_bytes: int = LINE_BYTES) -> int:
    """The next multiple of `to_bytes` at or above the size."""
    return -(-size_bytes // to_bytes) * to_bytes


def write_header(view: memoryview, header: Header) -> None:
    """Store everything but the magic (H1); `seal` comes after the table's own first state."""
    fixed = _FIXED.pack(
        HEADER_VERSION,
        header.kind.version,
        header.kind.encoded(),
        header.size_bytes,
        *header.parameters,
    )
    view[_FIXED_OFFSET:_CRC_OFFSET] = fixed
    view[_CRC_OFFSET : _CRC_OFFSET + _CRC.size] = _CRC.pack(zlib.crc32(fixed))


def seal(view: memoryview) -> None:
    """Store the magic: from here on others may attach (H1)."""
    view[: len(MAGIC)] = MAGIC


def is_sealed(view: memoryview) -> bool:
    """Whether the creator finished."""
    return view[: len(MAGIC)] == MAGIC


def read_header(name: str, view: memoryview, file_bytes: int, kind: Kind) -> Header:
    """Check a header and give it back. `view` holds at least the header.

    Raises: SegmentRefusedError, naming the segment and what is wrong with it.
    """
    if not is_sealed(view):
        raise SegmentRefusedError(f"{name}: not a segment of this program (no magic)")
    fixed = bytes(view[_FIXED_OFFSET:_CRC_OFFSET])
    header_version, version, kind_name, size, *parameters = _FIXED.unpack(fixed)
    if header_version != HEADER_VERSION:
        raise SegmentRefusedError(
            f"{name}: header version {header_version}, wanted {HEADER_VERSION}"
        )
    (crc,) = _CRC.unpack_from(view, _CRC_OFFSET)
    if crc != zlib.crc32(fixed):
        raise SegmentRefusedError(f"{name}: corrupt header (checksum differs)")
    if kind_name != kind.encoded():
        found = kind_name.rstrip(b"\0").decode("ascii", "replace")
        raise SegmentRefusedError(f"{name}: holds a {found!r} table, wanted {kind.name!r}")
    if version != kind.version:
        raise SegmentRefusedError(
            f"{name}: {kind.name} layout version {version}, this program has {kind.version}"
        )
    if size != file_bytes:
        raise SegmentRefusedError(
            f"{name}: {file_bytes} bytes long, its header says {size} (truncated?)"
        )
    one, two, three, four = parameters
    return Header(kind, size, (one, two, three, four))
