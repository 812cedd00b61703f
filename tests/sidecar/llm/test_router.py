"""From a model's name to the models that serve it, and the list of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sidecar.cel.engine import Engine
from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request
from sidecar.llm.names import AllowedModels, ModelError
from sidecar.llm.router import Model, Router

SMALL = "llmRequest.max_tokens < 100"
CREATED = 1_700_000_000


def router(
    models: Sequence[dict[str, Any]],
    virtual: Sequence[dict[str, Any]] = (),
    random: Callable[[], float] = lambda: 0.0,
) -> Router:
    full = [{"provider": "openai", **model} for model in models]
    return Router(full, virtual, Engine(), random, CREATED)


def request(headers: list[tuple[bytes, bytes]] | None = None, body: Any = None) -> Request:
    made = Request(
        "POST",
        "http",
        "h",
        "/v1/chat/completions",
        "HTTP/1.1",
        Headers(headers or []),
        FixedBody(),
        Connection("127.0.0.1", 1, "127.0.0.1", 2),
        0,
    )
    made.state["llmRequest"] = body or {}
    return made


def keys(found: Router, name: str, made: Request | None = None, **how: Any) -> list[list[str]]:
    resolution = found.resolve(name, made or request(), **how)
    return [[choice.model.key for choice in group] for group in resolution.groups]


def named(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "id": name} for name in names]


def virtual(kind: str, *targets: dict[str, Any]) -> dict[str, Any]:
    return {"name": "v", "routing": {kind: {"targets": list(targets)}}}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-4", "gpt-4"),
        ("gpt-4o", "gpt-4*"),
        ("gpt-5", "gpt-*"),
        ("x-mini", "*-mini"),
        ("gpt-5-mini", "*-mini"),
        ("anything", "*"),
    ],
)
def test_the_most_specific_name_wins(name: str, expected: str) -> None:
    found = router(named("*", "gpt-*", "gpt-4*", "*-mini", "gpt-4"))
    # `gpt-4` and `gpt-4*` are as specific: the file's order decides between them.
    wanted = "gpt-4*" if name == "gpt-4" else expected
    assert keys(found, name) == [[f"llm:model:{wanted}"]]


def test_backends_are_named_by_id_or_by_place() -> None:
    found = router([{"name": "a"}, {"name": "b", "id": "stable"}])
    assert [model.key for model in found.models] == ["llm:model:a:0", "llm:model:stable"]


def test_header_matches_choose_among_equal_names() -> None:
    header = {"name": "X-Org", "value": {"exact": "eng"}}
    pattern = {"name": "x-org", "value": {"regex": "sal.*"}}
    invalid = {"name": "x-org", "value": "invalid"}
    found = router(
        [
            {
                "name": "m",
                "id": "never",
                "matches": [{"headers": [invalid]}],
            },
            {"name": "m", "id": "eng", "matches": [{"headers": [header]}]},
            {"name": "m", "id": "sales", "matches": [{"headers": [pattern]}]},
            {"name": "m*", "id": "rest", "matches": []},
        ]
    )
    assert keys(found, "m", request([(b"x-org", b"eng")])) == [["llm:model:eng"]]
    assert keys(found, "m", request([(b"x-org", b"sales")])) == [["llm:model:sales"]]
    assert keys(found, "m") == [["llm:model:rest"]]


def code(caught: pytest.ExceptionInfo[ModelError]) -> tuple[int, str]:
    return caught.value.status, caught.value.code


def test_models_that_cannot_be_had() -> None:
    found = router([{"name": "in", "visibility": "internal"}, {"name": "out"}])
    for name in ("in", "none"):
        with pytest.raises(ModelError) as caught:
            found.resolve(name, request())
        assert code(caught) == (404, "model_not_found")
    with pytest.raises(ModelError) as caught:
        found.resolve("out", request(), AllowedModels(["other"]))
    assert code(caught) == (403, "model_not_allowed")
    with pytest.raises(ModelError) as caught:
        found.resolve("out", request(), is_allowed=lambda model: False)
    assert code(caught) == (403, "model_authorization_denied")
    with pytest.raises(ModelError) as caught:
        found.resolve("x" * 10_000, request())
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("draw", "expected"), [(0.0, "a"), (0.59, "a"), (0.6, "b"), (0.89, "b"), (0.9, "c")]
)
def test_weights(draw: float, expected: str) -> None:
    found = router(
        [{"name": name, "id": name, "visibility": "internal"} for name in "zabc"],
        [
            virtual(
                "weighted",
                {"model": "z", "weight": 0},
                {"model": "a", "weight": 60},
                {"model": "b", "weight": 30},
                {"model": "c", "weight": 10},
            )
        ],
        lambda: draw,
    )
    assert keys(found, "v") == [[f"llm:model:{expected}"]]


def test_targets_may_be_patterns_and_keep_their_own_name() -> None:
    found = router(
        [{"name": "anthropic/*", "id": "a"}], [virtual("weighted", {"model": "anthropic/haiku"})]
    )
    resolution = found.resolve("v", request())
    (choice,) = resolution.groups[0]
    assert (choice.name, choice.model.key) == ("anthropic/haiku", "llm:model:a")
    assert (resolution.requested, resolution.virtual) == ("v", "llm:virtual-model:v:0")


FAILOVER = virtual(
    "failover",
    {"model": "b", "priority": 1},
    {"model": "a", "priority": 0},
    {"model": "c", "priority": 1},
)


def test_failover_groups_are_in_order() -> None:
    found = router(named("a", "b", "c"), [FAILOVER])
    assert keys(found, "v") == [["llm:model:a"], ["llm:model:b", "llm:model:c"]]


def test_failover_leaves_out_what_the_caller_may_not_use() -> None:
    found = router(named("a", "b", "c"), [FAILOVER])

    def not_a(model: Model) -> bool:
        return model.key != "llm:model:a"

    assert keys(found, "v", is_allowed=not_a) == [["llm:model:b", "llm:model:c"]]
    with pytest.raises(ModelError) as caught:
        found.resolve("v", request(), is_allowed=lambda model: False)
    assert code(caught) == (403, "model_authorization_denied")


@pytest.mark.parametrize(
    ("body", "expected"),
    [({"max_tokens": 10}, "a"), ({"max_tokens": 5000}, "b"), ({}, "b"), ({"max_tokens": "x"}, "b")],
)
def test_conditions(body: dict[str, Any], expected: str) -> None:
    found = router(
        named("a", "b"),
        [virtual("conditional", {"when": SMALL, "model": "a"}, {"model": "b"})],
    )
    assert keys(found, "v", request(body=body)) == [[f"llm:model:{expected}"]]


def test_no_condition_holds() -> None:
    found = router(named("a"), [virtual("conditional", {"when": "false", "model": "a"})])
    with pytest.raises(ModelError) as caught:
        found.resolve("v", request())
    assert code(caught) == (400, "virtual_model_no_matching_target")


def test_virtual_models_that_lead_nowhere() -> None:
    found = router(named("a"), [virtual("weighted", {"model": "a", "weight": 0})])
    with pytest.raises(ModelError) as caught:
        found.resolve("v", request())
    assert code(caught) == (404, "virtual_model_not_resolved")
    header = {"name": "x", "value": {"exact": "1"}}
    found = router(
        [{"name": "a", "matches": [{"headers": [header]}]}], [virtual("weighted", {"model": "a"})]
    )
    with pytest.raises(ModelError) as caught:
        found.resolve("v", request())
    assert code(caught) == (404, "virtual_model_target_not_found")


def listed(found: Router, **how: Any) -> list[str]:
    answer = found.listing(**how)
    assert answer["object"] == "list"
    return [entry["id"] for entry in answer["data"]]


def test_the_list_of_models() -> None:
    found = router(
        [{"name": "a"}, {"name": "gpt-*"}, {"name": "in", "visibility": "internal"}, {"name": "a"}],
        [virtual("weighted", {"model": "in"})],
    )
    assert listed(found) == ["a", "gpt-*", "v"]
    assert listed(found, allowed=AllowedModels(["gpt-4", "v"])) == ["gpt-4", "v"]
    assert listed(found, allowed=AllowedModels([])) == []
    assert listed(found, is_allowed=lambda model: model.index != 0) == ["gpt-*", "a", "v"]
    assert found.listing()["data"][0] == {
        "id": "a",
        "object": "model",
        "created": CREATED,
        "owned_by": "openai",
    }


def test_one_models_detail() -> None:
    found = router(
        [{"name": "gpt-*"}, {"name": "in", "visibility": "internal"}],
        [virtual("weighted", {"model": "in"})],
    )
    assert found.detail("gpt-4")["id"] == "gpt-4"
    assert found.detail("v")["object"] == "model"
    with pytest.raises(ModelError):
        found.detail("in")
    with pytest.raises(ModelError):
        found.detail("gpt-4", AllowedModels(["gpt-5"]))
    with pytest.raises(ModelError):
        found.detail("gpt-4", is_allowed=lambda model: False)


@pytest.mark.parametrize(
    ("models", "virtuals", "message"),
    [
        ([{"name": "a*b"}], [], "at the beginning or the end"),
        ([{"name": "a", "id": "x"}, {"name": "b", "id": "x"}], [], "duplicate model id: x"),
        ([{"name": "a", "id": ""}], [], "cannot be empty"),
        (named("a"), [{"name": "v", "routing": {}}], "exactly one routing strategy"),
        (named("a"), [virtual("failover")], "at least one failover target"),
        (named("a"), [virtual("weighted", {"model": "b"})], "b does not match any llm.models"),
        (
            named("a"),
            [virtual("conditional", {"model": "a"}, {"when": "true", "model": "a"})],
            "fallback target must be last",
        ),
        (named("a"), [virtual("conditional", {"when": "((", "model": "a"})], "."),
        (
            named("a"),
            [virtual("weighted", {"model": "a"}), virtual("weighted", {"model": "a"})],
            "`v` is there twice",
        ),
    ],
)
def test_configuration_that_is_refused(models: Any, virtuals: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        router(models, virtuals)
    assert caught.value.path.startswith("llm.")
