"""The reference's own files, which are not part of the project: tests without them are skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
FIXTURES = Path(os.environ.get("AGENTGATEWAY_FIXTURES") or SHARED / "fixtures")
CONFIGS = sorted((FIXTURES / "configs").glob("*.yaml"))

needs_fixtures = pytest.mark.skipif(
    not CONFIGS,
    reason="no reference configurations in shared/fixtures/configs beside the project's folder: "
    "set AGENTGATEWAY_FIXTURES to the folder that holds configs/",
)


class EveryVariable(dict[str, str]):
    """An environment in which every variable is `x`."""

    def get(self, key: str, default: object = None) -> str:
        return "x"
