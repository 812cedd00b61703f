"""What `/api/logs/…` may be asked, and the SQL that answers it.

Source: spec/config.md section 8.4; spec/llm.md section 5.4. Names of fields, the order of rows
(the last completed first) and time ranges (by completion, without their end) are agentgateway's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self

import orjson
from pydantic import AfterValidator, Field, model_validator

from sidecar.config.model.base import Model
from sidecar.state.request_log import Dialect
from sidecar.telemetry.request_log import COLUMNS

MAX_LIMIT: Final = 1000
MAX_BUCKETS: Final = 1000
MAX_GROUPS: Final = 1000
MAX_CELLS: Final = 20_000
"""Pairs of a bucket and a group."""
MAX_OPTIONS: Final = 100
_GROUPED: Final = {
    "provider": "gen_ai_provider_name",
    "requestModel": "gen_ai_request_model",
    "responseModel": "gen_ai_response_model",
    "httpStatus": "http_status",
}
_SUMS: Final = """
    COUNT(*), COUNT(*) FILTER (WHERE http_status IS NULL OR http_status >= 400),
    CAST(COALESCE(SUM(input_tokens), 0) AS BIGINT), CAST(COALESCE(SUM(output_tokens), 0) AS BIGINT),
    CAST(COALESCE(SUM(total_tokens), 0) AS BIGINT), SUM(cost),
    CAST(COALESCE(AVG(duration_ms), 0) AS DOUBLE PRECISION)
"""
_SUM_NAMES: Final = (
    *("requests", "errors", "inputTokens", "outputTokens", "totalTokens", "cost"),
    "averageDurationMs",
)
_SECONDS: Final[Mapping[Dialect, str]] = {
    "sqlite": "CAST(strftime('%s', completed_at) AS INTEGER)",
    "postgres": "CAST(FLOOR(EXTRACT(EPOCH FROM CAST(completed_at AS TIMESTAMPTZ))) AS BIGINT)",
}
_ATTRIBUTE: Final[Mapping[Dialect, str]] = {
    "sqlite": "CAST(json_extract(attributes_json, ?) AS TEXT)",
    "postgres": "(CAST(attributes_json AS JSONB) ->> ?)",
}
NUMBER: Final[Mapping[Dialect, str]] = {"sqlite": "rowid", "postgres": "seq"}
"""Of a row, larger the later it was written."""
_CURSOR: Final = re.compile(r"([0-9T:.+Z-]{10,40})\|([A-Za-z0-9-]{1,64})").fullmatch
_TAIL_CURSOR: Final = re.compile(r"row-([0-9]{1,18})").fullmatch

Query = tuple[str, list[object]]
"""SQL and its parameters."""


def _instant(text: str) -> str:
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            raise ValueError
        return when.astimezone(UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError):
        raise ValueError("expected a time as 2026-07-03T21:41:59Z") from None


def _key(text: str) -> str:
    if not text or len(text) > 256 or '"' in text or "\\" in text or "\0" in text:
        raise ValueError("expected an attribute's name, without quotes")
    return text


Instant = Annotated[str, Field(max_length=64), AfterValidator(_instant)]
"""As rows have it."""
Name = Annotated[str, Field(max_length=1024)]
Names = Annotated[list[Name], Field(max_length=100)]
AttributeKey = Annotated[str, AfterValidator(_key)]


class TimeRange(Model):
    """By completion; `to` is no part of it."""

    from_: Instant | None = None
    """Default: the beginning."""
    to: Instant | None = None
    """Default: now."""


class Filters(Model):
    """All of them hold; of a list, one."""

    http_status: Annotated[list[int], Field(max_length=100)] = Field(default_factory=list)
    provider: Names = Field(default_factory=list)
    request_model: Names = Field(default_factory=list)
    response_model: Names = Field(default_factory=list)
    trace_id: Name | None = None
    has_payload: bool | None = None
    attributes: Annotated[dict[AttributeKey, Name | int | float | bool], Field(max_length=20)] = (
        Field(default_factory=dict)
    )


class Selection(Model):
    """Which rows."""

    time_range: TimeRange = Field(default_factory=TimeRange)
    filters: Filters = Field(default_factory=Filters)


class SearchRequest(Selection):
    """`/api/logs/search`, and `/api/logs/tail` without `limit`."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 100
    cursor: Annotated[str, Field(max_length=128)] | None = None
    """Where the answer before this one, or the last event, said to go on."""
    include_attributes: bool = False


class GetRequest(Model):
    """`/api/logs/get`."""

    id: Annotated[str, Field(max_length=64)]
    include_payload: bool = False


class GroupBy(Model):
    """One thing to group by."""

    field: Literal["provider", "requestModel", "responseModel", "httpStatus", "attributes"]
    key: AttributeKey | None = None
    """Of the attribute."""

    @model_validator(mode="after")
    def _has_key(self) -> Self:
        if (self.field == "attributes") != (self.key is not None):
            raise ValueError("`key` belongs to `attributes`, and only to it")
        return self

    @property
    def name(self) -> str:
        """What it is called in a group."""
        return self.key or self.field


class SummaryRequest(Selection):
    """`/api/logs/analytics/summary`."""

    group_by: Annotated[list[GroupBy], Field(max_length=4)] = Field(default_factory=list)
    bucket_count: Annotated[int, Field(ge=1, le=MAX_BUCKETS)] | None = None
    """Default 60."""
    bucket_seconds: Annotated[int, Field(ge=1, le=366 * 86400)] | None = None
    """Instead of a count."""


def search(request: SearchRequest, dialect: Dialect = "sqlite") -> Query:
    """One row more than asked for, so as to know whether there are more. Raises: ValueError."""
    terms, values = _terms(request.time_range, request.filters, dialect)
    if request.cursor is not None:
        match = _CURSOR(request.cursor)
        if match is None:
            raise ValueError("cursor: expected what `nextCursor` was")
        terms.append("(completed_at, id) < (?, ?)")
        values += match.groups()
    order = "ORDER BY completed_at DESC, id DESC LIMIT ?"
    return f"{_select('')} {_where(terms)} {order}", [*values, request.limit + 1]


def cursor_of(row: Sequence[Any]) -> str:
    """Where a search goes on behind this row."""
    return f"{row[COLUMNS.index('completed_at')]}|{row[0]}"


def newer(
    request: SearchRequest, row_number: int, limit: int, dialect: Dialect = "sqlite"
) -> Query:
    """Rows written after that one, as they were written; the number of each stands last."""
    terms, values = _terms(request.time_range, request.filters, dialect)
    number = NUMBER[dialect]
    terms.append(f"{number} > ?")
    sql = f"{_select(f', {number}')} {_where(terms)} ORDER BY {number} LIMIT ?"
    return sql, [*values, row_number, limit]


def tail_start(request: SearchRequest) -> int | None:
    """Where a tail goes on; None for what comes from now on. Raises: ValueError."""
    if request.cursor is None:
        return None
    match = _TAIL_CURSOR(request.cursor)
    if match is None:
        raise ValueError("cursor: expected that of an event")
    return int(match[1])


def get(request: GetRequest) -> Query:
    """One row, its payload behind it."""
    payload = ", request_prompt_json, response_completion_json"
    join = "LEFT JOIN request_log_payloads ON log_id = id"
    return f"{_select(payload)} {join} WHERE id = ?", [request.id]


def entry(row: Sequence[Any], *, with_attributes: bool) -> dict[str, object]:
    """A row as agentgateway shows it."""
    one = dict(zip(COLUMNS, row, strict=False))
    shown: dict[str, object] = {
        "id": one["id"],
        "startedAt": one["started_at"],
        "completedAt": one["completed_at"],
        "durationMs": one["duration_ms"],
        "traceId": one["trace_id"],
        "spanId": one["span_id"],
        "httpStatus": one["http_status"],
        "error": one["error"],
        "genAi": {
            "operationName": one["gen_ai_operation_name"],
            "providerName": one["gen_ai_provider_name"],
            "requestModel": one["gen_ai_request_model"],
            "responseModel": one["gen_ai_response_model"],
        },
        "usage": {
            "inputTokens": one["input_tokens"],
            "outputTokens": one["output_tokens"],
            "totalTokens": one["total_tokens"],
        },
        "cost": one["cost"],
        "user": one["agentgateway_user"],
        "group": one["agentgateway_group"],
        "userAgentName": one["user_agent_name"],
        "hasPayload": bool(one["has_payload"]),
    }
    if with_attributes:
        shown["attributes"] = decoded(one["attributes_json"])
    return shown


def decoded(text: object) -> object:
    """A column of JSON; None for what is none."""
    try:
        return None if text is None else orjson.loads(str(text))
    except orjson.JSONDecodeError:
        return None


class Summary:
    """The queries of one summary, all over the same rows."""

    def __init__(self, request: SummaryRequest, now: datetime, dialect: Dialect = "sqlite") -> None:
        """`now`: with a time zone. Raises: ValueError."""
        self._dialect = dialect
        given = request.time_range
        self.end = datetime.fromisoformat(given.to) if given.to else now.astimezone(UTC)
        day = timedelta(days=1)
        self.start = datetime.fromisoformat(given.from_) if given.from_ else self.end - day
        span = (self.end - self.start).total_seconds()
        if span <= 0:
            raise ValueError("timeRange: `to` must be later than `from`")
        count = request.bucket_count or 60
        self.bucket_seconds = request.bucket_seconds or max(1, int(-(-span // count)))
        if span / self.bucket_seconds > MAX_BUCKETS:
            raise ValueError(f"bucketSeconds: that is more than {MAX_BUCKETS} buckets")
        self._groups = request.group_by
        terms = TimeRange.model_validate(
            {"from": self.start.isoformat(), "to": self.end.isoformat()}
        )
        self._terms, self._values = _terms(terms, request.filters, dialect)

    def groups(self) -> Query:
        """The sums of each group, the largest first."""
        columns, values = self._columns()
        sql = f"SELECT {', '.join([*columns, _SUMS])} FROM request_logs"  # noqa: S608 - our own names
        sql += f" {_where(self._terms)}"
        if columns:
            sql += f" GROUP BY {_numbers(len(columns))}"
        order = f" ORDER BY {len(columns) + 1} DESC LIMIT {MAX_GROUPS}"
        return sql + order, [*values, *self._values]

    def buckets(self) -> Query:
        """The same for each stretch of time; those without requests are left out."""
        columns, values = self._columns()
        first = f"({_SECONDS[self._dialect]} - ?) / ?"
        sql = f"SELECT {', '.join([first, *columns, _SUMS])} FROM request_logs"  # noqa: S608
        sql += f" {_where(self._terms)} GROUP BY {_numbers(len(columns) + 1)}"
        sql += f" ORDER BY 1 LIMIT {MAX_CELLS}"
        begin = int(self.start.timestamp())
        return sql, [begin, self.bucket_seconds, *values, *self._values]

    def options(self) -> Mapping[str, Query]:
        """The values there are to filter by."""
        made = {}
        for name, column in _GROUPED.items():
            where = _where([*self._terms, f"{column} IS NOT NULL"])
            sql = f"SELECT DISTINCT {column} FROM request_logs {where}"  # noqa: S608 - our own names
            made[name] = (f"{sql} ORDER BY 1 LIMIT {MAX_OPTIONS}", list(self._values))
        return made

    def shown_group(self, row: Sequence[Any]) -> dict[str, object]:
        """A row of `groups`."""
        return self._shown(row, 0)

    def shown_bucket(self, row: Sequence[Any]) -> dict[str, object]:
        """A row of `buckets`."""
        start = self.start + timedelta(seconds=int(row[0]) * self.bucket_seconds)
        return {"start": start.isoformat(timespec="microseconds"), **self._shown(row, 1)}

    def _shown(self, row: Sequence[Any], first: int) -> dict[str, object]:
        names = [one.name for one in self._groups]
        behind = first + len(names)
        group = {name: row[first + at] for at, name in enumerate(names)}
        return {"group": group, **dict(zip(_SUM_NAMES, row[behind:], strict=True))}

    def _columns(self) -> tuple[list[str], list[object]]:
        columns: list[str] = []
        values: list[object] = []
        for one in self._groups:
            if one.key is None:
                columns.append(f"CAST({_GROUPED[one.field]} AS TEXT)")
            else:
                columns.append(_ATTRIBUTE[self._dialect])
                values.append(_path(one.key, self._dialect))
        return columns, values


def _terms(given: TimeRange, filters: Filters, dialect: Dialect) -> tuple[list[str], list[object]]:
    terms: list[str] = []
    values: list[object] = []
    for term, value in (
        ("completed_at >= ?", given.from_),
        ("completed_at < ?", given.to),
        ("trace_id = ?", filters.trace_id),
        ("has_payload = ?", None if filters.has_payload is None else int(filters.has_payload)),
    ):
        if value is not None:
            terms.append(term)
            values.append(value)
    lists: Iterable[tuple[str, Sequence[object]]] = (
        ("http_status", filters.http_status),
        ("gen_ai_provider_name", filters.provider),
        ("gen_ai_request_model", filters.request_model),
        ("gen_ai_response_model", filters.response_model),
    )
    for column, wanted in lists:
        if wanted:
            terms.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values += wanted
    for key, wanted_value in filters.attributes.items():
        terms.append(f"{_ATTRIBUTE[dialect]} = ?")
        values += (_path(key, dialect), _shown_value(wanted_value, dialect))
    return terms, values


def _shown_value(value: object, dialect: Dialect) -> str:
    if isinstance(value, bool):
        # SQLite has no truth values: it gives 1 and 0.
        return str(int(value)) if dialect == "sqlite" else str(value).lower()
    return str(value)


def _path(key: str, dialect: Dialect) -> str:
    """Attributes are flat: a point is part of a name."""
    return f'$."{key}"' if dialect == "sqlite" else key


def _select(more: str) -> str:
    return f"SELECT {', '.join(COLUMNS)}{more} FROM request_logs"  # noqa: S608 - our own names


def _where(terms: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(terms)}" if terms else ""


def _numbers(count: int) -> str:
    return ", ".join(str(number) for number in range(1, count + 1))
