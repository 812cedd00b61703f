"""`/state` of the admin API: the shared tables, and the reset of one key.

Source: design section 9. A table may have a million rows: they are gone through in slices between
which the event loop runs, and no more than `limit` of them are written out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shm.errors import ShmError
from sidecar.state.redis import RedisError
from sidecar.state.report import Report, Shown, View, parsed_key

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 10_000
_SLICE_ROWS: Final = 512


def state_routes(report: Report) -> list[Route]:
    """For the admin application, which keeps web pages away."""
    pages = _Pages(report)
    return [
        Route("/state", pages.overview, methods=["GET"]),
        Route("/state/{table}", pages.table, methods=["GET"]),
        Route("/state/{table}/{key}/reset", pages.reset, methods=["POST"]),
    ]


@final
class _Pages:
    __slots__ = ("_report",)

    def __init__(self, report: Report) -> None:
        self._report = report

    async def overview(self, request: Request) -> Response:
        """Every table."""
        return _json(self._report.overview())

    async def table(self, request: Request) -> Response:
        """Rows of one table: `?limit=` (default 100, at most 10,000) and `?prefix=` of the label
        or key."""
        view = self._view(request)
        if view is None:
            return self._unknown(request)
        limit = _limit(request.query_params.get("limit"))
        if limit is None:
            return _problem(400, f"limit: expected a number from 1 to {MAX_LIMIT}")
        try:
            rows, has_more = await _chosen(view, request.query_params.get("prefix", ""), limit)
        except ShmError as error:
            return _problem(503, str(error))
        return _json({"table": view.name, "rows": rows, "hasMore": has_more})

    async def reset(self, request: Request) -> Response:
        """Undo what is held against one key."""
        view = self._view(request)
        if view is None:
            return self._unknown(request)
        text = request.path_params["key"]
        key = parsed_key(text)
        if key is None:
            return _problem(400, "key: expected 32 hexadecimal digits, as the rows show it")
        try:
            is_known = await view.reset(key)
        except (ShmError, RedisError) as error:
            return _problem(503, str(error))
        if not is_known:
            return _problem(404, f"{view.name}: no key {text}")
        return _json({"table": view.name, "reset": text})

    def _view(self, request: Request) -> View | None:
        return self._report.views.get(request.path_params["table"])

    def _unknown(self, request: Request) -> Response:
        names = ", ".join(self._report.views)
        return _problem(404, f"no such table; there are {names}")


async def _chosen(view: View, prefix: str, limit: int) -> tuple[list[Shown], bool]:
    """The first rows that are like the prefix, and whether there are more."""
    rows: list[Shown] = []
    for count, item in enumerate(view.items(), 1):
        if count % _SLICE_ROWS == 0:
            await asyncio.sleep(0)
        if item.is_like(prefix):
            if len(rows) == limit:
                return rows, True
            rows.append(item.show())
    return rows, False


def _limit(text: str | None) -> int | None:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        return None
    return int(text) if 1 <= int(text) <= MAX_LIMIT else None


def _problem(status: int, message: str) -> Response:
    return _json({"error": message}, status)


def _json(value: Mapping[str, object], status: int = 200) -> Response:
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    headers = {"cache-control": "no-store"}
    return Response(body, status, media_type="application/json", headers=headers)
