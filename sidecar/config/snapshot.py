"""The snapshot: keyed resources as plain data, and their bytes for the workers.

Source: design, section "Configuration: three sources, one snapshot".

Design note: the binary form
----------------------------
One buffer holds one snapshot. Numbers are little-endian and unsigned; sizes and offsets are bytes.

    offset  size  field
    0       8     magic, b"AGWSNAP\\n"
    8       2     format version, 1
    10      2     header size, 64; also the offset of the index
    12      4     reserved, 0
    16      8     generation the buffer was encoded for
    24      4     number of records
    28      4     reserved, 0
    32      8     size of the index
    40      8     size of everything: header, index and records
    48      16    BLAKE2b-128 of the 48 bytes above and the index

Then the index, one entry a record, and then the records, in the order of the index:

    16      digest: BLAKE2b-128 of the record
    4       size of the record
    2       size of the key
    n       key, UTF-8, "<kind>/<name>"

A record is the resource's data as JSON, its keys in the order of the file: log fields and header
changes are ordered maps. Records follow each other without gaps, so an offset is the sum of the
sizes before it and is not stored: an index entry depends on its resource alone and is made once,
and encoding a snapshot of which one route changed is a join.

Writer: control, once, before the generation is published; nobody writes a published buffer, so a
reader sees no torn state. What it may see is a foreign or damaged segment, therefore:

1. Nothing behind the header is believed before magic, version and sizes are checked.
2. Header and index are used only when their digest is right: keys, digests, sizes are the writer's.
3. A record is decoded only when its own digest is right. Checking all of them would cost a worker
   the pause that slicing avoids, so each is checked when it is read.

The buffer may be longer than the snapshot: shared memory comes in pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple, cast, final

import orjson

from sidecar.errors import ConfigError

MAGIC = b"AGWSNAP\n"
VERSION = 1
DIGEST_BYTES = 16

_HEADER = struct.Struct("<8sHHIQIIQQ")
_HEADER_BYTES = _HEADER.size + DIGEST_BYTES
_ENTRY = struct.Struct("<16sIH")

Json = dict[str, object]
"""What a resource holds: plain data that JSON can say."""


def compact(octets: bytes) -> bytes:
    """A copy that takes the memory it needs. What orjson makes keeps a buffer of 8 KiB, so ten
    thousand small resources that are kept would hold 80 MB."""
    return bytes(memoryview(octets))


@final
@dataclass(frozen=True, slots=True)
class Resource:
    """One keyed piece of configuration. `data` belongs to the snapshot: nobody changes it.

    Make one with `Resource.of`; `digest` is BLAKE2b-128 over `encoded`, its JSON.
    """

    kind: str
    name: str
    data: Json = field(compare=False)
    digest: bytes
    encoded: bytes = field(compare=False, repr=False)
    entry: bytes = field(compare=False, repr=False)
    """This resource's entry in the index of the binary form."""

    @property
    def key(self) -> str:
        """`<kind>/<name>`."""
        return f"{self.kind}/{self.name}"

    @classmethod
    def of(cls, kind: str, name: str, data: Json) -> Resource:
        """Encode and digest `data`. Raises ConfigError when JSON cannot hold it."""
        try:
            encoded = compact(orjson.dumps(data))
        except TypeError as error:
            raise ConfigError("", f"cannot be written as JSON: {error}") from error
        digest = blake2b(encoded, digest_size=DIGEST_BYTES).digest()
        try:
            key = f"{kind}/{name}".encode()
            entry = _ENTRY.pack(digest, len(encoded), len(key)) + key
        except (UnicodeEncodeError, struct.error) as error:
            raise ConfigError("", "name is too long or not valid Unicode") from error
        return cls(kind, name, data, digest, encoded, entry)


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole configuration: resources by key, and what the operator should hear but may ignore."""

    resources: dict[str, Resource]
    warnings: tuple[ConfigError, ...] = ()
    """Never raised: each has the path and the text, to be placed in the file as problems are."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Resource key to the path in the document it was made from."""

    def dump(self) -> dict[str, Json]:
        """Key to data, for golden files and `/config_dump` (which redacts it)."""
        return {key: resource.data for key, resource in self.resources.items()}


class Record(NamedTuple):
    """Where one resource's bytes lie in a buffer."""

    key: str
    digest: bytes
    offset: int
    size: int


@final
@dataclass(frozen=True, slots=True)
class Header:
    """The checked header of a buffer."""

    generation: int
    count: int
    index_bytes: int
    total_bytes: int

    @property
    def records_at(self) -> int:
        """Where the records begin."""
        return _HEADER_BYTES + self.index_bytes


Buffer = bytes | bytearray | memoryview


def encode(snapshot: Snapshot, generation: int) -> bytes:
    """The snapshot's binary form. `generation` is 0 to 2**64 - 1."""
    resources = snapshot.resources.values()
    index = b"".join([resource.entry for resource in resources])
    total = _HEADER_BYTES + len(index) + sum([len(resource.encoded) for resource in resources])
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        _HEADER_BYTES,
        0,
        generation,
        len(resources),
        0,
        len(index),
        total,
    )
    return b"".join(
        [header, _seal(header, index), index, *[resource.encoded for resource in resources]]
    )


def _seal(header: Buffer, index: Buffer) -> bytes:
    digest = blake2b(header, digest_size=DIGEST_BYTES)
    digest.update(index)
    return digest.digest()


def read_header(buffer: Buffer) -> Header:
    """Read the header and check the form. Raises ConfigError: foreign, other version, cut off."""
    if len(buffer) < _HEADER_BYTES:
        raise ConfigError("", f"snapshot is cut off: {len(buffer)} bytes, no header")
    magic, version, size, _, generation, count, _, index_bytes, total = _HEADER.unpack_from(buffer)
    if magic != MAGIC:
        raise ConfigError("", "not a configuration snapshot: foreign magic")
    if version != VERSION or size != _HEADER_BYTES:
        raise ConfigError("", f"snapshot has format {version}, this program reads {VERSION}")
    if total > len(buffer):
        raise ConfigError("", f"snapshot is cut off: {len(buffer)} of {total} bytes")
    if size + index_bytes > total or count * _ENTRY.size > index_bytes:
        raise ConfigError("", "snapshot is damaged: sizes contradict each other")
    return Header(generation, count, index_bytes, total)


def checked_index(buffer: Buffer) -> tuple[Header, bytes]:
    """The header, and the octets of the index. Raises ConfigError."""
    header = read_header(buffer)
    view, start = memoryview(buffer), _HEADER_BYTES
    index = bytes(view[start : start + header.index_bytes])
    if _seal(view[: _HEADER.size], index) != view[_HEADER.size : start]:
        raise ConfigError("", "snapshot is damaged: the index does not match its digest")
    return header, index


def entries(index: bytes, start: int, end: int, offset: int) -> Iterator[tuple[int, Record]]:
    """The records of a part of an index, each with where its entry ends. About 1 µs each.

    `start`: where an entry begins; the last one begins before `end`. `offset`: where the first
    record begins in the buffer.
    """
    unpack, entry_bytes = _ENTRY.unpack_from, _ENTRY.size
    while start < end:
        digest, size, key_bytes = unpack(index, start)
        start += entry_bytes
        key = index[start : start + key_bytes].decode()
        start += key_bytes
        yield start, Record(key, digest, offset, size)
        offset += size


def read_index(buffer: Buffer) -> Iterator[Record]:
    """The records of a buffer, without decoding any.

    The header and the index are checked at the first step. Raises ConfigError.
    """
    header, index = checked_index(buffer)
    end, offset = 0, header.records_at
    for position, record in entries(index, 0, header.index_bytes, offset):
        end, offset = position, offset + record.size
        yield record
    # Rule 2 makes both sides the writer's own, so a difference is our bug, not damage.
    assert (end, offset) == (header.index_bytes, header.total_bytes)


def read_record(buffer: Buffer, record: Record) -> Json:
    """Decode one record. Raises ConfigError when its bytes do not have its digest."""
    encoded = memoryview(buffer)[record.offset : record.offset + record.size]
    if blake2b(encoded, digest_size=DIGEST_BYTES).digest() != record.digest:
        raise ConfigError("", f"snapshot is damaged: {record.key} does not match its digest")
    # The digest proves that Resource.of wrote these bytes, and it writes objects only.
    return cast("Json", orjson.loads(encoded))
