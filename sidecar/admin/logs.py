"""`/api/logs/…`: search in the request log, one row, what comes in, and sums.

Source: spec/config.md section 8.4. All are POST with a JSON body, and change nothing.

Queries run in threads of their own over connections that can only read, each for some seconds at
most; an answer ends where it has become large, and says where to go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, final

import orjson
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sidecar.admin.event_stream import EventStream
from sidecar.admin.log_queries import (
    NUMBER,
    GetRequest,
    Query,
    SearchRequest,
    Summary,
    SummaryRequest,
    cursor_of,
    decoded,
    entry,
    get,
    newer,
    search,
    tail_start,
)
from sidecar.config.model.base import Model
from sidecar.errors import SidecarError
from sidecar.state.request_log import (
    Dialect,
    Reader,
    RequestLogDatabase,
    RequestLogError,
    SlowQueryError,
)

QUERY_SECONDS: Final = 5.0
MAX_BODY_BYTES: Final = 64 * 1024
MAX_ANSWER_CHARS: Final = 8 * 1024 * 1024
MAX_WAITING: Final = 16
"""Queries that run or wait to run."""
MAX_TAILS: Final = 8
_TAIL_ROWS: Final = 200
_TAIL_SECONDS: Final = 0.5
_PING_SECONDS: Final = 15.0
_HEADERS: Final = {"cache-control": "no-store"}

Rows = list[Any]
Asked = TypeVar("Asked", bound=Model)
Result = TypeVar("Result")


class _UnansweredError(SidecarError):
    """A request that gets no rows."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@final
class RequestLogReader:
    """The database as control reads it."""

    def __init__(self, database: RequestLogDatabase, query_seconds: float = QUERY_SECONDS) -> None:
        self._database = database
        self._query_seconds = query_seconds
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="request-log")
        self._waiting = 0

    @property
    def dialect(self) -> Dialect:
        """How queries are written."""
        return self._database.dialect

    async def ask(self, work: Callable[[Reader], Result], empty: Result) -> Result:
        """The result of `work` in a thread; `empty` while there is nothing.

        Raises: _UnansweredError.
        """
        if self._waiting >= MAX_WAITING:
            raise _UnansweredError(503, "too many queries at once")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._run, work, empty)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Take no more queries."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Callable[[Reader], Result], empty: Result) -> Result:
        try:
            with self._database.reader(self._query_seconds) as reader:
                return empty if reader is None else work(reader)
        except SlowQueryError as error:
            text = f"the query took longer than {self._query_seconds:g} s; ask for less"
            raise _UnansweredError(503, text) from error
        except RequestLogError as error:
            raise _UnansweredError(503, f"the request log cannot be read: {error}") from error


def log_routes(reader: RequestLogReader | None, is_stopping: Callable[[], bool]) -> list[Route]:
    """For the admin application, which keeps web pages away. `reader`: None without a database."""
    pages = _Pages(reader, is_stopping)
    return [
        Route(f"/api/logs/{name}", _answering(page), methods=["POST"])
        for name, page in (
            ("search", pages.search),
            ("get", pages.get),
            ("tail", pages.tail),
            ("analytics/summary", pages.summary),
        )
    ]


def _answering(
    page: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await page(request)
        except _UnansweredError as error:
            return _json({"error": str(error)}, error.status)

    return answer


@final
class _Pages:
    __slots__ = ("_dialect", "_is_stopping", "_reader", "_tails")

    def __init__(self, reader: RequestLogReader | None, is_stopping: Callable[[], bool]) -> None:
        self._reader = reader
        self._is_stopping = is_stopping
        self._dialect: Dialect = "sqlite" if reader is None else reader.dialect
        self._tails = 0

    async def search(self, request: Request) -> Response:
        """Rows, the last completed first."""
        asked = await _body(request, SearchRequest)
        query = _valid(lambda: search(asked, self._dialect))
        nothing: tuple[Rows, bool] = ([], False)
        rows, has_more = await self._ask(lambda one: _some(one, query, asked.limit), nothing)
        logs = [entry(row, with_attributes=asked.include_attributes) for row in rows]
        return _json({"logs": logs, "nextCursor": cursor_of(rows[-1]) if has_more else None})

    async def get(self, request: Request) -> Response:
        """One row, whole."""
        asked = await _body(request, GetRequest)
        sql, values = get(asked)
        row = await self._ask(lambda one: one.execute(sql, values).fetchone(), None)
        if row is None:
            return _json({"log": None})
        shown = entry(row, with_attributes=True)
        if asked.include_payload:
            prompt, completion = map(decoded, row[-2:])
            has_any = prompt is not None or completion is not None
            payload = {"requestPrompt": prompt, "responseCompletion": completion}
            shown["payload"] = payload if has_any else None
        return _json({"log": shown})

    async def summary(self, request: Request) -> Response:
        """Sums by group and by time."""
        asked = await _body(request, SummaryRequest)
        summary = _valid(lambda: Summary(asked, datetime.now(UTC), self._dialect))
        options = summary.options()

        def work(one: Reader) -> tuple[Rows, Rows, dict[str, Rows]]:
            return (
                one.execute(*summary.groups()).fetchall(),
                one.execute(*summary.buckets()).fetchall(),
                {
                    name: [value for (value,) in one.execute(*query)]
                    for name, query in options.items()
                },
            )

        nothing: tuple[Rows, Rows, dict[str, Rows]] = ([], [], {name: [] for name in options})
        groups, buckets, found = await self._ask(work, nothing)
        times = {"from": summary.start, "to": summary.end}
        return _json(
            {
                "timeRange": {k: v.isoformat(timespec="microseconds") for k, v in times.items()},
                "bucketSeconds": summary.bucket_seconds,
                "buckets": [summary.shown_bucket(row) for row in buckets],
                "groups": [summary.shown_group(row) for row in groups],
                "filterOptions": found,
            }
        )

    async def tail(self, request: Request) -> Response:
        """Events `log`, each with a row that was written since, and the cursor behind it."""
        asked = await _body(request, SearchRequest)
        start = _valid(lambda: tail_start(asked))
        if self._tails >= MAX_TAILS:
            raise _UnansweredError(503, f"{MAX_TAILS} tails are open already")
        if start is None:
            start = await self._ask(lambda one: _last_row(one, self._dialect), 0)
        return EventStream(self._events(asked, start))

    async def _events(self, asked: SearchRequest, position: int) -> AsyncGenerator[bytes, None]:
        self._tails += 1
        try:
            quiet_since = time.monotonic()
            yield b": the request log\n\n"
            while not self._is_stopping():
                after = position
                position, events = await self._next(asked, after)
                if events:
                    quiet_since = time.monotonic()
                    yield events
                elif time.monotonic() - quiet_since > _PING_SECONDS:
                    quiet_since = time.monotonic()
                    yield b": nothing new\n\n"
                if position == after:
                    await asyncio.sleep(_TAIL_SECONDS)
        finally:
            self._tails -= 1

    async def _next(self, asked: SearchRequest, position: int) -> tuple[int, bytes]:
        """What comes behind a row, and the position behind that."""

        nothing: tuple[Rows, int] = ([], 0)

        def work(one: Reader) -> tuple[Rows, int]:
            last = _last_row(one, self._dialect)
            # All rows were deleted, or the file is another one: numbers begin anew.
            begin = position if last >= position else 0
            rows = one.execute(*newer(asked, begin, _TAIL_ROWS, self._dialect)).fetchall()
            return rows, rows[-1][-1] if len(rows) == _TAIL_ROWS else max(last, *_numbers(rows))

        try:
            rows, behind = await self._ask(work, nothing)
        except _UnansweredError as error:
            # The file may be there again a moment later.
            return position, b"event: error\ndata: %b\n\n" % orjson.dumps({"error": str(error)})
        made = [_event(row, with_attributes=asked.include_attributes) for row in rows]
        return behind, b"".join(made)

    async def _ask(self, work: Callable[[Reader], Result], empty: Result) -> Result:
        if self._reader is None:
            text = "there is no request log: neither config.database nor config.logging.database"
            raise _UnansweredError(404, text)
        return await self._reader.ask(work, empty)


def _event(row: Sequence[Any], *, with_attributes: bool) -> bytes:
    shown = entry(row, with_attributes=with_attributes)
    data = orjson.dumps({"entry": shown, "cursor": f"row-{row[-1]}"})
    return b"event: log\ndata: %b\n\n" % data


def _some(one: Reader, query: Query, limit: int) -> tuple[Rows, bool]:
    """So many rows, or those that make up an answer of the largest size; whether there are more."""
    rows: Rows = []
    chars = 0
    for row in one.execute(*query):
        chars += sum(len(value) for value in row if isinstance(value, str))
        if rows and (len(rows) == limit or chars > MAX_ANSWER_CHARS):
            return rows, True
        rows.append(row)
    return rows, False


def _last_row(one: Reader, dialect: Dialect) -> int:
    sql = f"SELECT COALESCE(MAX({NUMBER[dialect]}), 0) FROM request_logs"  # noqa: S608 - our own
    (last,) = one.execute(sql).fetchone()
    return int(last)


def _numbers(rows: Sequence[Sequence[Any]]) -> Sequence[int]:
    return [row[-1] for row in rows] or [0]


async def _body(request: Request, model: type[Asked]) -> Asked:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise _UnansweredError(413, "the request is too large")
    try:
        return model.model_validate(orjson.loads(data) if data.strip() else {})
    except orjson.JSONDecodeError:
        raise _UnansweredError(400, "expected a JSON object") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the request"
        raise _UnansweredError(400, f"{place}: {first['msg']}") from None


def _valid(make: Callable[[], Result]) -> Result:
    try:
        return make()
    except ValueError as error:
        raise _UnansweredError(400, str(error)) from None


def _json(value: object, status: int = 200) -> Response:
    body = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    return Response(body, status, media_type="application/json", headers=_HEADERS)
