"""`hbone` needs little, and `hbone.wire` no I/O and no clock."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import hbone

ROOT = Path(hbone.__file__).parent
NEEDED = {"hbone", "h2", "hpack", "hyperframe", "cryptography"}
NO_IO = {"asyncio", "socket", "ssl", "select", "selectors", "threading", "time", "os"}


def imported(folder: Path) -> set[str]:
    names: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    return names


def test_what_the_package_needs() -> None:
    tops = {name.partition(".")[0] for name in imported(ROOT)}
    assert tops - sys.stdlib_module_names == NEEDED


def test_the_wire_does_no_io() -> None:
    names = imported(ROOT / "wire")
    assert not {name.partition(".")[0] for name in names} & NO_IO
    assert not any(name.startswith("hbone.aio") for name in names)
