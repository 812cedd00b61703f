"""Where traffic goes: a backend reference of the document becomes a target of the snapshot.

A target is one of `{"host": {"address", "port"}}` (an URL reference with `https` adds
`"tls": true`), `{"unix": path}`, `{"ref": name}`, `{"service": {"name", "port"}}`,
`{"dynamic": {"target": CEL or None}}`, `{"internal": "forward" or "/path"}`, `{"group": name}`,
`{"invalid": true}`. A host that is Bedrock AgentCore's has `"agent_core": {"region", "target"}`
beside it: where calls go, whatever their path.

Source: spec/config.md sections 0.2 (Target), 0.4 and 4.1 to 4.8.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from sidecar.config.run import Node, Run
from sidecar.config.scalars import HostPort, UnixPath, parse_target, parse_url_target
from sidecar.config.snapshot import Json
from sidecar.errors import ConfigError

INVALID: Json = {"invalid": True}
"""Answers 500 when a request chooses it, as in the reference: a warning, not a problem."""

_ARN = re.compile(r"arn:(aws[a-z-]*):bedrock-agentcore:([a-z0-9-]+):[0-9]+:runtime/[\w.-]+", re.A)
_SUFFIXES = {"aws-cn": "amazonaws.com.cn"}

# What the kernel's sockaddr_un holds beside its final NUL.
_MAX_SOCKET_PATH_BYTES = 107


def _target(parsed: HostPort | UnixPath) -> Json:
    if isinstance(parsed, HostPort):
        return {"host": {"address": parsed.host, "port": parsed.port}}
    if not parsed.path.startswith("/") or len(parsed.path.encode()) > _MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"invalid unix socket path `{parsed.path}`: absolute, at most 107 bytes")
    return {"unix": parsed.path}


def host_target(text: str) -> Json:
    """Target of `host:port`, `[v6]:port` or `unix:/path`. Raises ConfigError."""
    try:
        return _target(parse_target(text))
    except ValueError as error:
        raise ConfigError("", str(error)) from error


def url_target(text: str) -> Json:
    """Target of a policy's `host`: as `host_target`, or `http(s)://host[:port]` without a path.

    Raises ConfigError.
    """
    try:
        parsed, has_tls = parse_url_target(text)
        target = _target(parsed)
    except ValueError as error:
        raise ConfigError("", str(error)) from error
    if has_tls and isinstance(parsed, HostPort):
        return {"host": {"address": parsed.host, "port": parsed.port, "tls": True}}
    return target


def named_target(name: str, path: str, run: Run) -> Json:
    """Target of a reference into `backends`. As in the reference, `/name` means `name`."""
    plain = name.removeprefix("/")
    if run.refers("backend", plain):
        return {"ref": plain}
    run.warn(path, f"unknown backend {name}: requests that choose it are answered with 500")
    return INVALID


def service_target(service: Node, path: str, run: Run) -> Json:
    """Target of `{name: namespace/hostname, port}`."""
    name: str = service["name"]
    namespace, _, hostname = name.partition("/")
    if not namespace or not hostname or "/" in hostname:
        run.problem(f"{path}.name", f"invalid service name `{name}`: namespace/hostname")
        return INVALID
    if not run.refers("service", name):
        run.warn(path, f"unknown service {name}: requests that choose it are answered with 500")
    return {"service": {"name": name, "port": service["port"]}}


def _host_or_problem(text: str, path: str, run: Run, *, is_url_allowed: bool) -> Json:
    try:
        return url_target(text) if is_url_allowed else host_target(text)
    except ConfigError as error:
        run.problem(path, error.message)
        return INVALID


def _internal_target(value: str, path: str, run: Run) -> Json:
    if value != "forward" and not value.startswith("/"):
        run.problem(path, f"invalid internal backend `{value}`: forward or an absolute path")
    return {"internal": value}


def _group_target(name: str, path: str, run: Run) -> Json:
    if not run.refers("group", name):
        run.warn(path, f"unknown route group {name}: requests that choose it are answered with 404")
    return {"group": name}


def simple_target(entry: Node, path: str, run: Run) -> Json:
    """Target of a policy's backend reference: `host`, `service` or `backend`."""
    if "host" in entry:
        return _host_or_problem(entry["host"], f"{path}.host", run, is_url_allowed=True)
    if "service" in entry:
        return service_target(entry["service"], f"{path}.service", run)
    if "backend" in entry:
        return named_target(entry["backend"], f"{path}.backend", run)
    run.problem(path, "needs one of host, service or backend")
    return INVALID


def _dynamic(given: Node) -> Json:
    made: Json = {"target": given.get("target")}
    return {**made, "link_local": True} if given.get("allowLinkLocal") else made


def reference_target(entry: Node) -> Json:
    """Target of a reference inside a policy's payload, which normalisation has checked.

    For whoever compiles the policy; a name that does not exist stays a `ref`. Raises ConfigError.
    """
    if "host" in entry:
        return url_target(entry["host"])
    if "backend" in entry:
        return {"ref": entry["backend"].removeprefix("/")}
    if "service" in entry:
        return {"service": {"name": entry["service"]["name"], "port": entry["service"]["port"]}}
    raise ConfigError("", "needs one of host, service or backend")


def _agent_core(given: Node, path: str, run: Run) -> Json:
    """The address of a runtime of Bedrock AgentCore, and the one place of it that is called."""
    arn, qualifier = given["agentRuntimeArn"], given.get("qualifier")
    found = _ARN.fullmatch(arn)
    if found is None:
        text = "expected arn:aws:bedrock-agentcore:REGION:ACCOUNT:runtime/ID"
        run.problem(f"{path}.agentRuntimeArn", text)
        return INVALID
    partition, region = found.groups()
    name = f"bedrock-agentcore.{region}.{_SUFFIXES.get(partition, 'amazonaws.com')}"
    query = f"?qualifier={quote(qualifier, safe='')}" if qualifier else ""
    return {
        "host": {"address": name, "port": 443, "tls": True},
        "agent_core": {
            "region": region,
            "target": f"/runtimes/{quote(arn, safe='')}/invocations{query}",
        },
    }


def backend_target(entry: Node, path: str, run: Run) -> Json:
    """Target of an entry of `routes[].backends` or of the top-level `backends`."""
    if "host" in entry:
        return _host_or_problem(entry["host"], f"{path}.host", run, is_url_allowed=False)
    if "dynamic" in entry:
        return {"dynamic": _dynamic(entry["dynamic"] or {})}
    if "internal" in entry:
        return _internal_target(entry["internal"], f"{path}.internal", run)
    if "routeGroup" in entry:
        return _group_target(entry["routeGroup"], f"{path}.routeGroup", run)
    if "invalid" in entry:
        return INVALID
    if "aws" in entry:
        return _agent_core(entry["aws"]["agentCore"], f"{path}.aws.agentCore", run)
    return simple_target(entry, path, run)


def backend_name(entry: Node, route_key: str, index: int) -> str:
    """The name a route's backend is known by in metrics and targeted policies.

    An inline backend is named after its route; what has a name of its own keeps it.
    """
    if "backend" in entry:
        return str(entry["backend"])
    if "service" in entry:
        return f"service/{entry['service']['name']}:{entry['service']['port']}"
    if "routeGroup" in entry:
        return f"routegroup/{entry['routeGroup']}"
    return f"/{route_key}/backend{index}"
