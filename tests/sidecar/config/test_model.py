"""The models against the reference's schema, and what marks and choices do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import jsonschema
import pytest
from pydantic import ValidationError

from sidecar.config.model.base import Choice, Model, NotYet, Renamed, camel
from sidecar.config.model.root import Config
from sidecar.config.schema import json_schema
from tests.support.fixtures import CONFIGS, SHARED, EveryVariable, needs_fixtures

REFERENCE = SHARED / "spec" / "config.schema.json"
has_reference = pytest.mark.skipif(
    not REFERENCE.is_file(), reason="the reference's schema is not here"
)
Schema = dict[str, Any]


def forms(node: Schema, root: Schema) -> Iterator[Schema]:
    """A node, its target when it is a reference, and its alternatives, each on its own."""
    if "$ref" in node:
        yield from forms(root["$defs"][node["$ref"].rpartition("/")[2]], root)
    yield node
    for word in ("anyOf", "oneOf", "allOf"):
        for alternative in node.get(word, ()):
            yield from forms(alternative, root)


def children(nodes: list[Schema]) -> dict[str, list[Schema]]:
    """What stands below: by property, `[]` for items, `{}` for further keys."""
    found: dict[str, list[Schema]] = {}
    for node in nodes:
        for name, child in node.get("properties", {}).items():
            found.setdefault(name, []).append(child)
        for child in node.get("patternProperties", {}).values():
            found.setdefault("{}", []).append(child)
        for word, name in (("items", "[]"), ("additionalProperties", "{}")):
            if isinstance(node.get(word), dict):
                found.setdefault(name, []).append(node[word])
    return found


# What the reference's types say in full and ours in a validator.
SHORTENED = {"file", "url"}


Pair_ = tuple[str, list[Schema], list[Schema]]


def pairs(
    ours: list[Schema], theirs: list[Schema], roots: tuple[Schema, Schema]
) -> Iterator[Pair_]:
    """Walk both schemas together; yields each place with what both say of it."""
    seen: set[tuple[frozenset[int], frozenset[int]]] = set()
    waiting = [("", ours, theirs)]
    while waiting:
        path, mine, other = waiting.pop()
        mine = [form for node in mine for form in forms(node, roots[0])]
        other = [form for node in other for form in forms(node, roots[1])]
        mark = (frozenset(map(id, other)), frozenset(map(id, mine)))
        if mark in seen:
            continue
        seen.add(mark)
        yield path, mine, other
        known = children(mine)
        for name, below in children(other).items():
            if name in known:
                waiting.append((f"{path}.{name}", known[name], below))


def missing(
    ours: list[Schema], theirs: list[Schema], roots: tuple[Schema, Schema]
) -> Iterator[str]:
    """The paths that only the second schema has."""
    for path, mine, other in pairs(ours, theirs, roots):
        for name in children(other).keys() - children(mine).keys() - SHORTENED:
            yield f"{path}.{name}"


def required(nodes: list[Schema]) -> set[str] | None:
    """The keys that must be given, where there is one form only."""
    maps = [node for node in nodes if "properties" in node]
    return set(maps[0].get("required", ())) if len(maps) == 1 else None


def words(nodes: list[Schema]) -> set[str]:
    return {
        word
        for node in nodes
        for word in [*node.get("enum", ()), node.get("const")]
        if isinstance(word, str)
    }


@has_reference
def test_required_keys_and_words_are_those_of_the_reference() -> None:
    theirs = json.loads(REFERENCE.read_text())
    ours = json_schema()
    different = set()
    for path, mine, other in pairs([ours], [theirs], (ours, theirs)):
        must = required(mine), required(other)
        if None not in must and must[0] != must[1]:
            different.add((path.rpartition(".")[2], "required"))
        if words(mine) != words(other):
            different.add((path.rpartition(".")[2], "words"))
    # `aws` wants one of its one key by a validator; `forward` is text like any path here; of
    # HTTP versions the reference's schema lists none and its code knows two; the kind of
    # `mcpGuardrails` that is a webhook is ours.
    assert different == {
        *(("aws", "required"), ("internal", "words")),
        *(("kind", "words"), ("version", "words")),
    }


@has_reference
def test_every_key_of_the_reference_is_known() -> None:
    theirs = json.loads(REFERENCE.read_text())
    ours = json_schema()
    assert sorted(missing([ours], [theirs], (ours, theirs))) == []


OURS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(^\.llm|\.ai)\.(.*\.)?(failover\.|streamIdleTimeout|lossy)",  # docs/llm.md
        r"\.(ai|llm)\.failover$",
        r"uard.*\.(hostOverride|failureMode)$",  # of clouds: docs/guards.md
        r"\.a2a\.(card|pushNotifications|versions)",  # docs/policies/a2a.md
        # mcpAuthorization and mcpGuardrails: docs/mcp.md, docs/mcp-guardrails.md
        r"\.(readsArguments|requiredScope|processors\.\[\]\.path)$",
        r"\.mcp\.(maxNameLength|listCacheTtl|allowedOrigins|mirroredHeaders|rateLimits)$",
        r"\.mcp\.targets\.\[\]\.(pin|tools)$",
        r"\.openapi\.outputSchemas$",  # docs/mcp-openapi.md
        r"^\.config\.istio",  # docs/istio.md
        r"^\.config\.modelCatalog\.\[\]\..*(url|refresh)$",  # docs/llm.md
        r"\.models\..*(serviceTiers|\.pieces|\.cacheWrite1h$|putImage$)",  # prices: docs/llm.md
        r"\.database\.retention$",  # docs/request-log.md
        r"(olicies|\.policy)\.budgets$",  # a policy of ours: docs/policies
        r"\.apiKey\.keys\..*\.budgets$",  # of version 1.5
        r"\.inferenceRouting\.(failureMode|endpointPicker\.(name|policies).*)$",  # docs/policies
        r"\.dynamic\.allowLinkLocal$",  # docs/configuration.md
        r"\.oidc\.(logout|endSessionEndpoint)$",  # docs/policies/oidc.md
        r"\.(allowPlaintext|claimExpressions)$",  # docs/policies/backendAuth.md
        r"\.localRateLimit.*\.(key|onMissingKey|cost|debt|failureMode)$",
    )
)
"""Keys that are known here alone, with the page that tells of them."""


def is_ours(path: str) -> bool:
    return any(pattern.search(path) for pattern in OURS)


@has_reference
def test_no_key_is_known_that_the_reference_lacks() -> None:
    theirs = json.loads(REFERENCE.read_text())
    ours = json_schema()
    # Discovery lists have no keys in the reference's schema, `{file: …}` is a key there and a
    # map here, and `copilot: {}` is documented but only the text form is in the schema.
    extra = [
        path
        for path in missing([theirs], [ours], (theirs, ours))
        if not path.startswith((".services", ".workloads"))
        and not path.endswith(("{}", ".copilot"))
        and path != ".config.frontDoor"  # ours: docs/frontdoors.md
        and path != ".config.maxRequestsInFlight"  # ours: docs/configuration.md
        and not path.startswith(".config.state")  # ours: docs/configuration.md
        and not is_ours(path)
    ]
    assert sorted(extra) == []


@needs_fixtures
def test_reference_configurations_fit_our_printed_schema() -> None:
    from sidecar.config.environment import expand
    from sidecar.config.yaml import Document

    validator = jsonschema.Draft202012Validator(json_schema())
    for file in CONFIGS:
        data = Document(expand(file.read_text(), EveryVariable()).text).data
        assert list(validator.iter_errors(data)) == [], file.name


def test_printed_schema_is_a_schema_with_descriptions() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["gateways"]["description"].startswith("Ports and listeners")
    tls = schema["$defs"]["ServerTLS"]["properties"]
    assert tls["minTlsVersion"]["deprecated"] is True
    assert "Default TLS_V1_2" in tls["minTLSVersion"]["description"]
    bare = [
        f"{name}.{key}"
        for name, definition in schema["$defs"].items()
        for key, field in definition.get("properties", {}).items()
        if "description" not in field
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("name", "key"),
    [("port", "port"), ("request_timeout", "requestTimeout"), ("enable_ipv6", "enableIpv6")],
)
def test_camel(name: str, key: str) -> None:
    assert camel(name) == key


class Pair(Choice):
    CHOICES: ClassVar[frozenset[str]] = frozenset(("left", "right"))
    left: str | None = None
    right: Annotated[str | None, NotYet("right hands")] = None
    weight: Annotated[int, NotYet("heavy weights", (9,))] = 1


class Twice(Renamed):
    OTHER_NAMES: ClassVar[dict[str, str]] = {"old": "new"}
    new: int = 0


def errors(model: type[Model], value: object) -> list[tuple[str, tuple[str | int, ...]]]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    return [(error["type"], error["loc"]) for error in caught.value.errors()]


@pytest.mark.parametrize("value", [{"left": "a", "right": None}, {"left": None}])
def test_choice_wants_one(value: dict[str, Any]) -> None:
    assert errors(Pair, value) == [("choice", ())]


def test_choice_tells_none_from_too_many() -> None:
    assert errors(Pair, {}) == [("nothing_chosen", ())]


def test_not_yet_refuses_what_is_valid() -> None:
    assert errors(Pair, {"right": "a"}) == [("not_yet", ("right",))]
    assert errors(Pair, {"left": "a", "weight": 9}) == [("not_yet", ("weight",))]
    assert Pair.model_validate({"left": "a", "weight": 8}).weight == 8


def test_not_yet_reports_faults_inside_too() -> None:
    assert errors(Pair, {"right": 1}) == [("not_yet", ("right",)), ("string_type", ("right",))]


def test_not_yet_lets_absence_be() -> None:
    assert Pair.model_validate({"left": "a"}).right is None


def test_other_names() -> None:
    assert Twice.model_validate({"old": 1}).model_dump() == {"new": 1}
    assert errors(Twice, {"old": 1, "new": 1}) == [("invalid", ())]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"gateways": {"a": {"port": "80"}}}, ("gateways", "a", "port")),
        ({"gateways": {"a": {"port": True}}}, ("gateways", "a", "port")),
        ({"gateways": {"a": {"port": 80.0}}}, ("gateways", "a", "port")),
        ({"routes": {}}, ("routes",)),
        ({"routes": None}, ("routes",)),
    ],
)
def test_types_are_exact(value: dict[str, Any], place: tuple[str, ...]) -> None:
    assert [loc for _, loc in errors(Config, value)] == [place]
