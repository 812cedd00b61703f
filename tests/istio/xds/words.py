"""What tests of a controller's resources say, and what the gateway makes of it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from google.protobuf.json_format import ParseDict

from istio.xds._pb import resource_pb2 as pb
from istio.xds.resources import Applied, Translator
from sidecar.config.checker import Checker, ItemCache
from sidecar.config.normalise import normalise
from sidecar.errors import ConfigError
from tests.support.certificates import make_pair

Json = dict[str, Any]
PAIR = make_pair("b.example")


def octets(text: str) -> str:
    """As JSON says bytes."""
    return b64encode(text.encode()).decode()


def message(data: Json) -> bytes:
    return bytes(ParseDict(data, pb.Resource()).SerializeToString())


def applied(*resources: Json, to: Translator | None = None, removed: Sequence[str] = ()) -> Applied:
    """Each under the name `kind:key`."""
    updates = {}
    for one in resources:
        ((kind, data),) = one.items()
        updates[f"{kind}:{data.get('key') or data.get('uid') or data.get('name')}"] = message(one)
    return (to or Translator()).apply(updates, removed)


def made(resource: Json) -> Any:
    result = applied(resource)
    assert result.refused == {}
    (one,) = result.changed.values()
    return one.data


def reason(resource: Json) -> str:
    result = applied(resource)
    assert not result.changed
    (text,) = result.refused.values()
    return text


def of_file(document: Json) -> dict[str, Json]:
    """Key to data, as a file makes them."""
    checker = Checker(ItemCache())
    data = checker.check(document)
    assert checker.findings == []
    problems: list[ConfigError] = []
    dump = normalise(data, problems, env={}).dump()
    assert problems == []
    return dump


def route_of_file(route: Json) -> Json:
    listeners = [{"name": "l", "routes": [{"name": "r", "namespace": "ns", **route}]}]
    document = {
        "binds": [{"port": 80, "listeners": listeners}],
        "backends": [{"name": "ns/b", "host": "1.2.3.4:5"}],
        "services": [{"name": "s", "namespace": "ns", "hostname": "s.ns", "ports": {"80": 80}}],
    }
    (found,) = (one for key, one in of_file(document).items() if key.startswith("route/"))
    return found


ROUTE: Json = {
    "key": "ns/r",
    "listenerKey": "l1",
    "name": {"name": "r", "namespace": "ns", "kind": "HTTPRoute"},
}


def same_route(message_part: Json, file_part: Json) -> None:
    ours = made({"route": {**ROUTE, **message_part}})
    theirs = route_of_file(file_part)
    names = [one["name"] for one in theirs["backends"]]
    for one, name in zip(ours["backends"], names, strict=True):
        one["name"] = name  # inline ones are called after the key of their route
    assert {**ours, "listener": None} == {**theirs, "listener": None}


def policy(**parts: Any) -> Json:
    target = {"gateway": {"name": "gw", "namespace": "ns"}}
    name = {"name": "p", "namespace": "ns", "kind": "AgentgatewayPolicy"}
    return {"policy": {"key": "ns/p", "name": name, "target": target, **parts}}


CSRF: Json = {"csrf": {"additionalOrigins": ["https://a"]}}


BIND: Json = {"bind": {"key": "80/ns/gw", "port": 80}}


def listener(name: str = "l", **parts: Any) -> Json:
    names = {"gatewayName": "gw", "gatewayNamespace": "ns", "listenerName": name}
    return {
        "listener": {
            "key": f"ns/gw/{name}",
            "bindKey": "80/ns/gw",
            "name": names,
            "protocol": "HTTP",
            **parts,
        }
    }
