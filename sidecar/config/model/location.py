"""Where a credential is read from, or written to.

Source: spec config section 0.3.
"""

from __future__ import annotations

from typing import ClassVar

from sidecar.config.model.base import Choice, Model
from sidecar.config.scalars import Expression, HeaderName, HeaderValue


class HeaderLocation(Model):
    """A header."""

    name: HeaderName
    """The header's name."""
    prefix: HeaderValue | None = None
    """Text before the credential, compared without regard to letter case; none when absent."""


class NamedLocation(Model):
    """A query parameter or a cookie."""

    name: str
    """Its name."""


class AuthorizationLocation(Choice):
    """One place of a request. Default: header `authorization`, prefix `Bearer `."""

    CHOICES: ClassVar[frozenset[str]] = frozenset(
        ("header", "query_parameter", "cookie", "expression")
    )

    header: HeaderLocation | None = None
    """A header, removed once the credential is valid."""
    query_parameter: NamedLocation | None = None
    """A query parameter, removed likewise."""
    cookie: NamedLocation | None = None
    """A cookie, removed likewise."""
    expression: Expression | None = None
    """CEL that gives the credential; nothing is removed. Only for reading."""
