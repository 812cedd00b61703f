"""Routes of models: the routers that they make are those of a file's `llm` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from istio.xds.resources import Translator
from sidecar.config.snapshot import Resource
from sidecar.gateway.check import resource_check
from tests.istio.xds.words import Json, applied, of_file, policy, reason

ROUTER: Json = {"backend": {"key": "ns/router", "modelRouter": {"routerKey": "r"}}}


def provider(name: str, model: str | None = None, **more: Any) -> Json:
    return {"name": name, "openai": {} if model is None else {"model": model}, **more}


def backend(key: str, *groups: list[Json], **more: Any) -> Json:
    ai = {"providerGroups": [{"providers": group} for group in groups]}
    return {"backend": {"key": key, "ai": ai, **more}}


def route(key: str, model: str, **more: Any) -> Json:
    return {"modelRoute": {"key": key, "match": {"model": model}, "routerKey": "r", **more}}


def concrete(key: str, model: str, to: str, visibility: str = "PUBLIC", **more: Any) -> Json:
    where = {"backend": {"backend": to}, "modelVisibility": visibility}
    return route(key, model, concreteModel={**where, **more.pop("own", {})}, **more)


def checking() -> Translator:
    return Translator(resource_check({}))


def llm(translator: Translator, key: str = "backend/ns/router") -> Any:
    found = translator.resources().get(key)
    return None if found is None else found.data["target"]["llm"]  # type: ignore[index]


def models(translator: Translator) -> dict[str, Json]:
    return {one["name"]: one for one in llm(translator)["models"]}


GPT = backend("ns/gpt", [provider("gpt", "gpt-5", hostOverride={"host": "h.test", "port": 80})])
ANY = backend("ns/any", [provider("any")])


def test_models_are_those_of_a_file() -> None:
    translator = checking()
    key = {"backendAuth": {"key": {"value": "secret"}}}
    auth = [{"auth": {"key": {"secret": "secret"}}}]
    result = applied(
        ROUTER,
        GPT,
        ANY,
        concrete("a", "gpt-*", "ns/gpt", own={"backendPolicies": auth}),
        concrete("b", "*", "ns/any", "INTERNAL", aiPolicy={"defaults": {"temperature": "0.5"}}),
        to=translator,
    )
    assert result.refused == {}
    file = of_file(
        {
            "llm": {
                "models": [
                    {
                        "id": "a",
                        "name": "gpt-*",
                        "provider": "openAI",
                        "params": {"model": "gpt-5", "hostOverride": "h.test:80"},
                        "auth": key["backendAuth"],
                    },
                    {
                        "id": "b",
                        "name": "*",
                        "provider": "openAI",
                        "visibility": "internal",
                        "defaults": {"temperature": 0.5},
                    },
                ]
            }
        }
    )
    theirs = {one["name"]: one for one in file["backend/llm:router"]["target"]["llm"]["models"]}
    ours = models(translator)
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        given = dict(one["provider"]["openAI"])
        one = {**one, "provider": "openAI", "params": {**one["params"], **given}}
        assert one == {"visibility": "public", **theirs[name]}


def test_virtual_models() -> None:
    translator = checking()
    weighted = {"weighted": {"targets": [{"model": "gpt-5", "weight": 3}]}}
    cases = {"targets": [{"model": "gpt-5", "when": "true"}, {"model": "gpt-6"}]}
    result = applied(
        ROUTER,
        GPT,
        concrete("a", "gpt-*", "ns/gpt"),
        route("b", "cheap", virtualModel=weighted),
        route("c", "clever", virtualModel={"conditional": cases}),
        to=translator,
    )
    assert result.refused == {}
    virtual = llm(translator)["virtualModels"]
    assert [(one["name"], one["routing"]) for one in virtual] == [
        ("cheap", weighted),
        ("clever", {"conditional": cases}),
    ]


def test_a_failover_has_a_model_for_each_provider_that_nobody_can_ask_for() -> None:
    translator = checking()
    first, second = [provider("x", "m1"), provider("y", "m2")], [provider("z", "m3")]
    to = {"failover": {"backend": {"backend": "ns/tiers"}}}
    rules = {"authorization": {"allow": ["request.headers.a == 'b'"]}}
    result = applied(
        ROUTER,
        backend("ns/tiers", first, second),
        route("a", "safe", virtualModel=to, **rules),
        to=translator,
    )
    assert result.refused == {}
    found = models(translator)
    assert {one["visibility"] for one in found.values()} == {"internal"}
    assert all(one["authorization"]["rules"] for one in found.values())
    (virtual,) = llm(translator)["virtualModels"]
    targets = virtual["routing"]["failover"]["targets"]
    assert [
        (to["priority"], found[to["model"]]["provider"]["openAI"]["model"]) for to in targets
    ] == [
        (0, "m1"),
        (0, "m2"),
        (1, "m3"),
    ]


def test_what_is_attached_to_the_backend_holds_for_its_models() -> None:
    translator = checking()
    target = {"backend": {"name": "gpt", "namespace": "ns"}}
    deny = {"authorization": {"deny": ["request.headers.a == 'b'"]}}
    defaults = {"defaults": {"a": "1"}}
    applied(ROUTER, GPT, concrete("a", "gpt", "ns/gpt", aiPolicy=defaults), to=translator)
    applied(policy(target=target, backend=deny), to=translator)
    (one,) = llm(translator)["models"]
    assert one["policies"]["authorization"] == {"rules": [{"deny": "request.headers.a == 'b'"}]}
    assert one["policies"]["ai"] == {"defaults": {"a": 1}}
    applied(to=translator, removed=["policy:ns/p"])
    (one,) = llm(translator)["models"]
    assert "authorization" not in one["policies"]


def test_models_of_a_listener_have_its_paths() -> None:
    translator = checking()
    one = concrete("a", "gpt", "ns/gpt")
    one["modelRoute"] |= {"routerKey": "", "listenerKey": "ns/gw.l"}
    result = applied(GPT, one, to=translator)
    assert result.refused == {}
    (key,) = (key for key in result.changed if key.startswith("route/"))
    made: Mapping[str, Any] = translator.resources()[key].data
    assert made["listener"] == "ns/gw.l"
    (to,) = made["backends"]
    assert llm(translator, f"backend/{to['target']['ref']}")["models"][0]["name"] == "gpt"
    gone = applied(to=translator, removed=["modelRoute:a"])
    assert {key, f"backend/{to['target']['ref']}"} <= gone.removed


def test_a_route_that_went_is_not_what_a_new_one_was_before() -> None:
    translator = checking()
    for to in ("ns/gpt", "ns/new"):
        one = concrete("a", "gpt", to)
        one["modelRoute"] |= {"routerKey": "", "listenerKey": "ns/gw.l"}
        assert applied(GPT, one, to=translator).refused == {}
        if to == "ns/gpt":
            applied(to=translator, removed=["modelRoute:a"])
    assert translator.resources().keys() == {"backend/ns/gpt"}


def test_any_order() -> None:
    parts = [ROUTER, GPT, concrete("a", "gpt", "ns/gpt")]
    wanted = checking()
    applied(*parts, to=wanted)
    for order in ((2, 1, 0), (1, 2, 0), (0, 2, 1)):
        translator = checking()
        for number in order:
            assert applied(parts[number], to=translator).refused == {}
        assert translator.resources() == wanted.resources()


def test_what_waits_takes_nothing_with_it() -> None:
    translator = checking()
    applied(ROUTER, ANY, concrete("a", "*", "ns/any"), to=translator)
    to = {"weighted": {"targets": [{"model": "new", "weight": 1}]}}
    waiting = concrete("b", "gpt", "ns/gpt"), route("c", "either", virtualModel=to)
    assert applied(*waiting, to=translator).refused == {}
    assert models(translator).keys() == {"*"}
    applied(GPT, concrete("d", "new", "ns/any"), to=translator)
    assert models(translator).keys() == {"*", "gpt", "new"}


def test_a_model_whose_provider_is_gone_is_not_left_to_a_pattern() -> None:
    translator = checking()
    both = concrete("a", "*", "ns/any"), concrete("b", "gpt", "ns/gpt")
    applied(ROUTER, ANY, GPT, *both, to=translator)
    assert applied(to=translator, removed=["backend:ns/gpt"]).removed == {
        "backend/ns/gpt",
        "backend/ns/router",
    }
    applied(GPT, to=translator)
    assert models(translator).keys() == {"*", "gpt"}
    applied(to=translator, removed=["modelRoute:b"])
    assert models(translator).keys() == {"*"}


def test_a_fault_is_the_new_ones_and_the_rest_stays() -> None:
    translator = checking()
    applied(ROUTER, GPT, concrete("a", "gpt", "ns/gpt"), to=translator)
    before = llm(translator)
    several = backend("ns/two", [provider("x"), provider("y")])
    result = applied(several, concrete("b", "two", "ns/two"), to=translator)
    assert result.refused == {"modelRoute:b": "b: ns/two has several providers: one is supported"}
    again = applied(concrete("a", "gpt", "ns/two"), to=translator)
    assert again.refused.keys() == {"modelRoute:a"}
    assert llm(translator) == before
    translator.apply({}, ("modelRoute:a",))
    assert llm(translator) is None or llm(translator)["models"] == []


def test_a_name_that_comes_to_mean_something_else() -> None:
    translator = checking()
    applied(ROUTER, GPT, concrete("a", "gpt", "ns/gpt"), to=translator)
    static = {"backend": {"key": "ns/router", "static": {"host": "h", "port": 1}}}
    result = applied(static, to=translator)
    assert result.refused == {}
    assert "host" in translator.resources()["backend/ns/router"].data["target"]  # type: ignore[operator]
    applied(ROUTER, to=translator)
    assert models(translator).keys() == {"gpt"}


def test_a_refused_something_else_leaves_the_router_as_it_was() -> None:
    translator = checking()
    applied(ROUTER, GPT, concrete("a", "gpt", "ns/gpt"), to=translator)
    bad = {"backend": {"key": "ns/router", "static": {"host": "h", "port": 70_000}}}
    assert applied(bad, to=translator).refused.keys() == {"backend:ns/router"}
    applied(concrete("b", "other", "ns/gpt"), to=translator)
    assert models(translator).keys() == {"gpt", "other"}


def test_an_update_that_could_not_be_published_never_was() -> None:
    translator = checking()
    applied(ROUTER, GPT, concrete("a", "gpt", "ns/gpt"), to=translator)
    before: dict[str, Resource] = translator.resources()
    update = concrete("b", "other", "ns/gpt")
    first = applied(update, to=translator)
    translator.undo()
    assert translator.resources() == before
    assert applied(update, to=translator) == first


FAILOVER = {"failover": {"backend": {"backend": "ns/any"}}}
REFUSED: dict[str, tuple[Json, str]] = {
    "no name": (route("a", "", concreteModel={}), "match.model"),
    "a star inside": (concrete("a", "g*t", "ns/gpt"), "match.model"),
    "no router": (
        {"modelRoute": {"key": "a", "match": {"model": "m"}, "concreteModel": {}}},
        "neither router_key nor listener_key",
    ),
    "no kind": (route("a", "m"), "no known kind"),
    "no backend": (route("a", "m", concreteModel={}), "by its key"),
    "a service": (
        route(
            "a",
            "m",
            concreteModel={"backend": {"service": {"hostname": "h", "namespace": "n"}, "port": 1}},
        ),
        "by its key",
    ),
    "a pattern of a virtual model": (route("a", "m*", virtualModel=FAILOVER), "no pattern"),
    "a virtual model without a way": (route("a", "m", virtualModel={}), "no known kind"),
    "no targets": (route("a", "m", virtualModel={"conditional": {}}), "at least one target"),
    "no weights": (
        route("a", "m", virtualModel={"weighted": {"targets": [{"model": "x"}]}}),
        "a weight above 0",
    ),
    "rules of a virtual model": (
        route(
            "a",
            "m",
            virtualModel={"weighted": {"targets": [{"model": "x", "weight": 1}]}},
            authorization={"allow": ["true"]},
        ),
        "authorization of a virtual model",
    ),
    "a policy that only services have": (
        concrete(
            "a",
            "m",
            "ns/gpt",
            own={"backendPolicies": [{"inferenceRouting": {"endpointPicker": {"backend": "x"}}}]},
        ),
        "inferenceRouting",
    ),
    "policies of a router": (
        {
            "backend": {
                "key": "ns/router",
                "modelRouter": {"routerKey": "r"},
                "inlinePolicies": [{"a2a": {}}],
            }
        },
        "policies of a model router",
    ),
    "a router without a key": (
        {"backend": {"key": "ns/router", "modelRouter": {}}},
        "router_key is missing",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused(name: str) -> None:
    resource, expected = REFUSED[name]
    assert expected in reason(resource)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((concrete("a", "m", "ns/static"),), "no backend of models"),
        ((route("a", "m", virtualModel=FAILOVER),), "names no model"),
        (
            (concrete("a", "m", "ns/any", authorization={"allow": ["request.("]}),),
            "authorization",
        ),
        (
            (concrete("a", "m", "ns/any", aiPolicy={"routes": {"/x": "MESSAGES"}}),),
            "not `routes`",
        ),
        (
            (
                concrete("a", "m", "ns/any"),
                route(
                    "b",
                    "v",
                    virtualModel={
                        "conditional": {"targets": [{"model": "m"}, {"model": "m", "when": "x"}]}
                    },
                ),
            ),
            "must be last",
        ),
    ],
)
def test_what_a_router_finds_wrong(parts: tuple[Json, ...], expected: str) -> None:
    translator = checking()
    static = {"backend": {"key": "ns/static", "static": {"host": "h", "port": 1}}}
    assert applied(ROUTER, ANY, static, to=translator).refused == {}
    result = applied(*parts, to=translator)
    assert expected in "".join(result.refused.values())
    assert llm(translator)["models"] == []
