"""The application log: one line an event, text or JSON, with levels that change at run time.

Text: `<RFC 3339 time>\\t<level>\\t<target>\\t<message> k=v`. JSON: level, time, scope, message and
the fields, flat. Fields come with the standard library's `extra={"fields": {...}}`.

Whatever a line is made of, it stays one line and cannot drive a terminal: control characters, C1
controls, line separators and direction overrides are escaped (hardening case 40).

Source: spec/config.md section 9.4; level directives as in env_logger's RUST_LOG.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, final

import orjson

from sidecar.errors import ConfigError
from sidecar.telemetry.clock import Clock, SystemClock
from sidecar.telemetry.sink import LogSink

Format = Literal["text", "json"]
Scalar = str | int | float | bool | None

TRACE = 5
_OFF = logging.CRITICAL + 10
_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": _OFF,
}
_LEVELS_PATH = "config.logging.level"
CUT = "…[cut]"
"""Ends a value of which not all is shown."""
_INDISCREET = ("httpx", "httpcore")
"""Libraries that tell whole URLs, queries included, and headers."""
_HOSTILE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
)
_BARE = re.compile(r"[!#-<>-\[\]-~]+").fullmatch
"""Visible ASCII but for the quote, the equals sign and the backslash."""
_TARGET = re.compile(r"[A-Za-z_][\w.-]*(::[\w.-]+)*").fullmatch
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape(text: str) -> str:
    """`text` with everything that could end the line or steer a terminal made visible."""
    return _HOSTILE.sub(_escaped, text) if _HOSTILE.search(text) else text


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    return _SHORT_ESCAPES.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def text_value(value: object) -> str:
    """A field's value in a text line: bare when it has no doubtful character, else quoted."""
    if type(value) is str:
        return value if _BARE(value) else quoted(value)
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, dict)):
        return quoted(json_text(value))
    return text_value(_plain(value))


def quoted(text: str) -> str:
    """`text` in double quotes, with quotes and backslashes escaped."""
    return '"' + escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def json_text(value: object) -> str:
    """Any value as compact JSON; what JSON lacks becomes its text."""
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, orjson.JSONEncodeError):
        # Lone surrogates and integers past 64 bits.
        return str(value)


def json_value(value: object) -> str:
    """A field's value in a JSON line."""
    if type(value) is str:
        if _BARE(value):
            return f'"{value}"'
        return orjson.dumps(escape(value)).decode()
    return json_text(escape(value) if isinstance(value, str) else value)


def json_line(fields: Mapping[str, object]) -> bytes:
    """One JSON object and a newline; a text value is escaped like in a text line."""
    clean = {k: escape(v) if isinstance(v, str) else v for k, v in fields.items()}
    try:
        return orjson.dumps(clean, default=_plain, option=_JSON_OPTIONS)
    except (TypeError, orjson.JSONEncodeError):
        flat = {escape(str(k)): escape(str(v)) for k, v in clean.items()}
        return orjson.dumps(flat, option=orjson.OPT_APPEND_NEWLINE)


_JSON_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


def text_of(octets: bytes) -> str:
    """As UTF-8, or what is not as escapes."""
    return octets.decode("utf-8", "backslashreplace")


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return text_of(value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


@final
class Timestamps:
    """RFC 3339 times in UTC with microseconds; the second's text is kept until it passes."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def format(self, time_ns: int) -> str:
        """`2026-01-31T10:00:00.123456Z` for nanoseconds since the epoch."""
        second, rest = divmod(time_ns, 1_000_000_000)
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = second
        return f"{self._text}{rest // 1000:06d}Z"


def level_name(number: int) -> str:
    """The name a line shows for a level number."""
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    if number >= logging.INFO:
        return "info"
    return "debug" if number >= logging.DEBUG else "trace"


def parse_levels(spec: str | Sequence[str]) -> dict[str, int]:
    """`"info,sidecar.net=debug"` as {target: level}; the bare level has the target "".

    `::` separates like `.`, and a leading `agentgateway` means this package, so that the levels of
    an existing deployment keep working. Raises: ConfigError.
    """
    text = spec if isinstance(spec, str) else ",".join(spec)
    levels: dict[str, int] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        target, equals, name = part.rpartition("=")
        level = _LEVELS.get(name.strip().lower())
        if level is None or (equals and not _TARGET(target.strip())):
            known = "trace, debug, info, warn, error, off"
            raise ConfigError(
                _LEVELS_PATH, f"{escape(part)!r} is neither a level nor target=level ({known})"
            )
        levels[_logger_name(target.strip())] = level
    return levels


def _logger_name(target: str) -> str:
    name = target.replace("::", ".")
    head, dot, tail = name.partition(".")
    return f"sidecar{dot}{tail}" if head == "agentgateway" else name


@final
class Logs:
    """Formats what the `logging` module is given, and owns the levels of its loggers."""

    def __init__(
        self,
        sink: LogSink,
        *,
        fmt: Format = "text",
        level: str | Sequence[str] = "info",
        clock: Clock | None = None,
    ) -> None:
        """`level`: `config.logging.level` or RUST_LOG. Raises: ConfigError."""
        self.sink = sink
        self.fmt = fmt
        self.clock: Clock = clock or SystemClock()
        self._configured = {"": logging.INFO} | parse_levels(level)
        self._current: dict[str, int] = {}
        self._handler = _Handler(sink, fmt)

    def install(self) -> None:
        """Take over the root logger, with the configured levels."""
        logging.addLevelName(TRACE, "TRACE")
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if isinstance(handler, _Handler):
                root.removeHandler(handler)
        root.addHandler(self._handler)
        for name in _INDISCREET:
            logging.getLogger(name).setLevel(logging.WARNING)
        self.reset_levels()

    def uninstall(self) -> None:
        """Give the root logger back, levels at their defaults."""
        logging.getLogger().removeHandler(self._handler)
        self._apply({"": logging.WARNING})

    def set_levels(self, spec: str) -> None:
        """Replace all levels; without a bare one the configured stays. Raises: ConfigError."""
        self._apply({"": self._configured[""]} | parse_levels(spec))

    def reset_levels(self) -> None:
        """Go back to the levels of the configuration."""
        self._apply(self._configured)

    def levels(self) -> str:
        """The levels in force, as a spec."""
        bare = [level_text(self._current.get("", logging.INFO))]
        return ",".join(
            bare + [f"{name}={level_text(n)}" for name, n in sorted(self._current.items()) if name]
        )

    def _apply(self, levels: Mapping[str, int]) -> None:
        for name in self._current.keys() - levels.keys():
            logging.getLogger(name).setLevel(logging.NOTSET)
        for name, level in levels.items():
            logging.getLogger(name or None).setLevel(level)
        self._current = dict(levels)


def level_text(number: int) -> str:
    """The name of a level in a spec."""
    return "off" if number >= _OFF else level_name(number)


@final
class _Handler(logging.Handler):
    def __init__(self, sink: LogSink, fmt: Format) -> None:
        super().__init__()
        self._sink = sink
        self._times = Timestamps()
        self._render = self._text if fmt == "text" else self._json

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._render(record)
        except Exception as exc:  # a bad format argument must not end the request that logs it
            why = f"a record of {escape(record.name)} has no text: {type(exc).__name__}"
            when = self._times.format(int(record.created * 1e9))
            line = f"{when}\terror\tsidecar.telemetry.logs\t{why}\n".encode()
        self._sink.write_threadsafe(line)

    def _text(self, record: logging.LogRecord) -> bytes:
        when = self._times.format(int(record.created * 1e9))
        parts = [escape(record.getMessage())]
        parts += [f"{escape(k)}={text_value(v)}" for k, v in _fields(record).items()]
        line = f"{when}\t{level_name(record.levelno)}\t{escape(record.name)}\t{' '.join(parts)}\n"
        return line.encode("utf-8", "backslashreplace")

    def _json(self, record: logging.LogRecord) -> bytes:
        head = {
            "level": level_name(record.levelno),
            "time": self._times.format(int(record.created * 1e9)),
            "scope": record.name,
            "message": record.getMessage(),
        }
        return json_line(head | {k: v for k, v in _fields(record).items() if k not in head})


def _fields(record: logging.LogRecord) -> dict[str, object]:
    given = getattr(record, "fields", None)
    fields = {str(k): v for k, v in given.items()} if isinstance(given, Mapping) else {}
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields
