"""The document becomes the snapshot: golden files, names, attachments, and what is reused."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.local import Source, load
from sidecar.config.normalise import Normaliser, normalise
from sidecar.config.snapshot import Snapshot
from sidecar.config.targets import reference_target
from sidecar.errors import ConfigError
from tests.support.certificates import make_pair
from tests.support.fixtures import CONFIGS, needs_fixtures

GOLDEN = Path(__file__).parents[2] / "golden" / "snapshot"
IS_UPDATING = bool(os.environ.get("UPDATE_GOLDEN"))
"""Set it to write the golden files anew, then read the difference."""

PAIR = make_pair("a.test")
FILES = {"cert.pem": PAIR.cert, "root.pem": PAIR.cert, "key.pem": PAIR.key}


def read_file(path: str) -> bytes:
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FILES[path].encode()


def snapshot_of(data: Any) -> Snapshot:
    problems: list[ConfigError] = []
    snapshot = normalise(data, problems, read_file=read_file, env={})
    assert [str(problem) for problem in problems] == []
    return snapshot


def parse(text: str) -> Any:
    return yaml.safe_load(text) or {}


@pytest.mark.parametrize("source", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_golden(source: Path) -> None:
    snapshot = snapshot_of(parse(source.read_text()))
    resources = snapshot.dump()
    if source.stem != "static":
        del resources["static/config"]
    shown = {"resources": resources, "warnings": [str(one) for one in snapshot.warnings]}
    text = json.dumps(shown, indent=1, sort_keys=True) + "\n"
    for name, kind in (("cert.pem", PAIR.cert), ("key.pem", PAIR.key)):
        text = text.replace(json.dumps(kind), json.dumps(f"<{name}>"))
    golden = source.with_suffix(".json")
    if IS_UPDATING:
        golden.write_text(text)
    assert json.loads(text) == json.loads(golden.read_text())


@pytest.mark.parametrize("source", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_loader_gives_the_same(source: Path) -> None:
    try:
        loaded = load(Source("golden", content=source.read_text()), {})
    except ConfigError as error:
        if any("not supported yet" not in line for line in str(error).splitlines()):
            raise
        pytest.skip("the schema holds back what is not built yet")
    assert snapshot_of(loaded.data).dump() == snapshot_of(parse(source.read_text())).dump()


@needs_fixtures
def test_every_configuration_of_the_reference_is_normalised() -> None:
    for source in CONFIGS:
        problems: list[ConfigError] = []
        normalise(parse(source.read_text()), problems, read_file=lambda _: PAIR.any(), env={})
        left = [str(one) for one in problems if "not supported yet" not in one.message]
        assert [one for one in left if "PEM" not in one and "belong" not in one] == [], source


def test_the_empty_document_is_valid() -> None:
    assert list(snapshot_of({}).resources) == ["static/config"]


def routes_of(snapshot: Snapshot) -> list[str]:
    return [resource.name for resource in snapshot.resources.values() if resource.kind == "route"]


def document(count: int) -> dict[str, Any]:
    return {
        "gateways": {"default": {"port": 80}, "alt": {"port": 81}},
        "backends": [{"name": "shared", "host": "shared:80"}],
        "routes": [
            {"name": f"r{index}", "backends": [{"host": f"h{index}:80"}, {"backend": "shared"}]}
            for index in range(count)
        ],
    }


def test_only_changed_routes_are_made_again() -> None:
    normaliser = Normaliser(read_file=read_file, env={})
    data = document(5)
    first = normaliser.normalise(data, [])
    data = copy.deepcopy(data)
    data["routes"][2]["hostnames"] = ["a.test"]
    second = normaliser.normalise(data, [])
    changed = [
        key for key, resource in second.resources.items() if first.resources.get(key) != resource
    ]
    assert changed == ["route/gateway/default/default/r2"]
    same = "route/gateway/default/default/r1"
    assert second.resources[same] is first.resources[same]


def test_a_route_is_made_again_when_a_name_it_refers_to_goes() -> None:
    normaliser = Normaliser(env={})
    data = document(1)
    normaliser.normalise(data, [])
    data = {**copy.deepcopy(data), "backends": []}
    key = "route/gateway/default/default/r0"
    after = normaliser.normalise(data, [])
    assert after.dump()[key]["backends"][1]["target"] == {"invalid": True}  # type: ignore[index]
    assert [one.path for one in after.warnings] == ["routes[0].backends[1].backend"]


def test_a_route_at_fault_is_made_again() -> None:
    normaliser = Normaliser(env={})
    data = document(0)
    data["routes"] = [{"gateways": ["default", "alt"], "hostnames": ["*bad"]}]
    found: list[list[str]] = []
    for _ in range(2):
        problems: list[ConfigError] = []
        normaliser.normalise(copy.deepcopy(data), problems)
        found.append([problem.path for problem in problems])
    assert found == [["routes[0].hostnames[0]"]] * 2


def test_a_route_whose_file_changed_is_made_again() -> None:
    content = {"ca.pem": PAIR.cert}
    normaliser = Normaliser(read_file=lambda path: content[path].encode(), env={})
    policies = {"backendTLS": {"root": "ca.pem"}}
    data = {
        "gateways": {"default": {"port": 80}},
        "routes": [{"policies": policies, "backends": [{"host": "a:443"}]}],
    }
    key = "route/gateway/default/default/route0"
    before = normaliser.normalise(data, []).resources[key]
    content["ca.pem"] = make_pair("b.test").cert
    after = normaliser.normalise(data, []).resources[key]
    assert before.digest != after.digest


def test_the_same_route_on_two_listeners_is_two_routes() -> None:
    data = document(0)
    data["routes"] = [{"gateways": ["default", "alt"]}, {"gateways": "alt"}]
    assert routes_of(snapshot_of(data)) == [
        "gateway/default/default/route0",
        "gateway/alt/default/route0",
        "gateway/alt/default/route1",
    ]


def test_the_last_of_equal_keys_wins_with_a_warning() -> None:
    data = document(0)
    data["routes"] = [{"name": "r", "backends": [{"host": f"h{n}:1"}]} for n in range(2)]
    snapshot = snapshot_of(data)
    route = snapshot.dump()["route/gateway/default/default/r"]
    assert route["backends"][0]["target"]["host"]["address"] == "h1"  # type: ignore[index]
    assert [one.path for one in snapshot.warnings] == ["routes[1]"]


def test_of_two_policies_of_a_kind_for_one_target_one_holds_with_a_warning() -> None:
    data = document(0)
    target = {"gateway": {"gatewayName": "default", "gatewayNamespace": "default"}}
    rules = {"authorization": {"rules": ["true"]}}
    data["policies"] = [
        {"target": target, "policy": policy, **more}
        for policy, more in (
            ({"csrf": {}}, {}),
            (rules, {}),
            ({"csrf": {}}, {}),
            (rules, {}),
            ({"cors": {"allowOrigins": ["*"]}}, {}),
            ({"cors": {"allowOrigins": ["*"]}}, {"phase": "gateway"}),
            ({"buffer": {}}, {}),
            ({"buffer": {}}, {}),
        )
    ]
    assert [str(one) for one in snapshot_of(data).warnings] == [
        "policies[0]: has no effect: policies[2] is a csrf for the same target",
        "policies[7]: has no effect: policies[6] is a buffer for the same target",
    ]


def test_a_shared_file_is_read_once() -> None:
    seen: list[str] = []

    def counting(path: str) -> bytes:
        seen.append(path)
        return read_file(path)

    tls = {"cert": "cert.pem", "key": "key.pem"}
    data = {"gateways": {f"g{n}": {"port": 1000 + n, "tls": tls} for n in range(3)}}
    problems: list[ConfigError] = []
    normalise(data, problems, read_file=counting, env={})
    assert (problems, sorted(seen)) == ([], ["cert.pem", "key.pem"])


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ({"host": "a:80"}, {"host": {"address": "a", "port": 80}}),
        ({"host": "http://a"}, {"host": {"address": "a", "port": 80}}),
        ({"host": "https://a:8443"}, {"host": {"address": "a", "port": 8443, "tls": True}}),
        ({"host": "https://[::1]"}, {"host": {"address": "::1", "port": 443, "tls": True}}),
        ({"host": "unix:/s"}, {"unix": "/s"}),
        ({"backend": "/b"}, {"ref": "b"}),
        ({"service": {"name": "n/h", "port": 1}}, {"service": {"name": "n/h", "port": 1}}),
    ],
)
def test_references_inside_policies(reference: Any, target: Any) -> None:
    assert reference_target(reference) == target


@pytest.mark.parametrize(
    ("override", "policies", "warns"),
    [
        ("gateway.test:443", {}, True),
        ("[::1]:443", {}, True),
        ("gateway.test:443", {"backendTLS": {}}, False),
        ("gateway.test:8443", {}, False),
    ],
)
def test_a_host_in_plain_text_at_the_port_of_https_is_worth_a_warning(
    override: str, policies: dict[str, object], warns: bool
) -> None:
    ai = {"name": "a", "provider": {"openAI": {}}, "hostOverride": override, "policies": policies}
    params = {"hostOverride": override}
    model = {"name": "m", "provider": "openAI", "params": params, **policies}
    data = {"llm": {"port": 1, "models": [model]}, "backends": [{"name": "b", "ai": ai}]}
    problems: list[ConfigError] = []
    found = normalise(data, problems, read_file=str.encode, env={})
    assert problems == []
    places = ["backends[0].ai.hostOverride", "llm.models[0].params.hostOverride"]
    assert sorted(one.path for one in found.warnings) == (places if warns else [])


@pytest.mark.parametrize(
    ("moderation", "is_told"),
    [
        ("{}", True),
        ("{policies: {backendAuth: {key: k}}}", False),
        ("{hostOverride: 'own:80'}", False),
    ],
)
def test_a_moderation_without_a_key_is_warned_of(moderation: str, is_told: bool) -> None:
    guards = f"{{request: [{{openAIModeration: {moderation}}}]}}"
    model = f"{{name: m, provider: openAI, guardrails: {guards}}}"
    snapshot = snapshot_of(parse(f"llm: {{port: 80, models: [{model}]}}"))
    told = [str(one) for one in snapshot.warnings if "without a key" in str(one)]
    place = "llm.models[0].guardrails.request[0].openAIModeration"
    assert [one.partition(":")[0] for one in told] == ([place] if is_told else [])
