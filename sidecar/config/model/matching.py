"""What a route matches by.

Source: spec config sections 1.2 and 2.2.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, StringConstraints

from sidecar.config.model.base import Choice, Model, branch, by_shape
from sidecar.config.scalars import TOKEN_PATTERN, HeaderOrPseudo


class ValueChoice(Choice):
    """A value, or a pattern of the whole value."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("exact", "regex"))

    exact: str | None = None
    """The value."""
    regex: str | None = None
    """A regular expression (RE2) of the whole value."""


ValueMatch = Annotated[
    Annotated[ValueChoice, branch("map")] | Annotated[Literal["invalid"], branch("text")],
    Discriminator(by_shape),
]
"""`invalid` matches nothing."""


class PathChoice(Choice):
    """One way to match a path."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(("exact", "path_prefix", "regex"))

    exact: str | None = None
    """The whole path."""
    path_prefix: str | None = None
    """Whole segments at the beginning."""
    regex: str | None = None
    """A regular expression (RE2) of the whole path."""


PathMatch = Annotated[
    Annotated[PathChoice, branch("map")] | Annotated[Literal["invalid"], branch("text")],
    Discriminator(by_shape),
]
"""`invalid` matches nothing."""


class HeaderMatch(Model):
    """A header and its value."""

    name: HeaderOrPseudo
    """The header."""
    value: ValueMatch
    """What it must be."""


class QueryMatch(Model):
    """A query parameter and its value."""

    name: str
    """The parameter."""
    value: ValueMatch
    """What it must be."""


class RouteMatch(Model):
    """Conditions that hold together."""

    headers: list[HeaderMatch] = Field(default_factory=list)
    """Default: any."""
    path: PathMatch | None = None
    """Default `{pathPrefix: /}`."""
    method: Annotated[str, StringConstraints(pattern=TOKEN_PATTERN)] = ""
    """Default: any."""
    query: list[QueryMatch] = Field(default_factory=list)
    """Default: any."""
