"""Agent-to-agent traffic. The reference has `a2a: {}`; all keys are ours.

Source: spec config section 4.7; spec mcp_a2a section 3.
"""

from __future__ import annotations

from typing import Literal

from sidecar.config.model.base import Model
from sidecar.config.scalars import Secret, Uint


class A2aSigning(Model):
    """A key for cards that were rewritten."""

    key: Secret
    """The private key, PEM without a passphrase."""
    key_id: str
    """Its name in the JWKS of who verifies."""
    algorithm: Literal["ES256", "ES384", "RS256", "PS256", "EdDSA"] = "ES256"
    """Of JWS; it must fit the key. Default ES256."""
    jwks_url: str | None = None
    """Where verifiers find the public key."""


class A2aCard(Model):
    """How agent cards are rewritten."""

    public_url: str | None = None
    """Where clients find the root of this gateway, as `https://agents.example.com`. Default: what
    the request says (Host, X-Forwarded-Proto)."""
    grpc_authority: str | None = None
    """`host:port` for gRPC interfaces. Default: that of the URL."""
    trust_forwarded_host: bool = False
    """Whether X-Forwarded-Host stands for Host. Default false."""
    max_bytes: Uint | None = None
    """Size of a card. Default 1 MiB; a larger one is an error."""
    cache_control: str | None = None
    """Sent when the agent sends none. Default `no-cache`: kept, but asked for each time."""
    signing: A2aSigning | None = None
    """Signs cards anew. Default: rewritten cards have no signature."""


class A2aPush(Model):
    """Where agents may be told to send push notifications."""

    mode: Literal["check", "allow", "deny"] = "check"
    """Public addresses only (default), anything, or nothing."""
    allowed_hosts: list[str] | None = None
    """Names that are trusted unseen; `*.example.com` for all below it."""
    allowed_networks: list[str] | None = None
    """Networks (`10.1.0.0/16`) that are trusted although they are not public."""
    schemes: list[Literal["http", "https"]] | None = None
    """Default both."""


class A2aPolicy(Model):
    """Agent-to-agent traffic."""

    card: A2aCard | None = None
    """Agent cards."""
    push_notifications: A2aPush | None = None
    """Webhooks of clients."""
    versions: list[str] | None = None
    """Protocol versions that are served. Default 0.3 and 1.0."""
