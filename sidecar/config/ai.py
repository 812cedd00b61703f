"""`ai` backends become targets of the snapshot: groups of providers, each with its policies.

A target is `{"ai": {"groups": [[provider, …], …]}}`; a provider has the keys of the document:
`name`, `provider`, `hostOverride`, `pathOverride`, `pathPrefix`, `tokenize`, `policies`.

Source: spec/config.md section 5.5; spec/llm.md sections 0 and 3.1.
"""

from __future__ import annotations

from sidecar.config.payloads import policies
from sidecar.config.run import Node, Run, items
from sidecar.config.servers import servers_target
from sidecar.config.snapshot import Json
from sidecar.config.targets import backend_target
from sidecar.config.validate import check_backend_scope


def target_of(entry: Node, path: str, run: Run) -> Json:
    """Target of an entry of `routes[].backends` or of the top-level `backends`, of any kind."""
    if "mcp" in entry:
        return servers_target(entry["mcp"], f"{path}.mcp", run)
    if "ai" not in entry:
        return backend_target(entry, path, run)
    return {"ai": {"groups": _groups(entry["ai"], f"{path}.ai", run)}}


def _groups(node: Node, path: str, run: Run) -> list[list[Json]]:
    if "groups" not in node:
        return [[_provider(node, path, run)]]
    groups: list[list[Json]] = []
    for where, group in items(node, "groups", path):
        made = [_provider(entry, inner, run) for inner, entry in items(group, "providers", where)]
        if not made:
            run.problem(f"{where}.providers", "a group needs a provider")
        groups.append(made)
    if not groups:
        run.problem(f"{path}.groups", "at least one group is needed")
    _check_names(groups, path, run)
    return groups


def _check_names(groups: list[list[Json]], path: str, run: Run) -> None:
    """What is known of a provider's health is kept under its name."""
    seen: set[object] = set()
    for number, group in enumerate(groups):
        for index, provider in enumerate(group):
            if provider["name"] in seen:
                where = f"{path}.groups[{number}].providers[{index}].name"
                run.problem(where, f"another provider is called {provider['name']} already")
            seen.add(provider["name"])


def warn_plain(node: Node, has_tls: bool, path: str, run: Run) -> None:
    """A host in the place of the provider's own is spoken to in plain text, as in the reference;
    with the port of HTTPS that is seldom meant."""
    if not has_tls and str(node.get("hostOverride") or "").endswith(":443"):
        run.warn(path, "spoken to in plain text despite port 443; backendTLS makes it TLS")


def _provider(node: Node, path: str, run: Run) -> Json:
    own = node.get("policies") or {}
    check_backend_scope(own, f"{path}.policies", run, scope="inline")
    warn_plain(node, "backendTLS" in own, f"{path}.hostOverride", run)
    return {**node, "policies": policies(own, f"{path}.policies", run)}
