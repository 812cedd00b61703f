"""Simulators of model providers and of an MCP server: real wire formats, answers made up."""
