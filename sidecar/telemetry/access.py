"""The access log: one line a request, written when its body has ended.

Compiled once for a configuration. A line's usual fields are put together from pieces that seldom
change (the route's names, the caller's address); the table in `fields` says what they are, and
serves whenever a field is removed, the format is JSON, or an agent protocol added some.

Source: spec/config.md sections 1.10 (`accessLog`) and 9.2.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import final

from sidecar.errors import ConfigError
from sidecar.http.message import Connection, Request
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.expressions import BodyNotes, Compiler
from sidecar.telemetry.fields import (
    AGENT_FIELDS,
    AGENT_STATE,
    DEBUG_FIELDS,
    HEAD_FIELDS,
    TAIL_FIELDS,
    AccessEntry,
    Field,
    RouteFacts,
    is_llm,
    source_address,
)
from sidecar.telemetry.log_export import LogRecord, attribute
from sidecar.telemetry.logs import Format, Timestamps, escape, json_value, text_value
from sidecar.telemetry.request_log import RequestRows
from sidecar.telemetry.sink import LogSink
from sidecar.telemetry.w3c import TraceContext

_PATH = "frontendPolicies.accessLog"
_KEYS = frozenset(("filter", "add", "remove", "database", "otlp"))
_ADDRESS_KEYS = ("telemetry.access.text", "telemetry.access.json")
_MAX_ROUTES = 65_536
_NOWHERE = Connection("", 0, "", 0)
_USUAL = (
    "endpoint",
    "http.method",
    "http.host",
    "http.path",
    "http.version",
    "http.status",
    "trace.id",
    "span.id",
    "duration",
)

__all__ = ["AccessEntry", "AccessLog", "RouteFacts"]


@final
class FieldSet:
    """Which fields an entry has, in their order: the usual ones, less some, and added ones."""

    def __init__(
        self,
        policy: Mapping[str, object],
        compiler: Compiler,
        path: str,
        reserved: frozenset[str] = frozenset(),
    ) -> None:
        """`policy`: its `add` and `remove`. `reserved`: what lines have. Raises: ConfigError."""
        self.added = compiler.expressions(policy.get("add"), f"{path}.add")
        for name in self.added.keys() & reserved:
            raise ConfigError(f"{path}.add.{name}", "every JSON line has a field of this name")
        # An added field stands for the built-in of its name, so that no name comes twice.
        gone = _names(policy.get("remove"), f"{path}.remove") | self.added.keys()
        self._notes = BodyNotes(self.added.values(), gone)
        self._debug = tuple(f for f in DEBUG_FIELDS if f.name not in gone)
        self._head = tuple(f for f in HEAD_FIELDS if f.name not in gone)
        self._agent = tuple(f for f in AGENT_FIELDS if f.name not in gone)
        self._tail = tuple(f for f in TAIL_FIELDS if f.name not in gone)
        self.is_usual = self._head == HEAD_FIELDS and self._tail == TAIL_FIELDS
        self._logger = logging.getLogger("request")

    def of(self, entry: AccessEntry) -> Iterator[tuple[str, object]]:
        """The fields that it has, with their values."""
        for field in self._sections(entry):
            value = field.get(entry)
            if value is not None:
                yield field.name, value
        yield from self.added_of(entry)

    def added_of(self, entry: AccessEntry) -> Iterator[tuple[str, object]]:
        """The added ones alone."""
        for name, expression in self.added.items():
            yield from expression.fields(name, entry)
        yield from self._notes.of(entry)

    def _sections(self, entry: AccessEntry) -> tuple[Field, ...]:
        debug = self._debug if self._logger.isEnabledFor(logging.DEBUG) else ()
        agent = self._agent if _has_agent_state(entry) else ()
        return (*debug, *self._head, *agent, *self._tail)


@final
class OtlpLog:
    """`accessLog.otlp`: which entries are exported, with which fields."""

    def __init__(
        self,
        policy: Mapping[str, object],
        log: Mapping[str, object],
        compiler: Compiler,
        submit: Callable[[Sequence[LogRecord]], None],
        clock: Clock,
        path: str = f"{_PATH}.otlp",
    ) -> None:
        """`log`: the policy it is part of, whose fields and filter hold where it has none.

        Raises: ConfigError.
        """
        source = log.get("filter") if policy.get("filter") is None else policy["filter"]
        self._filter = None if source is None else compiler.expression(source, f"{path}.filter")
        fields = policy.get("fields")
        if fields is None:
            fields, path = log, path.removesuffix("otlp").rstrip(".")
        else:
            path = f"{path}.fields"
        assert isinstance(fields, Mapping)
        self._fields = FieldSet(fields, compiler, path)
        self._submit = submit
        self._clock = clock

    def emit(self, entry: AccessEntry) -> None:
        """Queue it, or not: a filter that fails does not let it pass."""
        if self._filter is not None and not self._filter.is_true(entry):
            return
        request = entry.request
        trace = None if request is None else request.trace
        ids = (trace.trace_id, trace.span_id) if isinstance(trace, TraceContext) else (0, 0)
        is_sampled = isinstance(trace, TraceContext) and trace.sampled
        attributes = {name: attribute(value) for name, value in self._fields.of(entry)}
        when = entry.ended_ns or self._clock.time_ns()
        self._submit((LogRecord(when, attributes, *ids, is_sampled),))


def _always(level: int) -> bool:
    return True


@final
class AccessLog:
    """Writes a line for each request it is given, unless a filter or the level says no."""

    def __init__(
        self,
        policy: Mapping[str, object] | None,
        fmt: Format,
        compiler: Compiler,
        *,
        sink: LogSink,
        clock: Clock,
        path: str = _PATH,
        rows: RequestRows | None = None,
        otlp: OtlpLog | None = None,
    ) -> None:
        """`policy`: the payload of `accessLog`, None without one, but for its `database` and
        `otlp`, which became `rows`, what requests of models are written to besides, and `otlp`.
        Raises: ConfigError.
        """
        policy = policy or {}
        _check_keys(policy, path)
        source = policy.get("filter")
        self._filter = None if source is None else compiler.expression(source, f"{path}.filter")
        self._style = _Style(fmt)
        self._fields = FieldSet(policy, compiler, path, self._style.reserved)
        self._sink = sink
        self._rows = rows
        self._otlp = otlp
        self._clock = clock
        self._times = Timestamps()
        self._logger = logging.getLogger("request")
        collects = rows is not None or otlp is not None
        self.is_wanted: Callable[[int], bool] = _always if collects else self._logger.isEnabledFor
        """Whether entries of a level (`logging.INFO`) are wanted now: by a collector, the request
        log or the log's level. A field: asked twice a request."""

    def emit(self, entry: AccessEntry) -> None:
        """Write the entry's line, or not: a filter that fails does not let it pass."""
        if self._otlp is not None:
            self._otlp.emit(entry)
        has_line = self._logger.isEnabledFor(logging.INFO)
        rows = self._rows if self._rows is not None and is_llm(entry) else None
        if not has_line and rows is None:
            return
        if self._filter is not None and not self._filter.is_true(entry):
            return
        if rows is not None:
            rows.put(entry)
        if has_line:
            self._write(entry)

    def _write(self, entry: AccessEntry) -> None:
        when = self._times.format(entry.ended_ns or self._clock.time_ns())
        line = self._style.line(when, self._body(entry))
        self._sink.write(line.encode("utf-8", "backslashreplace"))

    def fields(self, entry: AccessEntry) -> Iterator[tuple[str, object]]:
        """The line's fields in order."""
        return self._fields.of(entry)

    def _body(self, entry: AccessEntry) -> str:
        request = entry.request
        # Fast path: nothing removed, plain HTTP, not at debug.
        if (
            self._fields.is_usual
            and request is not None
            and entry.status
            and request.received_authority
            and AGENT_STATE.isdisjoint(request.state)
            and not self._logger.isEnabledFor(logging.DEBUG)
        ):
            text = self._style.usual(entry, request)
            fields = self._fields
            return text + self._rendered(fields.added_of(entry)) if fields.added else text
        return self._rendered(self.fields(entry))

    def _rendered(self, fields: Iterator[tuple[str, object]]) -> str:
        style = self._style
        return "".join([style.label(name) + style.value(value) for name, value in fields])


def _has_agent_state(entry: AccessEntry) -> bool:
    return entry.request is not None and not AGENT_STATE.isdisjoint(entry.request.state)


@final
class _Style:
    """How a format writes fields; and the usual fields at once, in the order of HEAD_FIELDS."""

    def __init__(self, fmt: Format) -> None:
        self._is_json = fmt == "json"
        self.reserved = frozenset(("level", "time", "scope")) if self._is_json else frozenset()
        self.value: Callable[[object], str] = json_value if self._is_json else text_value
        self._labels: dict[str, str] = {}
        self._routes: dict[RouteFacts, tuple[str, str]] = {}
        self._usual_labels = tuple(self.label(name) for name in _USUAL)

    def label(self, name: str) -> str:
        """What stands before a value."""
        found = self._labels.get(name)
        if found is None:
            clean = escape(name)
            found = "," + json_value(clean) + ":" if self._is_json else f" {clean}="
            self._labels[name] = found
        return found

    def line(self, when: str, body: str) -> str:
        """The whole line."""
        if self._is_json:
            return f'{{"level":"info","time":"{when}","scope":"request"{body}}}\n'
        return f"{when}\tinfo\trequest{body}\n"

    def usual(self, entry: AccessEntry, request: Request) -> str:
        """The head and tail fields of an HTTP request."""
        value = self.value
        endpoint, method, host, path, version, status, trace_id, span_id, duration = (
            self._usual_labels
        )
        route = entry.route
        head = protocol = ""
        if route is not None:
            head, protocol = self._routes.get(route) or self._route_text(route)
        if entry.endpoint:
            head = f"{head}{endpoint}{value(entry.endpoint)}"
        trace = request.trace
        quote = '"' if self._is_json else ""
        text = (
            f"{head}{self._caller(entry.connection)}"
            f"{method}{value(request.method)}{host}{value(request.received_authority)}"
            f"{path}{value(request.received_path)}{version}{value(request.version)}{status}{entry.status}"
        )
        if entry.grpc_status is not None or entry.connection.tls is not None:
            text += self._connection(entry)
        if isinstance(trace, TraceContext):
            text = (
                f"{text}{trace_id}{quote}{trace.trace_id:032x}{quote}"
                f"{span_id}{quote}{trace.span_id:016x}{quote}"
            )
        if "jwt" in request.state:
            text += self._some(HEAD_FIELDS, ("jwt.sub",), entry)
        if "apiKey" in request.state:
            text += self._some(HEAD_FIELDS, ("agw.api_key.name",), entry)
        if entry.retry_attempt or entry.error or entry.reason not in ("", "Upstream"):
            protocol += self._some(TAIL_FIELDS, ("retry.attempt", "error", "reason"), entry)
        return f"{text}{protocol}{duration}{quote}{entry.duration_ns // 1_000_000}ms{quote}"

    def _some(self, table: tuple[Field, ...], names: tuple[str, ...], entry: AccessEntry) -> str:
        pairs = ((f.name, f.get(entry)) for f in table if f.name in names)
        return "".join([self.label(n) + self.value(v) for n, v in pairs if v is not None])

    def _connection(self, entry: AccessEntry) -> str:
        return self._some(HEAD_FIELDS, ("grpc.status", "tls.sni"), entry)

    def _caller(self, connection: Connection) -> object:
        """Kept with the connection, but for the identity, which a policy may find late."""
        extra = connection.extra
        key = _ADDRESS_KEYS[self._is_json]
        text = extra.get(key)
        if text is None:
            address = source_address(AccessEntry(connection))
            text = extra[key] = self.label("src.addr") + self.value(address)
        identity = extra.get("identity")
        if identity is None:
            return text
        return f"{text}{self.label('src.identity')}{self.value(identity)}"

    def _route_text(self, route: RouteFacts) -> tuple[str, str]:
        entry = AccessEntry(_NOWHERE, route=route)
        names = ("gateway", "listener", "route_rule", "route")
        texts = (
            self._some(HEAD_FIELDS, names, entry),
            self.label("protocol") + self.value(route.protocol) if route.protocol else "",
        )
        if len(self._routes) < _MAX_ROUTES:
            self._routes[route] = texts
        return texts


def _check_keys(policy: Mapping[str, object], path: str) -> None:
    for key in policy:
        if key not in _KEYS:
            raise ConfigError(f"{path}.{key}", "unknown key")


def _names(value: object, path: str) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(path, "must be a list of field names")
    return frozenset(value)
