"""Models that refer to a provider."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import ConfigError
from sidecar.llm.references import follow_references


def shared(**more: Any) -> dict[str, Any]:
    return {"name": "shared", "provider": "anthropic", **more}


def model(**more: Any) -> dict[str, Any]:
    return {"name": "m", "provider": {"reference": "shared"}, **more}


def test_params_and_defaults_are_taken_over() -> None:
    provider = shared(
        params={"model": "a", "apiKey": "k", "baseUrl": "https://h/v1"},
        defaults={
            "defaults": {"temperature": 1, "top_p": 1},
            "health": {"unhealthyExpression": "x"},
            "tls": {},
        },
    )
    (made,) = follow_references(
        [model(params={"model": "b"}, defaults={"temperature": 2}, health={"eviction": {}})],
        [provider],
    )
    assert made == {
        "name": "m",
        "provider": "anthropic",
        "params": {"model": "b", "apiKey": "k", "baseUrl": "https://h/v1"},
        "defaults": {"temperature": 2, "top_p": 1},
        "health": {"eviction": {}},
        "backendTLS": {},
    }


def test_the_models_tls_wins_in_either_spelling() -> None:
    (made,) = follow_references(
        [model(tls={"insecure": True})], [shared(defaults={"backendTLS": {"hostname": "h"}})]
    )
    assert made["backendTLS"] == {"insecure": True}
    assert "tls" not in made


def test_other_models_stay_as_they_are() -> None:
    plain = {"name": "x", "provider": "openai"}
    assert follow_references([plain], []) == [plain]


@pytest.mark.parametrize(
    ("models", "providers", "path"),
    [
        ([model()], [], "llm.models[0].provider"),
        ([model(params={"apiKey": "k"})], [shared()], "llm.models[0].params"),
        ([], [shared(), shared()], "llm.providers[1].name"),
        ([], [shared(provider={"reference": "x"})], "llm.providers[0].provider"),
    ],
)
def test_references_that_are_refused(models: Any, providers: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        follow_references(models, providers)
    assert caught.value.path == path
