"""Policies of the document become payloads of the snapshot: as written, with files read in.

Keys keep the user's camelCase; a policy that is null is left out. A payload is shared with the
document, not copied, unless a file's text takes the place of its path.

Source: spec/config.md sections 0.4, 0.5 and 3.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from sidecar.config.certificates import backend_tls
from sidecar.config.run import Node, Run, items
from sidecar.config.snapshot import Json
from sidecar.config.targets import simple_target
from sidecar.config.validate import check_conditional


def policies(node: Node | None, path: str, run: Run) -> Json:
    """Kind to payload, checked. `node` is the value of a `policies` key, `path` its path."""
    if not node:
        return {}
    check_conditional(node, path, run)
    return {
        kind: _HANDLERS[kind](payload, f"{path}.{kind}", run) if kind in _HANDLERS else payload
        for kind, payload in node.items()
        if payload is not None
    }


def _with_policies(payload: Node, path: str, run: Run) -> Json:
    """A payload whose own `policies` say how to reach its backend."""
    if not payload.get("policies"):
        return dict(payload)
    return {**payload, "policies": policies(payload["policies"], f"{path}.policies", run)}


def _tunnel(payload: Node, path: str, run: Run) -> Json:
    simple_target(payload["proxy"], f"{path}.proxy", run)
    return _with_policies(payload, path, run)


def _mirror(payload: Node, path: str, run: Run) -> Json:
    simple_target(payload["backend"], f"{path}.backend", run)
    return dict(payload)


def _picker(payload: Node, path: str, run: Run) -> Json:
    picker = payload.get("endpointPicker")
    if picker is None:
        return dict(payload)
    made = _calling_out(picker, f"{path}.endpointPicker", run)
    return {**payload, "endpointPicker": made}


def _calling_out(payload: Node, path: str, run: Run) -> Json:
    """A policy with its destination among its own keys, or alternatives of it."""
    entries = payload.get("conditional")
    if entries is None:
        simple_target(payload, path, run)
        return _with_policies(payload, path, run)
    made = [
        _calling_out(entry, f"{path}.conditional[{index}]", run)
        for index, entry in enumerate(entries)
    ]
    return {**payload, "conditional": made}


def frontend_callout(payload: Node, path: str, run: Run) -> Json:
    """A policy of `frontendPolicies` whose destination stands among its own keys."""
    simple_target(payload, path, run)
    return _with_policies(payload, path, run)


def prompt_guard(payload: Node, path: str, run: Run) -> Json:
    """`promptGuard`, or `guardrails` of a model: destinations exist, and their files are read."""
    made: Json = dict(payload)
    for side in ("request", "response"):
        if payload.get(side):
            made[side] = [_guard(one, where, run) for where, one in items(payload, side, path)]
    return made


def _guard(entry: Node, path: str, run: Run) -> Json:
    target = (entry.get("webhook") or {}).get("target")
    if target is not None:
        where = f"{path}.webhook.target"
        name = target.get("backend", "").removeprefix("/")
        if name and not run.refers("backend", name):
            # Every request would be refused; elsewhere such a name costs only one route.
            run.problem(f"{where}.backend", f"unknown backend {name}")
        else:
            simple_target(target, where, run)
    _warn_keyless(entry.get("openAIModeration"), f"{path}.openAIModeration", run)
    made: Json = {}
    for key, value in entry.items():
        is_service = isinstance(value, dict) and value.get("policies")
        made[key] = _with_policies(value, f"{path}.{key}", run) if is_service else value
    return made


def _warn_keyless(moderation: Node | None, path: str, run: Run) -> None:
    """OpenAI wants a key, which is no part of the service's own fields."""
    if moderation is None or moderation.get("hostOverride"):
        return
    if not (moderation.get("policies") or {}).get("backendAuth"):
        run.warn(path, "OpenAI will refuse to judge without a key: policies.backendAuth has none")


def _ai(payload: Node, path: str, run: Run) -> Json:
    guards = payload.get("promptGuard")
    if guards is None:
        return dict(payload)
    return {**payload, "promptGuard": prompt_guard(guards, f"{path}.promptGuard", run)}


def _credential(payload: Any, path: str, run: Run) -> Json:
    """`backendAuth`, in the form of a mapping. Token endpoints have destinations of their own."""
    if isinstance(payload, str):
        return {payload: {}}
    made: Json = dict(payload)
    exchange = payload.get("oauthTokenExchange")
    if exchange is not None:
        made["oauthTokenExchange"] = _calling_out(exchange, f"{path}.oauthTokenExchange", run)
    access = payload.get("crossAppAccess")
    if access is not None:
        ends = {
            name: _calling_out(access[name], f"{path}.crossAppAccess.{name}", run)
            for name in ("identityProvider", "resourceAuthorizationServer")
        }
        made["crossAppAccess"] = {**access, **ends}
    return made


def _api_keys(payload: Node, path: str, run: Run) -> Json:
    """Only what tells a key goes further than here: the snapshot does not hold the key itself."""
    made = []
    for entry in payload["keys"]:
        kept = {name: value for name, value in entry.items() if name != "key"}
        key = entry.get("key")
        if isinstance(key, str) and key:
            kept["keyHash"] = f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
        elif key is not None:
            kept["key"] = key
        made.append(kept)
    return {**payload, "keys": made}


def _guardrails(payload: Node, path: str, run: Run) -> Json:
    """`mcpGuardrails`: each processor has its destination among its own keys."""
    made = [_calling_out(one, where, run) for where, one in items(payload, "processors", path)]
    return {**payload, "processors": made}


_HANDLERS: dict[str, Callable[[Any, str, Run], Json]] = {
    "ai": _ai,
    "apiKey": _api_keys,
    "backendAuth": _credential,
    "backendTLS": backend_tls,
    "backendTunnel": _tunnel,
    "extAuthz": _calling_out,
    "extProc": _calling_out,
    "inferenceRouting": _picker,
    "mcpGuardrails": _guardrails,
    "remoteRateLimit": _calling_out,
    "requestMirror": _mirror,
}
