"""EDNS0 in the system's resolver: larger answers over UDP, asked for before the first look-up.

Source: RFC 6891; resolv.conf(5) of glibc, `options edns0` and RES_OPTIONS; spec/config.md section
8.1 (dns.edns0).
"""

from __future__ import annotations

import os
import platform
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

_VARIABLE: Final = "RES_OPTIONS"
_OPTION: Final = "edns0"
_RESOLV: Final = Path("/etc/resolv.conf")


def edns0_problem(
    wanted: bool | None, env: MutableMapping[str, str] = os.environ, conf: Path = _RESOLV
) -> str:
    """Why that cannot be had; empty when it can. None: as the system has it."""
    if wanted is None:
        return ""
    if wanted:
        is_glibc = platform.libc_ver()[0] == "glibc"
        return "" if is_glibc else "this system's resolver (not glibc's) cannot be told of it"
    # There is an option to switch it on, and none to switch it off.
    if _OPTION in env.get(_VARIABLE, "").split() or _is_in(conf):
        return f"the system asks for it, in {conf} or {_VARIABLE}"
    return ""


def _is_in(conf: Path) -> bool:
    try:
        lines = conf.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    words = [line.split() for line in lines]
    return any(line[:1] == ["options"] and _OPTION in line for line in words)


def use_edns0(wanted: bool | None, env: MutableMapping[str, str] = os.environ) -> None:
    """Have this process's look-ups use it from now on; those of threads that looked up names
    before are as they were."""
    options = env.get(_VARIABLE, "").split()
    if wanted and _OPTION not in options:
        env[_VARIABLE] = " ".join((*options, _OPTION))
