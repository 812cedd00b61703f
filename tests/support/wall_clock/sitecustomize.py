"""Put on PYTHONPATH: the process's wall clock is off by the seconds in a file, read each time.

What `date -s` does, or NTP with a step, for one process: the monotonic clock goes on.
"""

from __future__ import annotations

import os
import time

_path = os.environ.get("WALL_CLOCK_OFFSET_FILE")
if _path:
    _time_ns = time.time_ns

    def _offset_ns() -> int:
        with open(_path) as file:
            return int(float(file.read()) * 1e9)

    def _stepped_ns() -> int:
        return _time_ns() + _offset_ns()

    def _stepped() -> float:
        return _stepped_ns() / 1e9

    time.time_ns = _stepped_ns
    time.time = _stepped
