"""Conversions between wire formats, one file a pair, no I/O."""
