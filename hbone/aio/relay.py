"""Copies octets between two streams, both ways, until both directions have ended.

Source: spec istio 1.9.
"""

from __future__ import annotations

import asyncio

from hbone.aio.tunnel import ByteStream
from hbone.errors import HboneError


async def relay(one: ByteStream, other: ByteStream) -> tuple[int, int]:
    """Octets from `one` to `other`, and back. Each direction ends on its own.

    An error in either cuts both streams: a reader must never take a piece for the whole. Raises:
    HboneError, OSError, the first that occurred.
    """
    there = asyncio.ensure_future(_copy(one, other))
    back = asyncio.ensure_future(_copy(other, one))
    try:
        await asyncio.wait((there, back), return_when=asyncio.FIRST_EXCEPTION)
        for task in (there, back):
            if task.done() and (error := task.exception()) is not None:
                raise error
        return there.result(), back.result()
    except (HboneError, OSError, asyncio.CancelledError):
        one.abort()
        other.abort()
        raise
    finally:
        for task in (there, back):
            task.cancel()
        # Also takes the second error, which the first explains.
        await asyncio.gather(there, back, return_exceptions=True)


async def _copy(source: ByteStream, target: ByteStream) -> int:
    total = 0
    while data := await source.read():
        await target.write(data)
        total += len(data)
    await target.write_eof()
    return total
