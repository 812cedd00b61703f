"""delay: how long it waits; the wait itself is injected."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.errors import ConfigError
from sidecar.policies.delay import Config, Delay
from tests.support.messages import request, services

WAITS = {
    "duration": ("1m30s", [90.0]),
    "milliseconds": ("250ms", [0.25]),
    "zero": ("0s", []),
    "number of milliseconds": ("100 + 150", [0.25]),
    "fraction": ("0.5", [0.0005]),
    "computed duration": ("duration('2s')", [2.0]),
    "by request": ("request.method == 'GET' ? 1000 : 0", [1.0]),
    "negative": ("-5", []),
    "error": ("jwt.sub", []),
    "text": ("'soon'", []),
    "boolean": ("true", []),
    "infinite": ("1.0 / 0.0", []),
}


@pytest.mark.parametrize(("duration", "expected"), WAITS.values(), ids=WAITS.keys())
async def test_waits(duration, expected):
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    config = Config.model_validate({"duration": duration})
    assert await Delay(config, services(), sleep).on_request(request()) is None
    assert waits == expected


async def test_a_deadline_cancels_the_wait():
    delay = Delay(Config.model_validate({"duration": "1h"}), services())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await delay.on_request(request())


def test_neither_duration_nor_expression():
    with pytest.raises(ConfigError) as caught:
        Delay(Config.model_validate({"duration": "2 s s"}), services())
    assert caught.value.path == "duration"
