"""Programs that a test runs but the project does not install."""

from __future__ import annotations

import os
import shutil

import pytest


def needs_program(name: str) -> pytest.MarkDecorator:
    """Skip the test where `name` is not installed; under CI let it run, and so fail.

    A machine that tests every change must not pass for lack of what it tests with.
    """
    is_missing = shutil.which(name) is None
    is_ci = bool(os.environ.get("CI"))
    return pytest.mark.skipif(is_missing and not is_ci, reason=f"{name} is not installed")
