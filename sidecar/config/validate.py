"""Checks that span several fields, which the schema cannot make.

Each appends to the run's problems and goes on, so that one run finds everything.

Source: spec/config.md sections 0.5, 0.6, 1.1, 1.3, 1.5 and 3.1.
"""

from __future__ import annotations

from sidecar.config.run import Node, Run, child, items

GATEWAY_KINDS = frozenset(
    {
        "oidc",
        "jwtAuth",
        "authorization",
        "extAuthz",
        "extProc",
        "cors",
        "transformations",
        "basicAuth",
        "apiKey",
    }
)
"""Policies that can run before a route is chosen."""

BACKEND_KINDS = frozenset(
    {
        "requestHeaderModifier",
        "responseHeaderModifier",
        "requestRedirect",
        "requestMirror",
        "mcpAuthorization",
        "mcpGuardrails",
        "a2a",
        "ai",
        "backendTLS",
        "backendTunnel",
        "backendAuth",
        "transformations",
        "authorization",
        "extAuthz",
    }
)
"""Policies of `policies[]` that act on a named backend."""

CONDITIONAL_KINDS = (
    "directResponse",
    "transformations",
    "extAuthz",
    "extProc",
    "localRateLimit",
    "remoteRateLimit",
)
MAX_CONDITIONAL = 64
LLM_PORT = 4000
"""Of `llm` where nothing else is said."""
MCP_PORT = 3000
"""Of `mcp` where nothing else is said."""


def check_conditional(policies: Node, path: str, run: Run) -> None:
    """Section 0.5: 1 to 64 entries, and one without a condition only at the end."""
    for kind in CONDITIONAL_KINDS:
        payload = policies.get(kind)
        if not isinstance(payload, dict) or "conditional" not in payload:
            continue
        where = f"{path}.{kind}.conditional"
        entries = payload["conditional"]
        if not entries:
            run.problem(where, "conditional policies must have at least one entry")
        if len(entries) > MAX_CONDITIONAL:
            run.problem(where, f"conditional policies may have at most {MAX_CONDITIONAL} entries")
        for index, entry in enumerate(entries[:-1]):
            if entry.get("condition") is None:
                run.problem(
                    f"{where}[{index}]", "conditional policy entries without condition must be last"
                )


def check_backend_scope(policies: Node, path: str, run: Run, *, scope: str) -> None:
    """Policies that need a service behind them. `scope` is "service", "inline" or "named"."""
    if scope == "service":
        return
    suffix = ", not named backends" if scope == "named" else ""
    for kind in ("inferenceRouting", "sessionAffinity"):
        if policies.get(kind) is not None:
            run.problem(
                f"{path}.{kind}", f"{kind} is only supported on service route backends{suffix}"
            )


_SIDECAR_PORTS = {"outboundPort": 15001, "inboundPort": 15006, "hbonePort": 15008, "socks5Port": 0}


def sidecar_ports(data: Node) -> list[tuple[str, int]]:
    """Key of `config.istio.sidecar` and port, of those that are listened on."""
    pod: Node | None = ((data.get("config") or {}).get("istio") or {}).get("sidecar")
    if pod is None:
        return []
    found = [(key, pod.get(key, default)) for key, default in _SIDECAR_PORTS.items()]
    return [(key, port) for key, port in found if port]


def check_ports(data: Node, run: Run) -> None:
    """Each port has one owner; at most one bind is the wildcard."""
    owners: dict[int, str] = {}

    def claim(port: int, owner: str, path: str) -> None:
        other = owners.setdefault(port, owner)
        if other != owner:
            run.problem(
                path,
                f"port {port} is configured by both {other} and {owner};"
                " binds, llm, and mcp must use unique ports",
            )

    wildcards = []
    for path, bind in items(data, "binds"):
        if is_wildcard(bind):
            wildcards.append(path)
        elif bind.get("port") is None:
            run.problem(path, "a bind without a port must set mode: internal")
        elif bind["port"] == 0:
            run.problem(f"{path}.port", "port 0 is only possible with mode: internal")
        else:
            claim(bind["port"], path, f"{path}.port")
    owned = [("llm", "llm.port", llm_port(data)), ("mcp", "mcp.port", mcp_port(data))]
    pod = "config.istio.sidecar"
    owned += [(pod, f"{pod}.{key}", port) for key, port in sidecar_ports(data)]
    for owner, path, port in owned:
        if port is not None:
            claim(port, owner, path)
    for path in wildcards[1:]:
        run.problem(
            path,
            "at most one wildcard bind (an internal bind without a numeric port) is allowed,"
            f" but found {len(wildcards)}: {', '.join(wildcards)}",
        )
    for name, gateway in (data.get("gateways") or {}).items():
        path = child("gateways", name)
        if not gateway.get("port"):
            run.problem(path, f"gateways.{name}.port is required")
        else:
            claim(gateway["port"], path, f"{path}.port")


def llm_port(data: Node) -> int | None:
    """The port that the `llm` section takes for itself, if it takes one."""
    llm = data.get("llm")
    if llm is None or llm.get("gateways"):
        return None
    has_own = llm.get("port") is not None or llm.get("tls") is not None
    if not has_own and "default" in (data.get("gateways") or {}):
        return None
    return int(llm.get("port") or LLM_PORT)


def mcp_port(data: Node) -> int | None:
    """The port that the `mcp` section takes for itself, if it takes one."""
    mcp = data.get("mcp")
    if mcp is None or mcp.get("gateways"):
        return None
    if mcp.get("port") is None and "default" in (data.get("gateways") or {}):
        return None
    return int(mcp.get("port") or MCP_PORT)


def is_wildcard(bind: Node) -> bool:
    """Whether a bind serves, in process only, every port that has no bind of its own."""
    return bind.get("mode") == "internal" and not bind.get("port")


def effective_protocol(listener: Node) -> str:
    """The protocol of a gateway or of a gateway's listener: HTTPS is the default with tls."""
    default = "HTTPS" if listener.get("tls") is not None else "HTTP"
    return str(listener.get("protocol") or default)


def check_tls_presence(protocol: str, listener: Node, path: str, run: Run, *, name: str) -> None:
    """HTTP and TCP cannot have `tls`, HTTPS must. `name` is how the message calls the listener."""
    has_tls = listener.get("tls") is not None
    if has_tls and protocol in ("HTTP", "TCP", "HBONE"):
        # Serving plaintext where TLS was configured would fail open.
        run.problem(f"{path}.tls", f"protocol {protocol} cannot set tls")
    if not has_tls and protocol == "HTTPS":
        run.problem(path, f"HTTPS {name} requires 'tls'")


def check_mix(protocols: list[str], port: object, path: str, run: Run, *, name: str) -> None:
    """Listeners of one port: all TLS or none; without TLS all HTTP or one TCP."""
    secure = {protocol in ("HTTPS", "TLS") for protocol in protocols}
    if len(secure) > 1:
        run.problem(path, f"{name} listeners on port {port} cannot mix TLS and plaintext")
    if "TCP" in protocols and "HTTP" in protocols:
        run.problem(path, f"{name} listeners on port {port} cannot mix HTTP and TCP protocols")
    if protocols.count("TCP") > 1:
        run.problem(path, f"{name} listeners on port {port}: nothing tells two TCP listeners apart")


HBONE_TUNNELS = frozenset(("hboneWaypoint", "hboneGateway"))
"""Values of `tunnelProtocol` that take HBONE."""


def check_tunnel(bind: Node, protocols: list[str], path: str, run: Run) -> None:
    """HBONE listeners stand on binds that take HBONE, and no others do but TCP and HTTP ones."""
    tunnel = bind.get("tunnelProtocol") or "direct"
    has_hbone = tunnel in HBONE_TUNNELS
    for index, protocol in enumerate(protocols):
        where = f"{path}.listeners[{index}].protocol"
        if protocol == "HBONE" and not has_hbone:
            run.problem(where, "HBONE needs tunnelProtocol hboneWaypoint or hboneGateway")
        elif has_hbone and protocol in ("HTTPS", "TLS"):
            run.problem(where, f"{protocol} cannot be served with tunnelProtocol {tunnel}")
        elif tunnel == "connect" and protocol in ("TCP", "TLS"):
            run.problem(where, f"{protocol} has no CONNECT: tunnelProtocol connect takes HTTP")
    if has_hbone and len(protocols) > 1:
        run.problem(f"{path}.listeners", f"tunnelProtocol {tunnel} takes one listener")
    if has_hbone and bind.get("mode") == "internal":
        run.problem(f"{path}.mode", f"tunnelProtocol {tunnel} needs a port")


def check_policy(entry: Node, path: str, run: Run) -> str | None:
    """One of `policies[]`. The kind of its policy, or None when that cannot be said."""
    target: Node = entry["target"]
    kinds: list[str] = [kind for kind, payload in entry["policy"].items() if payload is not None]
    gateway = target.get("gateway")
    if gateway and gateway.get("listenerName") is not None and gateway.get("port") is not None:
        run.problem(f"{path}.target.gateway", "only one of listenerName or port may be set")
    if target.get("backend") == "invalid":
        run.problem(f"{path}.target.backend", "'invalid' is not a backend")
    if len(kinds) != 1:
        run.problem(f"{path}.policy", "'policies' must contain exactly 1 policy")
        return None
    _check_phase(entry, kinds[0], path, run)
    _check_backend_target(entry, kinds[0], path, run)
    return kinds[0]


def _check_phase(entry: Node, kind: str, path: str, run: Run) -> None:
    if (entry.get("phase") or "route") != "gateway":
        return
    if kind not in GATEWAY_KINDS:
        run.problem(f"{path}.policy.{kind}", f"{kind} cannot run in the gateway phase")
    if entry["target"].get("gateway") is None:
        run.problem(f"{path}.phase", "the gateway phase needs a gateway as its target")


def _check_backend_target(entry: Node, kind: str, path: str, run: Run) -> None:
    target = entry["target"].get("backend")
    if target is None:
        return
    payload = entry["policy"][kind]
    if kind in ("transformations", "extAuthz") and "conditional" in payload:
        run.problem(
            f"{path}.policy.{kind}",
            f"conditional {kind} {'are' if kind.endswith('s') else 'is'}"
            " not supported on backend-targeted policies",
        )
    # A service may carry route policies (as a waypoint's does); a named backend has no requests
    # of its own for them, so they would be ignored without a word.
    if "backend" in target and kind not in BACKEND_KINDS:
        run.problem(
            f"{path}.policy.{kind}", f"{kind} is not supported on backend-targeted policies"
        )
