"""Whether `mcp` backends could be made: the check before publication, without any connection.

A worker makes them anew from the snapshot; what it would refuse is refused here, with its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidecar.errors import ConfigError
from sidecar.gateway.credentials import credentials_of
from sidecar.gateway.mcp_backends import Parts, limits
from sidecar.gateway.mcp_credentials import without_passthrough
from sidecar.gateway.mcp_openapi import check_document
from sidecar.mcp.rules import Rules
from sidecar.net.tls_client import ClientTls
from sidecar.policies.base import Services
from sidecar.policies.mcp_guardrails import Config as GuardrailsConfig
from sidecar.policies.mcp_guardrails import McpGuardrails
from sidecar.policies.order import build
from sidecar.policies.schema import nested, parse

Data = Mapping[str, Any]


def check_target(target: Data, services: Services) -> None:
    """The servers of an `mcp` backend. Raises: ConfigError, its path below the backend."""
    Parts(target, {}, services).pins(services, lambda *_: None)
    limits(target, services, "")
    for index, entry in enumerate(target["targets"]):
        try:
            _check_policies(without_passthrough(entry["policies"]), services)
        except ConfigError as problem:
            raise nested(f"mcp.targets[{index}].policies", problem) from problem
        if entry["kind"] == "openapi":
            try:
                check_document(entry, services)
            except ConfigError as problem:
                raise nested(f"mcp.targets[{index}]", problem) from problem


def _check_policies(policies: Data, services: Services) -> None:
    build("backend", policies, services)
    if policies.get("backendTLS") is not None:
        ClientTls(policies["backendTLS"], "backend.invalid")
    if policies.get("backendAuth") is not None:
        try:
            credentials_of(policies["backendAuth"], services, host="backend.invalid")
        except ConfigError as problem:
            raise nested("backendAuth", problem) from problem


def check_guardrails(policy: Data, services: Services) -> None:
    """`mcpGuardrails`. Raises: ConfigError, its path below the key."""
    McpGuardrails(parse(GuardrailsConfig, policy), services)


def check_rules(policy: Data, services: Services) -> None:
    """`mcpAuthorization`. Raises: ConfigError, its path below the key."""
    Rules(policy["rules"], services.cel)
