"""Where Redis is, as the configuration says it."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from sidecar.state.redis import RedisSettings


@pytest.mark.parametrize(
    "url", ["http://a", "redis://", "redis://:secret@", "unix://", "localhost:6379", "redis://a:x"]
)
def test_urls_that_are_refused(url: str) -> None:
    from pydantic import ValidationError

    from sidecar.config.model.static import StateConfig

    with pytest.raises(ValidationError) as caught:
        StateConfig.model_validate({"redis": url})
    assert "secret" not in caught.value.errors()[0]["msg"]


def test_no_password_is_shown() -> None:
    settings = RedisSettings.of({"redis": "rediss://me:secret@r.example:6380/2"})
    assert settings is not None
    assert settings.shown == "rediss://r.example:6380/2"


def test_nothing_without_redis() -> None:
    assert RedisSettings.of({}) is None


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.state.redis.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install redis"):
        RedisSettings.of({"redis": "redis://localhost"})
