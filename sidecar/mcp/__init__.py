"""MCP sessions, multiplexing and upstreams belong here."""
