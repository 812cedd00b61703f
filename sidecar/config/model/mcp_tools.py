"""Which tools of an MCP server are offered, under what names, and whether they may change.

Extensions: the reference has none of these keys.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from sidecar.config.model.base import Choice, Model

ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-]{1,128}$")]
"""As MCP recommends; what a client sees is checked, what a server calls its tools is not."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal."""


class ToolOverride(Model):
    """What clients are told of one tool, and what they may not decide themselves."""

    title: str | None = None
    """Instead of the server's title. Default: the server's."""
    description: str | None = None
    """Instead of the server's description. Default: the server's."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments with fixed values: put into each call, unknown to clients."""
    hide: list[str] = Field(default_factory=list)
    """Arguments that clients neither see nor may set."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        both = sorted(set(self.hide) & self.arguments.keys())
        if both:
            raise PydanticCustomError(
                "invalid", "{reason}", {"reason": f"`{both[0]}` has a fixed value: hidden already"}
            )
        return self


class ToolControl(Model):
    """Tools of one server. Names and patterns are the server's own; `*` and `?` stand for any."""

    allow: list[str] | None = None
    """Patterns of the tools that are offered. Default: all."""
    deny: list[str] = Field(default_factory=list)
    """Patterns of those that are not, whatever `allow` says."""
    rename: dict[str, ToolName] = Field(default_factory=dict)
    """The server's name → the name that clients see, before any prefix."""
    override: dict[str, ToolOverride] = Field(default_factory=dict)
    """The server's name → what is told of it instead."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        new = list(self.rename.values())
        twice = next((name for name in new if new.count(name) > 1), None)
        if twice is not None:
            raise PydanticCustomError(
                "invalid", "{reason}", {"reason": f"two tools cannot both become `{twice}`"}
            )
        return self


class ToolPins(Choice):
    """Definitions of tools that have been approved; a tool that changed is kept from clients."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("file", "definitions"))

    file: str | None = None
    """A file of approved definitions. What it does not name is approved when it is first seen, and
    added to it."""
    definitions: dict[str, Digest] | None = None
    """The server's name of a tool → SHA-256 of its definition. What it does not name is not
    approved."""
    on_change: Literal["hide", "refuse"] = "hide"
    """Calls of a tool that is not approved: as if there were none (hide), or refused with the
    reason (refuse). Lists leave it out either way. Default hide."""
