"""Routes of the document become routes of the snapshot, and unchanged ones are not made again.

Source: spec/config.md sections 0.7, 1.2, 1.6, 2.2 and 2.3.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import orjson
import re2

from sidecar.config.ai import target_of
from sidecar.config.payloads import policies
from sidecar.config.run import Node, Run, items
from sidecar.config.scalars import check_hostname
from sidecar.config.snapshot import Json, Resource, compact
from sidecar.config.targets import backend_name
from sidecar.config.validate import check_backend_scope
from sidecar.errors import ConfigError

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STATEFUL = frozenset({"budgets", "localRateLimit"})
"""Policies that a route on several listeners has once, not once for each."""
_PSEUDO = frozenset({":method", ":scheme", ":authority", ":path"})

DEFAULT_MATCH: Json = {
    "path": {"kind": "prefix", "value": "/"},
    "method": None,
    "headers": [],
    "query": [],
}


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where routes hang: a listener, or a route group."""

    prefix: str
    """Begins the key of each route: the listener's key, or `routegroup/<name>`."""
    listener: str | None
    group: str | None
    protocol: str
    """The listener's, or "HTTP" in a group."""

    @property
    def has_tcp(self) -> bool:
        """Whether TCP routes belong here (else HTTP routes do)."""
        return self.protocol in ("TCP", "TLS")


@lru_cache(maxsize=8192)
def hostname(text: str) -> str:
    """A host to match, in lower case: exact, `*.suffix`, or `*` for any. Raises ConfigError.

    An IPv6 address comes out in its canonical form and in brackets, as an authority has it.
    """
    try:
        lower = check_hostname(text).lower().removesuffix(".") or "*"
        if ":" in lower:
            return f"[{ipaddress.IPv6Address(lower.strip('[]'))}]"
    except ValueError as error:
        raise ConfigError("", str(error)) from error
    return lower


@lru_cache(maxsize=8192)
def _regex_problem(pattern: str) -> str:
    """Why a pattern is refused, or ""."""
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "does not compile"
        return f"invalid regex: {reason.decode() if isinstance(reason, bytes) else reason}"
    return ""


def _hostnames(item: Node, path: str, run: Run) -> list[str]:
    names = []
    for where, text in items(item, "hostnames", path):
        try:
            names.append(hostname(text))
        except ConfigError as error:
            run.problem(where, error.message)
    # `*` is every host, which is what no hostname at all says.
    return [] if names == ["*"] else list(dict.fromkeys(names))


def _value_match(value: Any, path: str, run: Run) -> Json:
    """`{exact}` or `{regex}` of a header or a query parameter."""
    if not isinstance(value, dict):
        run.problem(path, f"`{value}` is not a match")
        return {"kind": "exact", "value": ""}
    if "exact" in value:
        return {"kind": "exact", "value": value["exact"]}
    reason = _regex_problem(value["regex"])
    if reason:
        run.problem(f"{path}.regex", reason)
    return {"kind": "regex", "value": value["regex"]}


def _path_match(value: Any, path: str, run: Run) -> Json:
    if value is None:
        return {"kind": "prefix", "value": "/"}
    if isinstance(value, dict) and "pathPrefix" in value:
        # Matching goes by segments, so a trailing slash says nothing.
        return {"kind": "prefix", "value": value["pathPrefix"].rstrip("/") or "/"}
    return _value_match(value, path, run)


def _match(item: Node, path: str, run: Run) -> Json:
    headers: list[Json] = []
    for where, header in items(item, "headers", path):
        name = header["name"].lower()
        if name not in _PSEUDO and not _TOKEN.fullmatch(name):
            run.problem(f"{where}.name", f"invalid header name `{header['name']}`")
        headers.append({"name": name, **_value_match(header["value"], f"{where}.value", run)})
    query = [
        {"name": entry["name"], **_value_match(entry["value"], f"{where}.value", run)}
        for where, entry in items(item, "query", path)
    ]
    return {
        "path": _path_match(item.get("path"), f"{path}.path", run),
        "method": item.get("method"),
        "headers": headers,
        "query": query,
    }


def _matches(item: Node, path: str, run: Run) -> list[Json]:
    if item.get("matches") is None:
        return [DEFAULT_MATCH]
    if not item["matches"]:
        run.warn(f"{path}.matches", "an empty list matches no request")
    return [_match(entry, where, run) for where, entry in items(item, "matches", path)]


def _backends(item: Node, key: str, path: str, run: Run) -> list[Json]:
    result: list[Json] = []
    for index, (where, entry) in enumerate(items(item, "backends", path)):
        own = entry.get("policies") or {}
        scope = "service" if "service" in entry else "inline"
        check_backend_scope(own, f"{where}.policies", run, scope=scope)
        weight = entry.get("weight")
        result.append(
            {
                "name": backend_name(entry, key, index),
                "weight": 1 if weight is None else weight,
                "target": target_of(entry, where, run),
                "policies": policies(own, f"{where}.policies", run),
            }
        )
    return result


def _make(
    item: Node, default_name: str, place: Place, path: str, run: Run, same: str
) -> Resource | None:
    name = item.get("name") or default_name
    namespace = item.get("namespace") or "default"
    rule = item.get("ruleName")
    key = f"{place.prefix}/{namespace}/{name}" + (f"/{rule}" if rule else "")
    data: Json = {
        "listener": place.listener,
        "name": name,
        "namespace": namespace,
        "rule_name": rule,
        "hostnames": _hostnames(item, path, run),
        "policies": policies(item.get("policies"), f"{path}.policies", run),
        "backends": _backends(item, key, path, run),
        "tcp": place.has_tcp,
    }
    if place.has_tcp:
        if place.protocol == "TCP" and data["hostnames"]:
            run.problem(f"{path}.hostnames", "must be empty on a plain TCP listener: it has no SNI")
    else:
        data["group"] = place.group
        data["matches"] = _matches(item, path, run)
    if same and not _STATEFUL.isdisjoint(item.get("policies") or ()):
        data["same"] = same
    try:
        return Resource.of("tcproute" if place.has_tcp else "route", key, data)
    except ConfigError as error:
        run.problem(path, error.message)
        return None


@final
@dataclass(frozen=True, slots=True)
class _Kept:
    """A route made before, and the names it is right for only while they exist."""

    resource: Resource
    references: tuple[tuple[str, str], ...]


_Key = tuple[str, str, str, str, bytes]


@final
class RouteMaker:
    """Makes routes, and remembers those of the last run by place, default name and content.

    A route is remembered when it gave neither problem nor warning (their paths would be stale)
    and read no file (its content may change while the route does not).
    """

    __slots__ = ("_last", "_now")

    def __init__(self) -> None:
        self._last: dict[_Key, _Kept] = {}
        self._now: dict[_Key, _Kept] = {}

    def begin(self) -> None:
        """A new run: what the run before last used, and the last one did not, is forgotten."""
        self._last, self._now = self._now, {}

    def make(
        self, item: Node, index: int, place: Place, path: str, run: Run, same: str = ""
    ) -> str:
        """Make the route, or take the one made before, and keep it in the run; its key or "".

        `index` is the number of routes already at the place, which names a route without a name.
        `same`: the key of the first route that was made of this item, for another listener.
        """
        default_name = f"tcproute{index}" if place.has_tcp else f"route{index}"
        shown_name = "" if item.get("name") else default_name
        key = (place.prefix, place.protocol, shown_name, same, _content(item))
        kept = self._now.get(key) or self._last.get(key)
        if kept is not None and all(run.known.has(*name) for name in kept.references):
            run.keep(kept.resource, path)
            self._now[key] = kept
            return kept.resource.name
        run.references.clear()
        before = run.events
        resource = _make(item, default_name, place, path, run, same)
        if resource is None:
            return ""
        is_clean = run.events == before
        run.keep(resource, path)
        if is_clean:
            self._now[key] = _Kept(resource, tuple(run.references))
        return resource.name


def _content(item: Node) -> bytes:
    """The route's bytes: equal bytes make an equal route. Raises nothing: see `_make`."""
    try:
        return compact(orjson.dumps(item, option=orjson.OPT_NON_STR_KEYS))
    except TypeError:
        return repr(item).encode("utf-8", "surrogatepass")
