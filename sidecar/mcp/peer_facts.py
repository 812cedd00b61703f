"""What policies learnt of a client's request, for the worker that sends its message on. No I/O.

Source: `peers`; sidecar.http.message.Request (`state`), cel.variables (roots of expressions).

A server over HTTP that another worker holds has policies of its own there: expressions, credentials
and limits that read who asks. They find what the asking worker's policies found. What has no form
in JSON stays behind: it is of the connection that the request came on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from sidecar.http.message import Connection, Request, TlsInfo

_PLAIN: Final = ("path", "apiKey.key", "jwt.rawToken")
_ROOTS: Final = (
    *("proxy", "jwt", "apiKey", "basicAuth", "mcp", "backend"),
    *("extauthz", "extproc", "mcpGuardrails", "metadata"),
)
_SENSITIVE: Final = "sensitive_headers"
_IN_MESSAGE: Final = ("arguments", "result", "error")
"""Of `mcp.tool`: as long as the message itself, which goes along."""
_MAX_BYTES: Final = 256 * 1024


def facts_of(request: Request) -> dict[str, Any]:
    """What goes along with a message."""
    state = request.state
    found: dict[str, Any] = {name: state[name] for name in _PLAIN if name in state}
    for root in _ROOTS:
        value = state.get(root)
        if value is not None:
            told = _told(root, value)
            if told is not None:
                found[root] = told
    sensitive = state.get(_SENSITIVE)
    if isinstance(sensitive, set | frozenset):
        found[_SENSITIVE] = sorted(name.decode("latin-1") for name in sensitive)
    return found


def _told(root: str, value: Any) -> Any:
    """The value as JSON has it; None for what it cannot have."""
    make = getattr(value, "cel", None)
    if callable(make):
        value = dict(make(None))
    elif isinstance(value, Mapping):
        value = dict(value)
    if root == "mcp" and isinstance(value, dict) and isinstance(tool := value.get("tool"), Mapping):
        kept = {key: one for key, one in tool.items() if key not in _IN_MESSAGE}
        value = {**value, "tool": kept}
    try:
        raw = orjson.dumps(value)
    except (orjson.JSONEncodeError, TypeError):
        return None
    return orjson.loads(raw) if len(raw) <= _MAX_BYTES else None


def put_facts(request: Request, told: Mapping[str, Any]) -> None:
    """The same in the request that stands for the client's."""
    for name, value in told.items():
        if name == _SENSITIVE:
            value = frozenset(one.encode("latin-1") for one in value)
        request.state[name] = value


def connection_told(connection: Connection) -> list[Any]:
    """Where the client's connection came from and went to, and who it proved to be."""
    tls = connection.tls
    proof = None
    if tls is not None:
        der = tls.peer_certificate
        proof = [tls.sni, tls.alpn, tls.version, None if der is None else der.hex()]
    return [
        connection.peer_host,
        connection.peer_port,
        connection.local_host,
        connection.local_port,
        connection.raw_peer_host,
        connection.raw_peer_port,
        proof,
    ]


def connection_of(told: list[Any]) -> Connection:
    """The connection that `connection_told` tells of."""
    *ends, proof = told
    made = Connection(*ends)
    if proof is not None:
        sni, alpn, version, der = proof
        made.tls = TlsInfo(sni, alpn, version, None if der is None else bytes.fromhex(der))
    return made
