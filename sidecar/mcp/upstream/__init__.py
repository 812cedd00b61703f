"""MCP servers behind the gateway, one file a transport."""
