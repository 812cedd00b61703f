"""Resources of a controller come, change, go and are refused."""

from __future__ import annotations

from typing import Any

import pytest

from istio.xds.resources import Translator
from sidecar.config.snapshot import Resource
from sidecar.errors import ConfigError
from tests.istio.xds.words import (
    BIND,
    CSRF,
    PAIR,
    ROUTE,
    Json,
    applied,
    listener,
    message,
    octets,
    policy,
    reason,
)


def test_changes_and_removals() -> None:
    translator = Translator()
    result = applied(BIND, listener("a"), listener("b", hostname="b"), to=translator)
    assert result.changed.keys() == {"bind/80/ns/gw", "listener/ns/gw/a", "listener/ns/gw/b"}
    route: Json = {"route": ROUTE}
    assert applied(route, to=translator).changed.keys() == {"route/ns/r"}
    # The same once more is no change.
    again = applied(route, BIND, to=translator)
    assert (again.changed, again.removed, again.refused) == ({}, set(), {})
    gone = applied(to=translator, removed=["listener:ns/gw/b", "route:ns/r", "unknown"])
    assert gone.removed == {"listener/ns/gw/b", "route/ns/r"}
    assert gone.changed["bind/80/ns/gw"].data["listeners"] == ["ns/gw/a"]
    gone = applied(to=translator, removed=["bind:80/ns/gw"])
    assert gone.removed == {"bind/80/ns/gw", "listener/ns/gw/a"}
    assert applied(BIND, to=translator).changed["bind/80/ns/gw"].data["listeners"] == ["ns/gw/a"]
    assert translator.owners["listener/ns/gw/a"] == "listener:ns/gw/a"


def test_a_bad_change_keeps_the_old_and_does_not_stop_the_others() -> None:
    translator = Translator()
    applied({"route": ROUTE}, to=translator)
    bad = {**ROUTE, "matches": [{"path": {"regex": "("}}]}
    other = {**ROUTE, "key": "ns/other"}
    result = applied({"route": bad}, {"route": other}, to=translator)
    assert "invalid regex" in result.refused["route:ns/r"]
    assert result.changed.keys() == {"route/ns/other"}
    assert "route/ns/r" in translator.resources()


def test_one_key_has_one_owner() -> None:
    translator = Translator()
    translator.apply({"a": message({"route": ROUTE})}, ())
    result = translator.apply({"b": message({"route": ROUTE})}, ())
    assert result.refused == {"b": "a is route/ns/r already"}
    # Removed and sent under another name in one update.
    result = translator.apply({"b": message({"route": ROUTE})}, ("a",))
    assert (result.refused, result.removed) == ({}, set())
    assert result.changed.keys() == {"route/ns/r"}


def test_what_only_the_runner_finds_wrong_is_refused_alone() -> None:
    def check(resource: Resource) -> None:
        if resource.data.get("hostname") == "bad" or "bad" in resource.data.get("hostnames", ()):
            raise ConfigError("policies", "does not compile")

    translator = Translator(check)
    bad = {**ROUTE, "key": "ns/bad", "hostnames": ["bad"]}
    result = applied(
        BIND,
        listener("a"),
        listener("b", hostname="bad"),
        {"route": ROUTE},
        {"route": bad},
        to=translator,
    )
    reason = "policies: does not compile"
    assert result.refused == {"route:ns/bad": reason, "listener:ns/gw/b": reason}
    assert result.changed.keys() == {"bind/80/ns/gw", "listener/ns/gw/a", "route/ns/r"}


def test_an_update_that_could_not_be_published_never_was() -> None:
    translator = Translator()
    applied(BIND, listener("a"), {"route": ROUTE}, to=translator)
    before = translator.resources()
    update = ({"route": {**ROUTE, "hostnames": ["x"]}}, listener("a", hostname="x"), listener("b"))
    first = applied(*update, to=translator, removed=["listener:ns/gw/a"])
    translator.undo()
    assert translator.resources() == before
    again = applied(*update, to=translator, removed=["listener:ns/gw/a"])
    assert again == first
    assert again.changed.keys() >= {"route/ns/r", "listener/ns/gw/b", "bind/80/ns/gw"}


def test_workloads_and_services() -> None:
    result = applied(
        {"workload": {"uid": "u", "namespace": "ns", "addresses": ["CgAAAQ=="]}},
        {"service": {"name": "s", "namespace": "ns", "hostname": "s.ns"}},
    )
    assert result.changed.keys() == {"workload/u", "service/ns/s.ns"}
    assert result.changed["workload/u"].data["ips"] == ["10.0.0.1"]


REFUSED: dict[str, tuple[Json, str]] = {
    "no key": ({"route": {**ROUTE, "key": ""}}, "key is missing"),
    "model routes": ({"modelRoute": {"key": "m"}}, "match.model"),
    "unknown providers": (
        {"backend": {"key": "b", "guardrail": {"openaiModeration": {}}}},
        "a backend of the kind guardrail is not supported",
    ),
    "two of a kind": (
        {"route": {**ROUTE, "trafficPolicies": [CSRF, CSRF]}},
        "two policies of the kind csrf",
    ),
    "a phase no route has": (
        {"route": {**ROUTE, "trafficPolicies": [{**CSRF, "phase": "GATEWAY"}]}},
        "cannot run in the gateway phase",
    ),
    "a header twice": (
        {
            "route": {
                **ROUTE,
                "trafficPolicies": [
                    {
                        "requestHeaderModifier": {
                            "add": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]
                        }
                    }
                ],
            }
        },
        "`a` comes twice",
    ),
    "two mirrors": (
        {"route": {**ROUTE, "trafficPolicies": [{"requestMirror": {"mirrors": [{}, {}]}}]}},
        "2 mirrors: one is supported",
    ),
    "a policy in the wrong phase": (
        policy(traffic={**CSRF, "phase": "GATEWAY"}),
        "csrf cannot run in the gateway phase",
    ),
    "a policy that overrides": (policy(traffic=CSRF, inheritance="OVERRIDE"), "OVERRIDE"),
    "a policy of listener sets": (
        policy(traffic=CSRF, target={"listenerSet": {"name": "x", "namespace": "y"}}),
        "a policy for a listener_set is not supported",
    ),
    "a frontend policy of a listener": (
        policy(
            frontend={"http": {}},
            target={"gateway": {"name": "g", "namespace": "n", "listener": "l"}},
        ),
        "for a whole gateway only",
    ),
    "metrics": (policy(frontend={"metrics": {}}), "of the kind metrics is not supported"),
    "tokens for MCP": (policy(traffic={"jwt": {"mcp": {}}}), "JWT.mcp is not supported"),
    "a bad status": (
        policy(traffic={"directResponse": {"status": 70000}}),
        "directResponse.status",
    ),
    "alternatives of two kinds": (
        policy(conditional={"policies": [{"traffic": CSRF}, {"traffic": {"cors": {}}}]}),
        "are of different kinds",
    ),
    "a negative time": (
        policy(traffic={"timeout": {"request": "-1s"}}),
        "a duration cannot be negative",
    ),
    "no port": ({"backend": {"key": "b", "static": {"host": "h"}}}, "invalid host:port"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused(name: str) -> None:
    resource, expected = REFUSED[name]
    assert expected in reason(resource)


@pytest.mark.parametrize("payload", [b"", b"\xff", message({"routeGroup": {}})])
def test_bad_octets(payload: bytes) -> None:
    result = Translator().apply({"x": payload}, ())
    assert result.refused.keys() == {"x"}


def test_a_field_of_a_later_version_is_refused() -> None:
    """It may be what keeps somebody out."""
    payload = message({"route": ROUTE})
    later = b"\xa2\x06\x01x"
    size = payload[1] + len(later)
    result = Translator().apply({"x": bytes([payload[0], size]) + payload[2:] + later}, ())
    assert result.refused == {"x": "route: field 100 is not known here"}


def test_no_file_is_read(tmp_path: Any) -> None:
    path = tmp_path / "cert.pem"
    path.write_text(PAIR.cert)
    tls = {"root": octets(str(path))}
    backend = {
        "key": "b",
        "static": {"host": "h", "port": 1},
        "inlinePolicies": [{"backendTls": tls}],
    }
    assert "does not hold a valid PEM certificate" in reason({"backend": backend})
