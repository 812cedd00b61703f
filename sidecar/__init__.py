"""The gateway: from configuration and bytes to requests served."""
