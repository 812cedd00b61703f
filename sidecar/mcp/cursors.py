"""Composite cursors: one opaque cursor of a merged list stands for those of several servers.

Source: MCP 2025-11-25 and 2026-07-28, Pagination; spec/mcp_a2a.md sections 2.3 and 5.2, row 8.

API: `encode(method, cursors)` after a page, `decode(method, cursor, targets)` before the next.

A cursor is base64url of a JSON list: version, method, then target and that one's own cursor in
turns, in the order of the configuration. A server that has no more pages is left out, and is not
asked again. It is not sealed: it says nothing that its servers did not tell this client, and each
of them checks its own part.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from sidecar.errors import UpstreamError
from sidecar.jsonrpc import INVALID_PARAMS, JsonRpcError

MAX_OWN: Final = 4096
"""Bytes of one server's cursor; one that needs more is taken for broken."""
MAX_CURSOR: Final = 64 * 1024
"""Characters of a composite cursor. As each was made here, a longer one is none of ours."""

_VERSION: Final = 1


def encode(method: str, cursors: Mapping[str, str]) -> str | None:
    """The cursor for a client; None when no server has more.

    `cursors`: target → its `nextCursor`, in the order of the configuration.
    Raises: UpstreamError, naming the target, when a cursor is too long to be passed on.
    """
    if not cursors:
        return None
    flat = [_VERSION, method]
    for target, cursor in cursors.items():
        if len(cursor.encode("utf-8", "surrogatepass")) > MAX_OWN:
            raise UpstreamError(
                502, "mcp_cursor", f"{target}: a cursor of more than {MAX_OWN} bytes"
            )
        flat += (target, cursor)
    text = urlsafe_b64encode(orjson.dumps(flat)).rstrip(b"=").decode()
    if len(text) > MAX_CURSOR:
        raise UpstreamError(502, "mcp_cursor", "the cursors of all servers are too long together")
    return text


def decode(method: str, cursor: object, targets: Iterable[str]) -> dict[str, str]:
    """Target → its cursor, of the targets that have more, in the order of the configuration.

    Raises: JsonRpcError -32602 for what is no cursor of this method and these targets.
    """
    flat = _list(cursor)
    if flat[:2] != [_VERSION, method] or len(flat) < 4 or len(flat) % 2:
        raise _malformed()
    told: dict[str, str] = dict(zip(flat[2::2], flat[3::2], strict=True))
    if 2 * len(told) + 2 != len(flat):
        raise _malformed()
    found = {target: told[target] for target in targets if target in told}
    if len(found) != len(told):
        # A server that is gone after a reload: what comes next cannot be told any more.
        raise _malformed()
    return found


def _list(cursor: object) -> list[Any]:
    if not isinstance(cursor, str) or len(cursor) > MAX_CURSOR:
        raise _malformed()
    try:
        raw = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        flat = orjson.loads(raw)
    except (UnicodeEncodeError, binascii.Error, orjson.JSONDecodeError):
        raise _malformed() from None
    if not isinstance(flat, list) or not all(isinstance(item, str) for item in flat[1:]):
        raise _malformed()
    return flat


def _malformed() -> JsonRpcError:
    return JsonRpcError(INVALID_PARAMS, "Invalid params: cursor")
