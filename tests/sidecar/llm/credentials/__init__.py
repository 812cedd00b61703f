"""Tests of credentials for providers."""
