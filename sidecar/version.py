"""The version of this package, as built."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed version; 0+unknown when run from a tree that was never installed."""
    try:
        return version("agentgateway-sidecar")
    except PackageNotFoundError:
        return "0+unknown"
