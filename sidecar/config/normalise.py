"""The validated document becomes the snapshot: names, defaults, attachments, cross-field checks.

Source: spec/config.md sections 0.5 to 0.7, 1, 4.1 to 4.3 and 8.1.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, final

from sidecar.config.ai import target_of
from sidecar.config.attach import attached_routes, binds, gateways, route_groups
from sidecar.config.discovery import services, workloads
from sidecar.config.frontend import frontend_policies
from sidecar.config.llm import llm_gateway
from sidecar.config.mcp import mcp_gateway
from sidecar.config.mesh import check_tunnels, identity, revocations
from sidecar.config.payloads import policies
from sidecar.config.policy_files import authorizations, check_selectors
from sidecar.config.pruning import Pruning
from sidecar.config.routes import RouteMaker
from sidecar.config.run import Known, Node, ReadFile, Run, items, read_path
from sidecar.config.scalars import duration_seconds
from sidecar.config.snapshot import Json, Snapshot
from sidecar.config.static import static_config
from sidecar.config.svid import endpoint_of
from sidecar.config.targeting import check_targets
from sidecar.config.ui import ui_gateway
from sidecar.config.validate import check_backend_scope, check_policy, check_ports
from sidecar.errors import ConfigError

_REFRESH: Final = "1h"


@final
class Normaliser:
    """Normalises one document after the other, and makes again only the routes that changed.

    Belongs to the control process. `env` is the process environment unless another is given.
    """

    __slots__ = ("_env", "_fetched", "_maker", "_read_file")

    def __init__(
        self,
        *,
        read_file: ReadFile = read_path,
        env: Mapping[str, str] | None = None,
        fetched: Mapping[str, str] | None = None,
    ) -> None:
        """`fetched`: URL to the text that was there last, of those that were fetched already."""
        self._fetched = {} if fetched is None else fetched
        self._read_file = read_file
        self._env = os.environ if env is None else env
        self._maker = RouteMaker()

    def normalise(
        self, data: Node, problems: list[ConfigError], pruning: Pruning | None = None
    ) -> Snapshot:
        """Turn `data` into a snapshot, appending every problem found.

        `data`: plain values, checked by the schema, canonical camelCase keys, defaults not filled.
        The snapshot shares parts of it, so it must not change any more. With problems the snapshot
        must not be used: parts of it are stand-ins, and what one resource would replace stands
        beside it, to be checked too. `pruning`: what earlier stages left out of `data`.
        """
        with _without_collection():
            return self._normalised(data, problems, pruning)

    def _normalised(
        self, data: Node, problems: list[ConfigError], pruning: Pruning | None
    ) -> Snapshot:
        config = static_config(data, self._env, problems)
        known = Known.of(data, pruning, has_workload_api=bool(endpoint_of(config)))
        run = Run(problems, known, self._read_file)
        self._maker.begin()
        run.make("static", "config", {"config": config}, "config")
        identity(data, run)
        revocations(config, run)
        check_tunnels(config, run)
        authorizations(data, run)
        _catalog(data, run, self._fetched)
        frontend_policies(data, self._env, run)
        check_ports(data, run)
        places = gateways(data, run)
        binds(data, self._maker, run)
        attached_routes(data, places, self._maker, run)
        route_groups(data, self._maker, run)
        llm_gateway(data, places, run)
        mcp_gateway(data, places, run)
        ui_gateway(data, places, run)
        _backends(data, run)
        _policies(data, run)
        services(data, run)
        workloads(data, run)
        check_selectors(run)
        check_targets(data, run)
        if problems or pruning is not None:
            _restore(run)
        return Snapshot(run.resources, tuple(run.warnings), run.places)


def normalise(
    data: dict[str, Any],
    problems: list[ConfigError],
    *,
    read_file: ReadFile = read_path,
    env: Mapping[str, str] | None = None,
) -> Snapshot:
    """Normalise one document: see `Normaliser.normalise`."""
    return Normaliser(read_file=read_file, env=env).normalise(data, problems)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep the collector from walking 100,000 new objects that all stay: twice as quick."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _restore(run: Run) -> None:
    """Put what was replaced under keys of its own: the fault may be that there are two."""
    for number, (resource, place) in enumerate(run.shadowed):
        key = f"{resource.kind}/{resource.name}#{number}"
        run.resources[key] = resource
        run.places[key] = place


def _catalog(data: Node, run: Run, fetched: Mapping[str, str]) -> None:
    """`config.modelCatalog`, its files read: a changed file is a changed resource. What is at a URL
    comes later."""
    sources: list[Json] = []
    for path, entry in items(data.get("config") or {}, "modelCatalog", "config"):
        if "file" in entry:
            text = run.file_text(entry["file"], f"{path}.file")
            sources.append({"inline": text or "{}"})
        elif "url" in entry:
            refresh = duration_seconds(entry.get("refresh") or _REFRESH)
            inline = fetched.get(entry["url"], "{}")
            sources.append({"url": entry["url"], "refresh": refresh, "inline": inline})
        else:
            sources.append({"inline": entry["inline"]})
    if sources:
        run.make("catalog", "prices", {"sources": sources}, "config")


def _backends(data: Node, run: Run) -> None:
    for path, entry in items(data, "backends"):
        own = entry.get("policies") or {}
        check_backend_scope(own, f"{path}.policies", run, scope="named")
        backend: Json = {
            "target": target_of(entry, path, run),
            "policies": policies(own, f"{path}.policies", run),
        }
        run.make("backend", entry["name"], backend, path)


def _policies(data: Node, run: Run) -> None:
    for index, (path, entry) in enumerate(items(data, "policies")):
        kind = check_policy(entry, path, run)
        if kind is None:
            continue
        given = entry.get("name")
        name = f"{given['namespace']}/{given['name']}" if given else f"policy/{index}"
        policy: Json = {
            "target": entry["target"],
            "phase": entry.get("phase") or "route",
            "kind": kind,
            "policy": policies(entry["policy"], f"{path}.policy", run)[kind],
        }
        run.make("policy", name, policy, path)
