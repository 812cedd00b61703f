"""timeout: the bounds in seconds."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from tests.support.messages import policy

BOUNDS = {
    "none": ({}, None, None),
    "null": ({"requestTimeout": None}, None, None),
    "both": ({"requestTimeout": "1m30s", "backendRequestTimeout": "500ms"}, 90.0, 0.5),
    "zero is off": ({"requestTimeout": "0s"}, None, None),
}


@pytest.mark.parametrize(("config", "request_s", "backend_s"), BOUNDS.values(), ids=BOUNDS.keys())
def test_bounds(config, request_s, backend_s):
    timeout = policy("timeout", config)
    assert timeout.request_seconds == request_s
    assert timeout.backend_request_seconds == backend_s


@pytest.mark.parametrize("value", [1, "-1s", "soon", "1", True])
def test_refused(value):
    with pytest.raises(ConfigError) as caught:
        policy("timeout", {"requestTimeout": value})
    assert caught.value.path == "timeout.requestTimeout"
