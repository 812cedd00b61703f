"""Wire formats of LLM APIs, one file each: reading and editing bodies, no conversion, no I/O."""
