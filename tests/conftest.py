"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# Timing never decides a test, and one that fails today fails tomorrow; `make soak` looks further.
settings.register_profile("always", deadline=None, derandomize=True)
settings.load_profile("always")
