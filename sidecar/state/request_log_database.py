"""Which database `config` wants the request log in.

Source: spec/config.md section 8.1 (`database`, `logging.database`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidecar.config.model.static import is_postgres, sqlite_path
from sidecar.state.request_log import RequestLogDatabase
from sidecar.state.request_log_sqlite import SqliteDatabase


def database_of(config: Mapping[str, Any]) -> RequestLogDatabase | None:
    """That of `logging.database`, else of `database`; None: nowhere."""
    for section in (config.get("logging") or {}, config):
        url = (section.get("database") or {}).get("url")
        path = sqlite_path(url)
        if path is not None:
            return SqliteDatabase(Path(path))
        if is_postgres(url):
            # Not before: most gateways have no such database, and its library takes 0.1 s.
            from sidecar.state.request_log_postgres import PostgresDatabase

            return PostgresDatabase(url)
    return None
