"""`config.istio.policyFiles`: Istio's own policies, of files beside the configuration.

Source: Istio's reference of the group security.istio.io; spec istio section 4.

Each document of a file is an object, or a List of them. Everything else is refused: an object that
is passed over may be one that was meant to protect something.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sidecar.config.authorization_policy import authorization
from sidecar.config.peer_authentication import (
    PeerAuthentication,
    converted,
    peer_authentication,
)
from sidecar.config.run import Node, Run, items
from sidecar.config.snapshot import Json
from sidecar.config.yaml import Document, YamlError

ROOT_NAMESPACE: Final = "istio-system"
_GROUP: Final = "security.istio.io"
_VERSIONS: Final = (f"{_GROUP}/v1", f"{_GROUP}/v1beta1")
_BEGIN: Final = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_ELSEWHERE: Final = {
    "RequestAuthentication": "use a jwtAuth policy of a route or a listener",
}
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_MAX_OBJECTS: Final = 100_000

_Object = tuple[str, str, dict[str, Any]]
"""Path for messages, path in the configuration, the object."""


def authorizations(data: Node, run: Run) -> None:
    """Every policy of the files becomes a resource `authorization/<name space>/<name>`."""
    istio = (data.get("config") or {}).get("istio") or {}
    root = istio.get("rootNamespace") or ROOT_NAMESPACE
    peers: list[PeerAuthentication] = []
    for file, path, one in _objects(istio, run):
        faults = _Faults(run, file, path)
        meta = _meta(one, faults)
        if meta is None:
            continue
        spec = one.get("spec")
        if spec is not None and not isinstance(spec, dict):
            faults("spec", "expected a map")
            continue
        if one["kind"] == "PeerAuthentication":
            peers.append(peer_authentication(meta, spec or {}, faults))
        else:
            _make(authorization(meta, spec or {}, root, faults), path, faults, run)
    for made in converted(peers, root):
        name = str(made["name"])
        _make(made, "config.istio.policyFiles", _Faults(run, name, "config.istio.policyFiles"), run)


def check_selectors(run: Run) -> None:
    """Warn of policies that select none of the file's workloads: the others' labels are not known,
    and they must list the policy."""
    workloads = [one.data for one in run.resources.values() if one.kind == "workload"]
    for key, one in run.resources.items():
        selector = one.data.get("selector") if one.kind == "authorization" else None
        if isinstance(selector, dict) and not any(
            _is_selected(workload, one.name, selector) for workload in workloads
        ):
            run.warn(
                run.places[key],
                f"policy `{one.name}` selects no workload of the file; others must list it in"
                " authorizationPolicies",
            )


def _is_selected(workload: Json, name: str, selector: dict[str, str]) -> bool:
    labels, listed = workload.get("labels") or {}, workload.get("authorization_policies") or ()
    assert isinstance(labels, dict)
    assert isinstance(listed, (list, tuple))
    return name in listed or selector.items() <= labels.items()


def _make(made: Json, path: str, faults: _Faults, run: Run) -> None:
    name = f"{made['namespace']}/{made['name']}"
    if f"authorization/{name}" in run.resources:
        faults("metadata.name", f"there is another policy `{name}`")
        return
    run.make("authorization", name, made, path)


class _Faults:
    """Notes problems of one object."""

    def __init__(self, run: Run, file: str, path: str) -> None:
        self._run, self._file, self._path = run, file, path

    def __call__(self, where: str, message: str) -> None:
        """At a path in the object."""
        text = f"{self._file}: {where}: {message}" if where else f"{self._file}: {message}"
        self._run.problem(self._path, text)


def _meta(one: dict[str, Any], faults: _Faults) -> dict[str, Any] | None:
    meta = one.get("metadata")
    name = meta.get("name") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(name, str) or not _NAME.fullmatch(name):
        faults("metadata.name", "expected a name in lower case")
        return None
    namespace = meta.get("namespace") or "default"
    if not isinstance(namespace, str) or not _NAME.fullmatch(namespace):
        faults("metadata.namespace", "expected a name in lower case")
        return None
    for key in one.keys() - {"apiVersion", "kind", "metadata", "spec", "status"}:
        faults(str(key), f"unknown field `{key}`")
    annotations = meta.get("annotations")
    return {
        "name": name,
        "namespace": namespace,
        "annotations": annotations if isinstance(annotations, dict) else {},
    }


def _objects(istio: Node, run: Run) -> Iterator[_Object]:
    """What the files hold, file by file in the order of their names."""
    count = 0
    for path, pattern in items(istio, "policyFiles", "config.istio"):
        files = matching(pattern)
        if not files and Path(pattern).parent.is_dir():
            run.warn(path, f"`{pattern}` matches no file")
        elif not files:
            run.problem(path, f"`{Path(pattern).parent}` is no directory")
        for file in files:
            text = run.file_text(file, path)
            for one in _documents(text or "", file, path, run):
                count += 1
                if count > _MAX_OBJECTS:
                    run.problem(path, f"more than {_MAX_OBJECTS} objects")
                    return
                yield one


def matching(pattern: str) -> list[str]:
    """The files that match now; the pattern itself when it has no wildcard."""
    directory, name = Path(pattern).parent, Path(pattern).name
    if not any(mark in name for mark in "*?["):
        return [pattern]
    return sorted(str(file) for file in directory.glob(name) if file.is_file())


def _documents(text: str, file: str, path: str, run: Run) -> Iterator[_Object]:
    line = 0
    for part in _BEGIN.split(text):
        place = f"{file}:{line + 1}"
        line += part.count("\n")
        try:
            data = Document(part).data
        except YamlError as error:
            for fault in error.faults:
                at = line - part.count("\n") + (fault.place.line if fault.place else 0) + 1
                run.problem(path, f"{file}:{at}: {fault.message}")
            continue
        if data is None:  # comments, or nothing
            continue
        yield from _listed(data, place, path, run)


def _listed(data: Any, place: str, path: str, run: Run) -> Iterator[_Object]:
    if not isinstance(data, dict):
        run.problem(path, f"{place}: expected an object")
        return
    kind, version = data.get("kind"), data.get("apiVersion")
    if kind == "List" and version == "v1":
        for one in data.get("items") or ():
            yield from _listed(one, place, path, run)
        return
    if kind in ("AuthorizationPolicy", "PeerAuthentication") and version in _VERSIONS:
        yield place, path, data
        return
    hint = _ELSEWHERE.get(str(kind), "only AuthorizationPolicy and PeerAuthentication are read")
    run.problem(path, f"{place}: `{version}` `{kind}`: {hint}")
