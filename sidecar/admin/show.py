"""The command `state`: asks a running gateway's admin API about its shared tables, and prints.

Source: spec conventions section 5.3 (exit codes, where output goes).
"""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final
from urllib.parse import quote, urlsplit

import orjson

TABLES: Final = ("rates", "budgets", "sessions", "endpoints", "leases")
_TIMEOUT_SECONDS: Final = 30.0
_MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024


class StateError(Exception):
    """Why there is no answer."""


@final
@dataclass(frozen=True, slots=True)
class Target:
    """Where the admin API is: a host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Target:
        """`http://host:port`, `host:port` or `unix:/path`. Raises: StateError."""
        if text.startswith("unix:/"):
            return cls(path=text.removeprefix("unix:"))
        url = text if "://" in text else f"http://{text}"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise StateError(f"{text!r}: {exc}") from exc
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
            raise StateError(f"{text!r}: expected http://host:port, host:port or unix:/path")
        return cls(parts.hostname, port or 80)

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"

    def ask(self, method: str, path: str) -> Mapping[str, Any]:
        """The answer, if it is a good one. Raises: StateError."""
        connection = _UnixConnection(self.path) if self.path else self._tcp()
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read(_MAX_ANSWER_BYTES)
            found = orjson.loads(body)
            if answer.status == 200:
                return dict(found)
            problem = found["error"]
        except (OSError, http.client.HTTPException) as exc:
            raise StateError(f"admin API at {self}: {exc}; does the gateway run?") from exc
        except (ValueError, TypeError, KeyError) as exc:
            raise StateError(f"admin API at {self}: that is no answer of /state") from exc
        finally:
            connection.close()
        raise StateError(str(problem))

    def _tcp(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT_SECONDS)


@final
class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """See HTTPConnection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def show(target: Target, table: str, *, limit: int, prefix: str, as_json: bool) -> None:
    """Print a table, or with "tables" what there is. Raises: StateError."""
    if table == "tables":
        found = target.ask("GET", "/state")
        rows: Sequence[Mapping[str, object]] = found["tables"]
    else:
        found = target.ask("GET", f"/state/{table}?limit={limit}&prefix={quote(prefix, safe='')}")
        rows = sorted(found["rows"], key=lambda row: str(row.get("label", row["key"])))
    if as_json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    print("\n".join(lines(rows)) if rows else "nothing")
    if found.get("hasMore"):
        print(f"more than {limit}; --limit shows more, --prefix others", file=sys.stderr)


def reset(target: Target, table: str, key: str, *, as_json: bool) -> None:
    """Reset a key, and say so. Raises: StateError."""
    found = target.ask("POST", f"/state/{table}/{quote(key, safe='')}/reset")
    print(orjson.dumps(found).decode() if as_json else f"{table}: reset {key}")


def lines(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Rows in columns under the names of the first row; numbers to the right."""
    names = list(rows[0])
    cells = [names] + [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    is_number = [
        all(isinstance(row.get(name), int | float | None) for row in rows) for name in names
    ]
    made = []
    for line in cells:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        )
        made.append("  ".join(padded).rstrip())
    return made


def _cell(value: object) -> str:
    """A value for a terminal, which must not obey what clients put in a label."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
