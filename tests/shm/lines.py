"""A process that is killed at a line of `shm`, holding what it holds there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from tests.shm.cuts import die, exit_code, fork


def killed_at(line: int, action: Callable[[], object]) -> bool:
    """Do the action in a child that is killed at its n-th line, from 1; False: it came through."""
    left = line

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        name = frame.f_code.co_filename
        if "/shm/" not in name or "/tests/" in name:
            return None
        left -= event == "line"
        if left == 0:
            die()
        return on_line

    def traced() -> None:
        sys.settrace(on_line)
        action()
        os._exit(0)

    code = exit_code(fork(traced))
    assert code in (0, -signal.SIGKILL), "the action itself must not fail"
    return code != 0
