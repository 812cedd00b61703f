"""Tests of `sidecar.llm.guard`."""
