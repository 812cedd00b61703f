"""Programs from PyPI that we are compared with, each in an environment of its own.

A lock file says what is installed, with hashes, from wheels only: nothing is built or run while it
is installed.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

_STAMP: Final = "installed"
_INSTALL_SECONDS: Final = 900.0


class AbsentError(Exception):
    """There is nothing to be measured; says why."""


def version(lock: Path, package: str) -> str:
    """What the lock file pins."""
    found = re.search(rf"^{re.escape(package)}==(\S+)", lock.read_text(), re.MULTILINE)
    assert found is not None, lock
    return found[1]


def installed(lock: Path, home: Path, package: str, megabytes: int) -> Path:
    """The environment's `bin`, made if it is not there or not of this lock. Raises: AbsentError."""
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    stamp = home / _STAMP
    if stamp.exists() and stamp.read_text() == digest:
        return home / "bin"
    print(f"installing {package} {version(lock, package)} into {home.name} ({megabytes} MB, once)")
    _run([sys.executable, "-m", "venv", "--clear", str(home)])
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    only = ["--require-hashes", "--only-binary", ":all:", "--retries", "1"]
    _run([*pip, "install", *only, "-r", str(lock)])
    stamp.write_text(digest)
    return home / "bin"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AbsentError(f"not installed: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise AbsentError(f"not installed: {lines[-1]}")
