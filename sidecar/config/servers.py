"""The servers of an `mcp` backend as the snapshot has them; see config.mcp.

Source: spec/config.md sections 4.1 and 6.1; spec/mcp_a2a.md section 2.1.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.config.openapi import document_text
from sidecar.config.payloads import policies
from sidecar.config.run import Node, Run, items
from sidecar.config.snapshot import Json
from sidecar.config.targets import INVALID, host_target, named_target
from sidecar.config.validate import check_backend_scope
from sidecar.errors import ConfigError

BACKEND: Final = "/mcp"
"""Name of the backend that the `mcp` section makes."""
_KINDS: Final = ("mcp", "sse", "stdio", "openapi")
_PATHS: Final = {"mcp": "/mcp", "sse": "/sse", "openapi": ""}
_PORTS: Final = {"http": 80, "https": 443}
_MAX_TARGETS: Final = 128


def servers_target(node: Node, path: str, run: Run) -> Json:
    """Target of an `mcp` backend, or of the `mcp` section."""
    made: list[Json] = []
    seen: set[str] = set()
    for where, entry in items(node, "targets", path):
        if entry["name"] in seen:
            run.problem(f"{where}.name", f"another target is called {entry['name']} already")
        seen.add(entry["name"])
        made.append(_server(entry, where, run))
    if len(made) > _MAX_TARGETS:
        run.problem(f"{path}.targets", f"at most {_MAX_TARGETS}")
    kept = {key: node[key] for key in node if key not in ("targets", "gateways", "port")}
    kept.pop("policies", None)
    return {"mcp": {**{k: v for k, v in kept.items() if _is_said(k, v)}, "targets": made}}


def _is_said(key: str, value: Any) -> bool:
    """Not the keys of a reference around the backend (`weight`, `name`)."""
    return value is not None and key not in ("weight", "name")


def _server(entry: Node, path: str, run: Run) -> Json:
    kind = next(one for one in _KINDS if entry.get(one) is not None)
    given: Node = entry[kind]
    own = entry.get("policies") or {}
    if own and (kind == "stdio" or "backend" in given):
        what = "a stdio target" if kind == "stdio" else "a target that names a backend"
        run.problem(f"{path}.policies", f"{what} has no policies")
    check_backend_scope(own, f"{path}.policies", run, scope="inline")
    further = {key: entry[key] for key in entry if key not in (*_KINDS, "name", "policies")}
    made: Json = {
        **{key: value for key, value in further.items() if value is not None},
        "name": entry["name"],
        "kind": kind,
        "policies": policies(own, f"{path}.policies", run),
    }
    if kind == "stdio":
        return {**made, "stdio": dict(given)}
    if kind == "openapi":
        made["openapi"] = _document(given, f"{path}.openapi.schema", run)
    made |= _endpoint(given, kind, f"{path}.{kind}", run)
    if kind == "openapi" and "?" in str(made["path"]):
        run.problem(f"{path}.openapi", "a query is a part of no operation's path")
    return made


def _document(given: Node, path: str, run: Run) -> Json:
    """The document as JSON, or where it is; and what is made of it."""
    schema = given["schema"]
    made: Json = {"outputs": given.get("outputSchemas") is not False}
    if isinstance(schema, dict) and schema.keys() == {"url"}:
        return {**made, "url": schema["url"]}
    try:
        text = document_text(schema)
    except ConfigError as error:
        run.problem(path, error.message)
        text = "{}"
    digest = blake2b(text.encode(), digest_size=16).hexdigest()
    return {**made, "document": text, "digest": digest}


def _endpoint(given: Node, kind: str, path: str, run: Run) -> Json:
    default = _PATHS[kind]
    if "backend" in given:
        reference = named_target(given["backend"], f"{path}.backend", run)
        return {"reference": reference, "path": given.get("path") or default, "authority": ""}
    host = given["host"]
    try:
        if "://" in host:
            if given.get("port") is not None or given.get("path") is not None:
                raise ValueError("port and path are parts of the URI")
            return _of_uri(host, default)
        port = given.get("port")
        if port is None:
            raise ValueError("`port` is required beside a host that is no URI")
        return _of_parts("https" if port == 443 else "http", host, port, given.get("path"), default)
    except (ValueError, ConfigError) as error:
        message = error.message if isinstance(error, ConfigError) else str(error)
        run.problem(f"{path}.host", message)
        return {"reference": INVALID, "path": default, "authority": ""}


def _of_uri(uri: str, default: str) -> Json:
    parts = urlsplit(uri)
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        raise ValueError("expected a URI such as https://example.com/mcp")
    if parts.fragment:
        raise ValueError("a URI with a fragment names no endpoint")
    port = parts.port or _PORTS[parts.scheme]
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    scheme = "https" if port == 443 else parts.scheme
    return _of_parts(scheme, parts.hostname, port, path if parts.path != "" else None, default)


def _of_parts(scheme: str, host: str, port: int, path: str | None, default: str) -> Json:
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    reference = host_target(f"{name}:{port}")
    if scheme == "https":
        reference = {"host": {"address": host.strip("[]"), "port": port, "tls": True}}
    path = path if path is not None else default
    if path and not path.startswith("/"):
        path = f"/{path}"
    authority = name if port == _PORTS[scheme] else f"{name}:{port}"
    return {"reference": reference, "path": path, "authority": authority}
