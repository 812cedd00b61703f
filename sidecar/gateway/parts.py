"""What only some configurations need, and when it is imported.

A gateway without models, MCP or OAuth starts sooner and takes less memory when it does not load
them. But an import stops a worker for 10 to 200 ms, and no request is to wait for that. Hence:

    L1  What every gateway needs is imported at the top of files, before processes are forked.
    L2  The rest is imported by the function that makes it of a configuration (a policy:
        `policies.order.KINDS`; backends: `gateway.on_demand`), never by one that serves requests.
    L3  The supervisor checks a configuration before it forks, which makes each of its policies and
        credentials; then `bring` imports what else workers will compile with. So all processes
        have it, and share its pages as long as nobody writes to them (see `Supervisor.run`).
    L4  After a reload, control imports what is new when it checks. A worker imports it before it
        compiles, in a thread, so that requests pass meanwhile (`bring_more`).

tests/integration/test_imports.py holds the gateway to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Final

from sidecar.config.snapshot import Resource
from sidecar.policies.order import MODULES

IN_NO_PART: Final = ("authorization/", "identity/", "runtime/", "static/", "workload/")
"""Beginnings of keys of resources that name no part. (`config` has defaults of all.)"""
_Parts = tuple[tuple[tuple[bytes, ...], tuple[str, ...]], ...]
"""What of an encoded resource tells of a part (a key, or the kind of a policy), and its modules.
Where a name happens to be the same, an import too many is all that it costs."""

_PARTS: Final[_Parts] = (
    (
        (b'"ai"', b'"llm"'),
        (
            "genai_prices.data",
            "sidecar.gateway.llm_attempts",
            "sidecar.gateway.llm_backends",
            "sidecar.gateway.llm_prices",
        ),
    ),
    (
        (b'"mcp"',),
        (
            "sidecar.gateway.mcp_backends",
            "sidecar.gateway.mcp_facts",
            "sidecar.gateway.mcp_worker",
        ),
    ),
    # Also in what a service says of its ports.
    ((b"a2a",), ("sidecar.gateway.a2a_backends", "sidecar.gateway.a2a_facts")),
    ((b'"inferenceRouting"',), ("sidecar.gateway.inference",)),
    ((b'"backendAuth"',), ("sidecar.gateway.authenticated", "sidecar.gateway.exchanged")),
    ((b'"agent_core"',), ("sidecar.gateway.authenticated", "sidecar.llm.credentials.aws")),
)
_OF_CONFIG: Final[_Parts] = (
    ((b'"redis":"',), ("redis.asyncio.retry", "redis.backoff", "redis.exceptions")),
    ((b'"postgres',), ("sidecar.state.request_log_postgres",)),
)
"""The same of the section `config`, which has defaults of all parts above."""


_POLICIES: Final[_Parts] = tuple(
    ((b'"%b"' % key.encode(),), (f"sidecar.policies.{name}",)) for key, name in MODULES.items()
)


def bring(resources: Iterable[Resource]) -> None:
    """Import what workers will need for these, to be called before they are forked."""
    texts: dict[bool, list[bytes]] = {True: [], False: []}
    for one in resources:
        texts[one.kind == "static"].append(one.encoded)
    _bring(_OF_CONFIG, texts[True])
    _bring(_PARTS, texts[False])


def bring_more(encoded: Iterable[bytes]) -> None:
    """Import what these resources need and this process has not got, to be called in a thread."""
    _bring((*_PARTS, *_POLICIES), encoded)


def _bring(parts: _Parts, encoded: Iterable[bytes]) -> None:
    text = b"".join(encoded)
    for marks, modules in parts:
        if any(mark in text for mark in marks):
            for module in modules:
                import_module(module)
