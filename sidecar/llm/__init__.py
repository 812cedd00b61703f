"""Chat formats, conversions and providers belong here; empty as yet."""
