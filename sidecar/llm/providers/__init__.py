"""LLM providers, one file each: host, path, headers, formats, credentials; no I/O."""
