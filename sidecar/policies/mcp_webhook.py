"""Guards of MCP messages over plain HTTP: a JSON document asks, a JSON document answers.

An extension, for those who would rather write a web handler than serve gRPC; what it can say is
what `ext_mcp` can. The documents are in docs/mcp-guardrails.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import orjson

from sidecar.http.headers import Field
from sidecar.jsonrpc import Json, is_deep
from sidecar.policies.ext_mcp import (
    CODES,
    BadVerdictError,
    Verdict,
    checked_metadata,
    refusal,
    set_fields,
    unreadable,
)

Phase = Literal["request", "response"]
_SAID_OF: Final[Mapping[str, frozenset[str]]] = {
    "pass": frozenset(),
    "mutate": frozenset(("params", "result")),
    "reject": frozenset(("code", "reason", "error")),
}
_TOLD_CHARS: Final = 200
_MORE: Final = frozenset(("headers", "metadata"))
"""What an answer about a request may say beside."""


def question(
    phase: Phase,
    targets: tuple[str, ...],
    method: str,
    metadata: Mapping[str, Any],
    payload: Json,
    headers: Iterable[Field] = (),
) -> bytes:
    """What is asked. `payload`: `params` or `result`."""
    told: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1"), value.decode("utf-8", "replace")
        told[key] = f"{told[key]}, {text}" if key in told else text
    made: Json = {
        "phase": phase,
        "method": method,
        "target": targets[0] if len(targets) == 1 else None,
        "targets": targets,
        "metadata": metadata,
        "params" if phase == "request" else "result": payload,
    }
    if phase == "request":
        made["headers"] = told
    return orjson.dumps(made)


def verdict(phase: Phase, raw: bytes) -> Verdict:
    """Read an answer. Raises: UpstreamError, BadVerdictError."""
    if is_deep(raw):
        raise unreadable("is nested too deep")
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise unreadable("is not JSON") from error
    action = answer.get("action") if isinstance(answer, dict) else None
    if not isinstance(action, str) or action not in _SAID_OF:
        raise unreadable("has no action: pass, mutate or reject")
    is_request = phase == "request"
    known = {"action", *_SAID_OF[action], *(_MORE if is_request else ())}
    known.discard("result" if is_request else "params")
    if strange := answer.keys() - known:
        # `id` and `method` too: they are not a guard's to change.
        told = ", ".join(sorted(map(ascii, strange)))[:_TOLD_CHARS]
        raise BadVerdictError(f"it says {told} to {action}")
    metadata = answer.get("metadata", {})
    if not isinstance(metadata, dict):
        raise BadVerdictError("its metadata is no object")
    checked_metadata(metadata)
    added = set_fields(answer.get("headers", {}))
    if action == "reject":
        return Verdict(refusal=_refused(answer), metadata=metadata)
    changed = None
    if action == "mutate":
        changed = answer.get("params" if is_request else "result")
        if not isinstance(changed, dict):
            raise BadVerdictError("what it wants instead is not an object")
    return Verdict(changed, None, metadata, added)


def _refused(answer: Json) -> Any:
    code = answer.get("code", "PERMISSION_DENIED")
    if not isinstance(code, str) or code not in CODES:
        raise BadVerdictError(f"its code is none of {', '.join(CODES)}")
    return refusal(code, answer.get("reason"), answer.get("error"))
