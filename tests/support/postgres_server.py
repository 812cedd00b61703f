"""A PostgreSQL of the test's own, on a Unix socket and a port of the loopback."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import pytest

from tests.support.gateway import free_ports

START_SECONDS = 30.0
USER = "gateway"
PASSWORD = "s3cret-of-the-database"


def _program(name: str) -> str:
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    return shutil.which(name) or (found[-1] if found else "")


needs_postgres = pytest.mark.skipif(
    not _program("initdb") and not os.environ.get("CI"), reason="PostgreSQL is not installed"
)


class PostgresServer:
    """`with PostgresServer() as postgres:`; `url` has its password."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="agw", ignore_cleanup_errors=True)
        self._data = Path(self._folder.name) / "data"
        (self.port,) = free_ports(1)
        self.url = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        self.process: subprocess.Popen[bytes] | None = None
        # It refuses to be root.
        self._user = "nobody" if os.getuid() == 0 else None

    def start(self) -> Self:
        """Start, on what there was, and wait until it answers."""
        self.process = subprocess.Popen(
            [
                *(_program("postgres"), "-D", str(self._data), "-p", str(self.port)),
                *("-k", self._folder.name, "-c", "listen_addresses=127.0.0.1"),
                *("-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=20"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user,
            cwd=self._folder.name,
        )
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self.ask("SELECT 1")
                return self
            except psycopg.OperationalError:
                assert self.process.poll() is None, "postgres ended"
                assert time.monotonic() < until, "postgres does not answer"
                time.sleep(0.02)

    def stop(self) -> None:
        """End it and its connections; its data stay."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(START_SECONDS)
            self.process = None

    def ask(self, sql: str, *values: object) -> list[Any]:
        """The rows of a query of the test's own."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def __enter__(self) -> Self:
        if self._user is not None:
            os.chown(self._folder.name, pwd.getpwnam(self._user).pw_uid, -1)
        secret = Path(self._folder.name) / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        subprocess.run(
            [
                *(_program("initdb"), "-D", str(self._data), "-U", USER, "--no-sync", "-E", "UTF8"),
                *("-A", "scram-sha-256", f"--pwfile={secret}", "--locale=C"),
            ],
            check=True,
            capture_output=True,
            user=self._user,
            cwd=self._folder.name,
        )
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._folder.cleanup()
