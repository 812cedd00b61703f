"""A2A agent cards and calls belong here; empty as yet."""
