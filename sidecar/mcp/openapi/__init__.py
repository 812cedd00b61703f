"""HTTP APIs as MCP servers: operations of OpenAPI documents become tools. No I/O."""
