"""Rules of `mcpAuthorization`: those of `authorization`, with two keys of our own.

Source: spec config section 6.4.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Discriminator, Field

from sidecar.config.model.base import Choice, Model, branch, by_shape
from sidecar.config.scalars import Expression


class McpRule(Choice):
    """One rule over a tool, prompt, resource or task."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("allow", "deny", "require"))

    allow: Expression | None = None
    """One that is true lets the call pass, once no other kind objects."""
    deny: Expression | None = None
    """One that is true refuses the call."""
    require: Expression | None = None
    """One that is not true refuses the call."""
    required_scope: str = Field(default="", pattern=r"^[\x21\x23-\x5b\x5d-\x7e ]*$")
    """Extension: scopes, separated by spaces, that the caller's token must have for `allow` and
    `require` to hold, and with which `deny` does not. A call that only lacks them is answered
    with 403 `insufficient_scope`, and its tool stays in lists. Default none."""
    reads_arguments: bool = False
    """Extension: whether the rule may read `mcp.tool.arguments`. In lists, which have none, such
    a rule hides only what no arguments could save. Default false."""


class McpRuleSet(Model):
    """Rules over what MCP messages name; text alone is an `allow` rule. Rules of all levels add
    up."""

    rules: list[
        Annotated[
            Annotated[McpRule, branch("map")] | Annotated[Expression, branch("text")],
            Discriminator(by_shape),
        ]
    ]
    """In any order; no rules at all accept."""
