"""The `llm` section becomes what it stands for: a port, a route for all paths, and its models.

The models are the backend resource `llm:router`, its target `{"llm": {"models": […],
"virtualModels": […]}}`. A model has the keys of the document with references to providers
followed, and beside them `key`, its name in logs and metrics, and `policies`, those of its
connection; the fields of the `ai` policy that it sets are under `policies.ai`.

Source: spec/config.md sections 1.9, 5.2 and 5.3; spec/llm.md sections 0, 1.4, 3.4 and 3.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sidecar.config.ai import warn_plain
from sidecar.config.attach import GATEWAY, Places, own_port, places_of
from sidecar.config.internal import internal_route
from sidecar.config.payloads import policies, prompt_guard
from sidecar.config.routes import DEFAULT_MATCH, Place
from sidecar.config.run import Node, Run, items
from sidecar.config.snapshot import Json
from sidecar.config.validate import llm_port

ROUTER: Final = "llm:router"
_ROUTE: Final = "llm:request"

_CONNECTION: Final[Mapping[str, str]] = {
    "backendTLS": "backendTLS",
    "auth": "backendAuth",
    "health": "health",
    "backendTunnel": "backendTunnel",
    "requestHeaders": "requestHeaderModifier",
    "responseHeaders": "responseHeaderModifier",
}
"""Keys of a model → the policies of its backend."""
_AI: Final[Mapping[str, str]] = {
    "defaults": "defaults",
    "overrides": "overrides",
    "transformation": "transformations",
    "finalTransformation": "finalTransformations",
    "guardrails": "promptGuard",
    "promptCaching": "promptCaching",
}
"""Keys of a model → the fields of its `ai` policy."""
_MERGED: Final = ("defaults", "overrides", "transformation", "requestHeaders", "responseHeaders")
"""Of a provider's defaults, what joins with the model's own; the rest gives way to it."""
_KEPT: Final = (
    *("id", "name", "visibility", "matches", "authorization"),
    *("passthrough", "provider"),
)
_OF_ROUTE: Final = frozenset(
    ("oidc", "jwtAuth", "authorization", "extAuthz", "extProc", "cors", "transformations")
) | {"basicAuth", "apiKey", "localRateLimit", "remoteRateLimit", "budgets"}


def llm_gateway(data: Node, places: Places, run: Run) -> None:
    """Everything of the section, if there is one."""
    llm = data.get("llm")
    if llm is None:
        return
    if llm.get("gateways") and (llm.get("port") is not None or llm.get("tls") is not None):
        run.problem("llm.gateways", "llm.gateways cannot be used with llm.port or llm.tls")
        return
    port = llm_port(data)
    if port is not None:
        found = [own_port(port, "llm", llm, "llm", run)]
    else:
        found = places_of(llm.get("gateways") or GATEWAY, places, "llm.gateways", run)
    target: Json = {
        "models": _models(llm, run),
        "virtualModels": _virtual_models(llm, run),
    }
    for name in ("failover", "streamIdleTimeout", "lossy"):
        if llm.get(name) is not None:
            target[name] = llm[name]
    run.make("backend", ROUTER, {"target": {"llm": target}, "policies": {}}, "llm")
    first = ""
    for place in found:
        first = _route(place, llm, first, run)


def _route(place: Place, llm: Node, first: str, run: Run) -> str:
    given = llm.get("policies") or {}
    on_route = {key: value for key, value in given.items() if key in _OF_ROUTE and value != []}
    made = policies(on_route, "llm.policies", run)
    backend = (ROUTER, {"ref": ROUTER})
    key = internal_route(place, _ROUTE, made, backend, [DEFAULT_MATCH], "llm", run, first)
    return first or key


# --- models -----------------------------------------------------------------------------------


def _models(llm: Node, run: Run) -> list[Json]:
    providers = _providers(llm, run)
    guards = (llm.get("policies") or {}).get("guardrails")
    if guards is not None:
        guards = prompt_guard(guards, "llm.policies.guardrails", run)
    ids: set[str] = set()
    made: list[Json] = []
    for index, (path, entry) in enumerate(items(llm, "models", "llm")):
        given = entry.get("id")
        if given is not None and given in ids:
            run.problem(f"{path}.id", f"another model has the id {given}")
        ids.add(given or "")
        _check_name(entry["name"], f"{path}.name", run)
        whole = _resolved(entry, providers, path, run)
        if whole.get("guardrails") is not None:
            whole["guardrails"] = prompt_guard(whole["guardrails"], f"{path}.guardrails", run)
        if guards is not None:
            whole["guardrails"] = _joined_guards(guards, whole.get("guardrails"))
        key = given or f"{entry['name']}:{index}"
        made.append(_model(whole, f"llm:model:{key}", path, run))
    return made


def _check_name(name: str, path: str, run: Run) -> None:
    if name.count("*") > 1 or "*" in name[1:-1]:
        run.problem(path, f"`{name}`: one `*` at most, and only at the start or the end")
    if not name:
        run.problem(path, "a name is needed")


def _providers(llm: Node, run: Run) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for path, entry in items(llm, "providers", "llm"):
        if entry["name"] in found:
            run.problem(f"{path}.name", f"another provider is called {entry['name']}")
        if _reference(entry["provider"]) is not None:
            run.problem(f"{path}.provider", "a provider cannot refer to another")
        found[entry["name"]] = entry
    return found


def _reference(provider: object) -> str | None:
    return provider.get("reference") if isinstance(provider, dict) else None


def _resolved(entry: Node, providers: Mapping[str, Node], path: str, run: Run) -> dict[str, Any]:
    """A model with what it inherits from the provider that it refers to."""
    whole = dict(entry)
    name = _reference(entry["provider"])
    if name is None:
        return whole
    of = providers.get(name)
    if of is None:
        run.problem(f"{path}.provider.reference", f"unknown provider {name}")
        return whole
    for key in (entry.get("params") or {}).keys() - {"model"}:
        run.problem(f"{path}.params.{key}", "a model that refers to a provider sets only `model`")
    whole["provider"] = of["provider"]
    whole["params"] = {**(of.get("params") or {}), **(entry.get("params") or {})}
    for key, value in (of.get("defaults") or {}).items():
        own = whole.get(key)
        if own is None:
            whole[key] = value
        elif key in _MERGED:
            whole[key] = _merged(value, own)
    return whole


def _merged(below: Node, own: Node) -> dict[str, Any]:
    """Maps by key, the model's over the provider's; `set` and `add` of headers likewise."""
    merged = {**below, **own}
    for key in below.keys() & own.keys():
        if isinstance(below[key], dict) and isinstance(own[key], dict) and key in ("set", "add"):
            merged[key] = {**below[key], **own[key]}
    return merged


def _joined_guards(first: Node, then: Node | None) -> dict[str, Any]:
    """All models' guards run before a model's own."""
    if then is None:
        return dict(first)
    joined = {**first, **then}
    for side in ("request", "response"):
        joined[side] = [*(first.get(side) or []), *(then.get(side) or [])]
    if "Enabled" in (first.get("streaming"), then.get("streaming")):
        joined["streaming"] = "Enabled"
    return joined


def _model(whole: Node, key: str, path: str, run: Run) -> Json:
    given = {theirs: whole[ours] for ours, theirs in _CONNECTION.items() if whole.get(ours)}
    if whole.get("backendTLS") is not None:
        given["backendTLS"] = whole["backendTLS"]
    made = policies(given, path, run)
    ai = {theirs: whole[ours] for ours, theirs in _AI.items() if whole.get(ours) is not None}
    if ai:
        made["ai"] = ai
    warn_plain(whole.get("params") or {}, "backendTLS" in given, f"{path}.params.hostOverride", run)
    kept = {name: whole[name] for name in _KEPT if whole.get(name) is not None}
    return {**kept, "key": key, "params": whole.get("params") or {}, "policies": made}


# --- virtual models ---------------------------------------------------------------------------


def _virtual_models(llm: Node, run: Run) -> list[Json]:
    names: set[str] = set()
    made: list[Json] = []
    for index, (path, entry) in enumerate(items(llm, "virtualModels", "llm")):
        name = entry["name"]
        if name in names:
            run.problem(f"{path}.name", f"another virtual model is called {name}")
        names.add(name)
        routing = entry["routing"]
        if len(routing) != 1:
            where = f"{path}.routing"
            run.problem(where, "exactly one of weighted, failover, conditional must be set")
            continue
        kind, value = next(iter(routing.items()))
        _check_targets(kind, value["targets"], f"{path}.routing.{kind}.targets", llm, run)
        made.append({**entry, "key": f"llm:virtual-model:{name}:{index}"})
    return made


def _check_targets(kind: str, targets: list[Any], path: str, llm: Node, run: Run) -> None:
    if not targets:
        run.problem(path, "at least one target is needed")
    names = [entry["name"] for _, entry in items(llm, "models", "llm")]
    for index, target in enumerate(targets):
        if not any(_fits(name, target["model"]) for name in names):
            run.problem(f"{path}[{index}].model", f"unknown model {target['model']}")
    if kind == "conditional":
        for index, target in enumerate(targets[:-1]):
            if target.get("when") is None:
                run.problem(f"{path}[{index}]", "the target without `when` must be the last")
    if kind == "weighted" and targets and not sum(one.get("weight", 1) for one in targets):
        run.problem(path, "at least one target needs a weight above 0")


def _fits(pattern: str, model: str) -> bool:
    if pattern.startswith("*"):
        return model.endswith(pattern[1:])
    if pattern.endswith("*"):
        return model.startswith(pattern[:-1])
    return pattern == model
