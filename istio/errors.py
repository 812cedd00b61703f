"""What goes wrong between the mesh and the gateway: one root, texts without secrets.

Source: house style, section Errors.
"""

from __future__ import annotations

from typing import final


class IstioError(Exception):
    """Root of every error this package raises on purpose."""


class XdsError(IstioError):
    """Discovery: the control plane cannot be reached, or does not speak the protocol."""


@final
class ResourceError(XdsError):
    """One resource that cannot be honoured. Its text is the reason in the refusal (NACK)."""


@final
class CaError(IstioError):
    """No certificate could be had. The text names the likely cause."""
