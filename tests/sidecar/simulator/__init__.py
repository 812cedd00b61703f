"""Tests of sidecar.simulator."""
