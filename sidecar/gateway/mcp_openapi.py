"""Documents of `openapi` targets: checked before publication, and had by workers.

Source: spec/config.md sections 6.6 and 10.1; spec/mcp_a2a.md section 2.12.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from sidecar.config.openapi import MAX_BYTES, parse_document
from sidecar.errors import BodyTooLarge, ConfigError, UpstreamError
from sidecar.gateway.mcp_worker import McpWorker
from sidecar.http.coding import CodingError, codings_of, decoded
from sidecar.http.headers import Headers
from sidecar.http.message import Response
from sidecar.mcp.openapi.toolbox import Toolbox, toolbox
from sidecar.mcp.upstream.openapi_source import FETCH_SECONDS, Fetch, Source
from sidecar.policies.base import Services
from sidecar.policies.callouts import Callout, unprompted
from sidecar.policies.remote_keys import reachable
from sidecar.telemetry.clock import Clock

Data = Mapping[str, Any]
_HEADERS: Final = (
    (b"accept", b"application/json, application/yaml, */*;q=0.5"),
    (b"accept-encoding", b"identity"),
)


def check_document(entry: Data, services: Services) -> None:
    """The document of a target, or where it is. Raises: ConfigError, its path below the target."""
    given = entry["openapi"]
    try:
        if "url" in given:
            reachable(given["url"], services.callouts, "Http")
        else:
            _made(given["document"], _prefix(entry), given["outputs"])
    except ConfigError as problem:
        raise _of_schema(problem) from problem


def source_of(entry: Data, services: Services, worker: McpWorker) -> Source:
    """Where the tools of a target come from. Raises: ConfigError, its path below the target."""
    given, prefix = entry["openapi"], _prefix(entry)
    has_outputs: bool = given["outputs"]
    what = given.get("url") or given["digest"]
    text = f"{what}\n{prefix}\n{has_outputs}"
    key = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
    if "url" not in given:
        make = partial(_made, given["document"], prefix, has_outputs)
        return worker.apis.fixed(key, make)
    try:
        target, callout = reachable(given["url"], services.callouts, "Http")
    except ConfigError as problem:
        raise _of_schema(problem) from problem

    def make_fetched(raw: bytes) -> Toolbox:
        return _made(raw, prefix, has_outputs)

    clock = services.clock
    fetch = _fetch(callout, target, clock)
    # A query may hold a key, which is not for logs.
    shown = given["url"].partition("?")[0]
    return worker.apis.remote(key, shown, fetch, make_fetched, clock, worker.later)


def _of_schema(problem: ConfigError) -> ConfigError:
    path = f"openapi.schema.{problem.path}" if problem.path else "openapi.schema"
    return ConfigError(path, problem.message)


def _made(text: str | bytes, prefix: str | None, has_outputs: bool) -> Toolbox:
    return toolbox(parse_document(text), prefix, has_outputs=has_outputs)


def _prefix(entry: Data) -> str | None:
    """What stands before paths; None when the document says it."""
    return entry["path"] if entry["path"].strip("/") else None


def _fetch(callout: Callout, target: str, clock: Clock) -> Fetch:
    async def fetch() -> tuple[Headers, bytes]:
        request = unprompted("GET", target, _HEADERS, clock)
        response = await callout.send(request, FETCH_SECONDS, MAX_BYTES)
        if response.status != 200:
            text = f"status {response.status}"
            if 300 <= response.status < 400:
                text += ", and redirects are not followed"
            raise UpstreamError(502, "UpstreamFailure", text)
        return response.headers, _plain(response)

    return fetch


def _plain(response: Response) -> bytes:
    raw = response.body.read_nowait() or b""
    try:
        return decoded(raw, codings_of(response.headers.get(b"content-encoding")), MAX_BYTES)
    except (CodingError, BodyTooLarge) as error:
        raise UpstreamError(502, "UpstreamFailure", str(error)) from error
