"""HBONE, the tunnel of Istio: a wire format without I/O and its asyncio edge; empty as yet."""
