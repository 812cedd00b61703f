"""What expressions of this gateway see of the process they run in.

Source: spec/config.md section 7.2. One place, so that the check of a configuration and the workers
that run it mean the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sidecar.cel.context import Context
from sidecar.cel.engine import Engine
from sidecar.routing import canonical
from sidecar.telemetry.clock import Clock, SystemClock

_ENVIRONMENT = (("podName", "POD_NAME"), ("namespace", "NAMESPACE"), ("gateway", "GATEWAY"))


def expression_engine(config: Mapping[str, Any], clock: Clock | None = None) -> Engine:
    """The engine of a configuration whose `config` this is. Raises ConfigError."""
    return Engine(
        config.get("customFunctions") or "",
        config.get("sensitiveHeaders") or (),
        context=expression_context(clock),
    )


def expression_context(clock: Clock | None = None) -> Context:
    """The context of an engine: the router's own reading of a path, start times, who we are."""
    time = SystemClock() if clock is None else clock
    return Context(
        env={key: os.environ[name] for key, name in _ENVIRONMENT if os.environ.get(name)},
        canonical_path=canonical.path,
        wall_minus_monotonic_ns=time.time_ns() - time.monotonic_ns(),
    )
