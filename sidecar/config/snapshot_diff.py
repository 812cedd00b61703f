"""What changed from the snapshot a worker runs on to the next.

Source: design, section "Configuration: three sources, one snapshot".

Design note
-----------
There may be tens of thousands of resources, and mostly one has changed. So a worker keeps the index
of the snapshot it runs on, cut into blocks of entries, and looks for each of them in the next one:
octets that are equal say that nothing of these resources changed. An index entry does not depend on
where its record lies, so a block is found again also when it has moved. Only the entries between
the blocks found, and those of the blocks that were not found, are read one by one.

What is found begins at an entry of the new index: the first part read begins at one, and each part
read has to end where the next block begins. (A key may hold octets that look like a block; then a
part ends elsewhere, and everything is read.)
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from sidecar.config.snapshot import Buffer, Record, checked_index, entries

_ENTRIES: Final = 128
"""Most of a block: it takes 0.1 ms to read one, and 10,000 resources are 80 of them."""
_SLACK_BYTES: Final = 64 * 1024
"""How far behind its place a block is looked for, beyond what was replaced before it."""


@final
@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive entries of an index. `record_bytes`: of all their records."""

    octets: bytes
    count: int
    record_bytes: int


Index = tuple[Block, ...]
"""Of the snapshot a worker runs on; () before the first."""


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """What a worker must compile (new or changed, in index order) and what it must drop."""

    changed: tuple[Record, ...]
    removed: tuple[str, ...]
    index: Index = field(default=(), compare=False, repr=False)
    """For the next difference, once this one is in force."""


def diff(old: Index, buffer: Buffer, every: int = 256) -> Generator[None, None, Difference]:
    """Compare a buffer with the index of what a worker runs on.

    A generator that yields once the index is checked, and then after each `every` records read, so
    that an event loop can run in between; its return value (`StopIteration.value`) is the
    Difference. Raises ConfigError.
    """
    header, index = checked_index(buffer)
    yield
    found, lost = _found(old, index)
    read = yield from _read(index, found, header.records_at, every)
    if read is None:
        found, lost = [], list(old)
        read = yield from _read(index, found, header.records_at, every)
    # The index is the writer's own, so that it cannot be read to its end is our bug, not damage.
    assert read is not None
    fresh, blocks = read
    before: dict[str, bytes] = {}
    for block in lost:
        for _, record in entries(block.octets, 0, len(block.octets), 0):
            before[record.key] = record.digest
        yield
    changed = tuple([one for one in fresh if before.get(one.key) != one.digest])
    for one in fresh:
        before.pop(one.key, None)
    return Difference(changed, tuple(before), tuple(_joined(blocks)))


def _found(old: Index, index: bytes) -> tuple[list[tuple[int, Block]], list[Block]]:
    """Blocks that the index holds, in its order, and where; and those that it does not."""
    found: list[tuple[int, Block]] = []
    lost: list[Block] = []
    position = passed_over = 0
    for block in old:
        size = len(block.octets)
        at = position
        # Fast path: where it was.
        if not index.startswith(block.octets, at):
            at = index.find(block.octets, at, at + passed_over + size + _SLACK_BYTES)
        if at < 0:
            lost.append(block)
            passed_over += size
        else:
            found.append((at, block))
            position, passed_over = at + size, 0
    return found, lost


def _read(
    index: bytes, found: Sequence[tuple[int, Block]], offset: int, every: int
) -> Generator[None, None, tuple[list[Record], list[Block]] | None]:
    """The records that are in no block, and all blocks, new ones too; None where the blocks do not
    lie between entries. `offset`: of the first record."""
    fresh: list[Record] = []
    blocks: list[Block] = []
    position = 0
    for at, block in (*found, (len(index), None)):
        start, began, count = position, offset, 0
        for position, record in entries(index, start, at, offset):
            fresh.append(record)
            count += 1
            offset = record.offset + record.size
            if count == _ENTRIES:
                blocks.append(Block(index[start:position], count, offset - began))
                start, began, count = position, offset, 0
            if len(fresh) % every == 0:
                yield
        if position != at:
            return None
        if count:
            blocks.append(Block(index[start:at], count, offset - began))
        if block is not None:
            blocks.append(block)
            position, offset = at + len(block.octets), offset + block.record_bytes
    return fresh, blocks


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """Small neighbours as one: else single resources that come would make a block each."""
    made: list[Block] = []
    for block in blocks:
        if made and made[-1].count + block.count <= _ENTRIES:
            last = made[-1]
            made[-1] = Block(
                last.octets + block.octets,
                last.count + block.count,
                last.record_bytes + block.record_bytes,
            )
        else:
            made.append(block)
    return made
