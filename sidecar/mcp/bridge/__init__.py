"""What lets clients of one era of MCP use servers of the other one."""
