"""MCP sessions, multiplexing and upstreams belong here; empty as yet."""
