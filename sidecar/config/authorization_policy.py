"""Istio's AuthorizationPolicy becomes an `authorization` resource.

Source: Istio's reference of AuthorizationPolicy and of its conditions; spec istio section 4.4.

A rule becomes clauses, all of which must hold: one of `from`, one of `to`, one of each `when`. What
cannot be honoured is refused, also a value that could never match: in a DENY policy it would let
pass what its author meant to keep out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from sidecar.config.run import child
from sidecar.config.snapshot import Json

Problem = Callable[[str, str], None]
"""(path in the document, message)."""
Values = Callable[[Sequence[Any], str, Problem], list[Any]]

_DRY_RUN: Final = "istio.io/dry-run"
_BAD_IN_PATH: Final = re.compile(r"[\x00-\x1f\x7f\\#?]|%(?![0-9A-Fa-f]{2})")
_BAD_ENCODED: Final = re.compile(r"%(?:[01][0-9A-Fa-f]|5[cC]|7[fF])")
_DOT: Final = re.compile("%2[eE]")
_DOTS: Final = frozenset((".", ".."))
_APART: Final = re.compile(r"/|;|%2[fF]|%3[bB]")
_MAX_VALUES: Final = 10_000


def authorization(
    meta: Mapping[str, Any], spec: Mapping[str, Any], root_namespace: str, problem: Problem
) -> Json:
    """The resource's data. `meta`: name, namespace, annotations."""
    for key in spec.keys() - _SPEC:
        problem(f"spec.{key}", f"unknown field `{key}`")
    action = spec.get("action") or "ALLOW"
    if action == "CUSTOM":
        problem("spec.action", "CUSTOM is not supported: an extAuthz policy asks another service")
    elif action not in ("ALLOW", "DENY", "AUDIT"):
        problem("spec.action", f"unknown action `{action}`")
    if "provider" in spec and action != "CUSTOM":
        problem("spec.provider", "is for CUSTOM only")
    namespace = meta["namespace"]
    made: Json = {
        "name": meta["name"],
        "namespace": namespace,
        **scope_of(spec, namespace, root_namespace, problem),
        "action": action,
        "dryRun": _is_dry(meta, problem),
        "rules": [
            _rule(rule, f"spec.rules[{index}]", namespace, problem)
            for index, rule in enumerate(_list(spec, "rules", "spec", problem))
        ],
    }
    return made


_SPEC: Final = frozenset(("selector", "targetRef", "targetRefs", "action", "rules", "provider"))


def _is_dry(meta: Mapping[str, Any], problem: Problem) -> bool:
    value = (meta.get("annotations") or {}).get(_DRY_RUN, "false")
    if value not in ("true", "false"):
        problem(child("metadata.annotations", _DRY_RUN), "must be `true` or `false`")
    return bool(value == "true")


# Whom it binds.


def scope_of(
    spec: Mapping[str, Any], namespace: str, root_namespace: str, problem: Problem
) -> Json:
    """`scope` and what goes with it: `selector` or `targets`."""
    labels = labels_of(spec, problem)
    references = _list(spec, "targetRefs", "spec", problem)
    if spec.get("targetRef"):
        references = [*references, spec["targetRef"]]
    if references:
        if labels:
            problem("spec.selector", "only one of selector and targetRefs may be set")
        targets = [
            _target(one, f"spec.targetRefs[{index}]", namespace, root_namespace, problem)
            for index, one in enumerate(references)
        ]
        return {"scope": "TARGETS", "targets": targets}
    if labels:
        made: Json = {"scope": "WORKLOAD_SELECTOR", "selector": labels}
        if namespace == root_namespace:
            made["anyNamespace"] = True
        return made
    return {"scope": "GLOBAL" if namespace == root_namespace else "NAMESPACE"}


def labels_of(spec: Mapping[str, Any], problem: Problem) -> dict[str, str]:
    """`spec.selector.matchLabels`; empty selects everything."""
    selector = spec.get("selector") or {}
    if not isinstance(selector, dict) or not selector.keys() <= {"matchLabels"}:
        problem("spec.selector", "expected matchLabels")
        return {}
    labels = selector.get("matchLabels") or {}
    if not isinstance(labels, dict) or not all(
        isinstance(value, str) and value for value in labels.values()
    ):
        problem("spec.selector.matchLabels", "expected texts")
        return {}
    return labels


_TARGETS: Final = {
    ("", "Service"),
    ("core", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
}


def _target(one: Any, path: str, namespace: str, root_namespace: str, problem: Problem) -> Json:
    if not isinstance(one, dict) or not one.keys() <= {"group", "kind", "name", "namespace"}:
        problem(path, "expected group, kind and name")
        return {"kind": "", "name": ""}
    kind, name = one.get("kind"), one.get("name")
    if (one.get("group") or "", kind) not in _TARGETS:
        problem(path, f"cannot target `{one.get('group') or ''}/{kind}`")
    if not isinstance(name, str) or not name:
        problem(f"{path}.name", "missing field `name`")
    if (one.get("namespace") or namespace) != namespace:
        problem(f"{path}.namespace", "another name space cannot be targeted")
    if kind == "GatewayClass" and namespace != root_namespace:
        problem(path, f"a GatewayClass is targeted from the name space {root_namespace} only")
    return {"kind": str(kind), "name": str(name)}


# Rules.


def _rule(rule: Any, path: str, namespace: str, problem: Problem) -> list[list[Json]]:
    if not isinstance(rule, dict) or not rule.keys() <= {"from", "to", "when"}:
        problem(path, "expected from, to and when")
        return []
    clauses: list[list[Json]] = []
    for key, inner, fields in (("from", "source", _SOURCE), ("to", "operation", _OPERATION)):
        entries = _list(rule, key, path, problem)
        if entries:
            clauses.append(
                [
                    _match(entry, inner, fields, f"{path}.{key}[{index}]", namespace, problem)
                    for index, entry in enumerate(entries)
                ]
            )
    for index, entry in enumerate(_list(rule, "when", path, problem)):
        clauses.append([_condition(entry, f"{path}.when[{index}]", namespace, problem)])
    return clauses


def _match(
    entry: Any,
    inner: str,
    fields: Mapping[str, tuple[str, Values]],
    path: str,
    namespace: str,
    problem: Problem,
) -> Json:
    given = entry.get(inner) if isinstance(entry, dict) else None
    if not isinstance(given, dict) or not given or entry.keys() != {inner}:
        problem(path, f"expected {inner} with at least one field")
        return {}
    made: Json = {}
    for key, values in given.items():
        where = f"{path}.{inner}.{key}"
        name, is_negative = _positive(key)
        if name not in fields:
            problem(where, f"unknown field `{key}`")
            continue
        field, read = fields[name]
        found = _read(values, where, read, namespace, problem)
        made[_negative(field) if is_negative else field] = found
    return made


def _positive(key: str) -> tuple[str, bool]:
    if key.startswith("not") and key[3:4].isupper():
        return key[3].lower() + key[4:], True
    return key, False


def _negative(field: str) -> str:
    return f"not{field[0].upper()}{field[1:]}"


def _read(values: Any, path: str, read: Values, namespace: str, problem: Problem) -> list[Any]:
    if not isinstance(values, list) or not values or len(values) > _MAX_VALUES:
        problem(path, "expected a list with at least one value")
        return []
    if not all(isinstance(value, str) and value for value in values):
        problem(path, "expected texts that are not empty")
        return []
    if read is _accounts:
        return [_account(value, namespace, path, problem) for value in values]
    return read(values, path, problem)


def _condition(entry: Any, path: str, namespace: str, problem: Problem) -> Json:
    """One of `when`: a match of its own."""
    if not isinstance(entry, dict) or not entry.keys() <= {"key", "values", "notValues"}:
        problem(path, "expected key, values and notValues")
        return {}
    key = str(entry.get("key") or "")
    given = {name: entry[name] for name in ("values", "notValues") if entry.get(name)}
    if not given:
        problem(path, "expected values or notValues")
        return {}
    keyed = _keyed(key)
    if keyed is not None:
        field, one = keyed
        for name, values in given.items():
            one[name] = _read(values, f"{path}.{name}", _texts, namespace, problem)
        return {field: [one]}
    known = _CONDITIONS.get(key)
    if known is None:
        problem(f"{path}.key", f"unknown key `{key}`")
        return {}
    field, read = known
    return {
        field if name == "values" else _negative(field): _read(
            values, f"{path}.{name}", read, namespace, problem
        )
        for name, values in given.items()
    }


_HEADER = re.compile(r"request\.headers\[([!#$%&'*+\-.^_`|~0-9A-Za-z]+)\]")
_CLAIM = re.compile(r"request\.auth\.claims((?:\[[^\[\]]+\])+)")


def _keyed(key: str) -> tuple[str, Json] | None:
    """Conditions about a header or a claim, which have a name of their own."""
    if found := _HEADER.fullmatch(key):
        return "headers", {"name": found[1].lower()}
    if found := _CLAIM.fullmatch(key):
        return "claims", {"path": found[1][1:-1].split("][")}
    if key == "request.auth.audiences":
        return "claims", {"path": ["aud"]}
    if key == "request.auth.presenter":
        return "claims", {"path": ["azp"]}
    return None


# Values.


def _texts(values: Sequence[str], path: str, problem: Problem) -> list[Json]:
    return [_text(value, path, problem) for value in values]


def _text(value: str, path: str, problem: Problem) -> Json:
    """`*` any, `*x` a suffix, `x*` a prefix, else exact."""
    if value == "*":
        return {"presence": {}}
    kind, text = "exact", value
    if value.startswith("*"):
        kind, text = "suffix", value[1:]
    elif value.endswith("*"):
        kind, text = "prefix", value[:-1]
    if "*" in text:
        problem(path, f"`{value}`: a * may stand at the beginning or at the end")
    return {kind: text}


def _principals(values: Sequence[str], path: str, problem: Problem) -> list[Json]:
    for value in values:
        if value.lstrip("*").startswith("spiffe:"):
            problem(path, f"`{value}`: write it without spiffe://, or it never matches")
    return _texts(values, path, problem)


def _paths(values: Sequence[str], path: str, problem: Problem) -> list[Json]:
    made = []
    for value in values:
        if "{" in value or "}" in value:
            made.append(_template(value, path, problem))
            continue
        if not value.startswith(("/", "*")):
            problem(path, f"`{value}`: a path begins with / or *")
        _check_path(value, path, problem)
        made.append(_text(value, path, problem))
    return made


def _check_path(value: str, path: str, problem: Problem) -> None:
    """As requests' paths are looked at: one that no request can have protects nothing."""
    try:
        unquote_to_bytes(value).decode()
        is_text = True
    except UnicodeDecodeError:
        is_text = False
    has_dots = not _DOTS.isdisjoint(_APART.split(_DOT.sub(".", value.strip("*"))))
    if not is_text or has_dots or _BAD_IN_PATH.search(value) or _BAD_ENCODED.search(value):
        problem(path, f"`{value}`: no request's path can match this")


def _template(value: str, path: str, problem: Problem) -> Json:
    segments = value.split("/")
    operators = [segment for segment in segments if segment in ("{*}", "{**}")]
    is_mixed = any(
        any(mark in segment for mark in "{}*") for segment in segments if segment not in operators
    )
    if not value.startswith("/") or is_mixed:
        problem(path, f"`{value}`: {{*}} and {{**}} stand for whole segments of a path")
    if "{**}" in operators[:-1]:
        problem(path, f"`{value}`: {{**}} must be the last operator")
    _check_path(value.replace("{*}", "x").replace("{**}", "x"), path, problem)
    return {"template": value}


def _accounts(values: Sequence[str], path: str, problem: Problem) -> list[Json]:
    raise AssertionError("read with the policy's own name space")


def _account(value: str, namespace: str, path: str, problem: Problem) -> Json:
    first, slash, second = value.partition("/")
    if "*" in value or "/" in second or (slash and not (first and second)):
        problem(path, f"`{value}`: expected `account` or `namespace/account`")
    return {"namespace": first if slash else namespace, "serviceAccount": second or first}


def _networks(values: Sequence[str], path: str, problem: Problem) -> list[str]:
    made = []
    for value in values:
        try:
            made.append(str(ipaddress.ip_network(value, strict=False)))
        except ValueError:
            problem(path, f"`{value}` is no address and no network")
    return made


def _ports(values: Sequence[str], path: str, problem: Problem) -> list[int]:
    made = []
    for value in values:
        if value.isascii() and value.isdigit() and 0 < int(value[:6]) < 65536:
            made.append(int(value))
        else:
            problem(path, f"`{value}` is no port")
    return made


_SOURCE: Final[Mapping[str, tuple[str, Values]]] = {
    "principals": ("principals", _principals),
    "requestPrincipals": ("requestPrincipals", _texts),
    "namespaces": ("namespaces", _texts),
    "serviceAccounts": ("serviceAccounts", _accounts),
    "ipBlocks": ("sourceIps", _networks),
    "remoteIpBlocks": ("remoteIps", _networks),
}
_OPERATION: Final[Mapping[str, tuple[str, Values]]] = {
    "hosts": ("hosts", _texts),
    "ports": ("destinationPorts", _ports),
    "methods": ("methods", _texts),
    "paths": ("paths", _paths),
}
_CONDITIONS: Final[Mapping[str, tuple[str, Values]]] = {
    "source.ip": ("sourceIps", _networks),
    "remote.ip": ("remoteIps", _networks),
    "source.namespace": ("namespaces", _texts),
    "source.principal": ("principals", _principals),
    "source.serviceAccount": ("serviceAccounts", _accounts),
    "request.auth.principal": ("requestPrincipals", _texts),
    "destination.ip": ("destinationIps", _networks),
    "destination.port": ("destinationPorts", _ports),
    "connection.sni": ("connectionSni", _texts),
}


def _list(node: Mapping[str, Any], key: str, path: str, problem: Problem) -> list[Any]:
    value = node.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        problem(f"{path}.{key}", "expected a list")
        return []
    return value
