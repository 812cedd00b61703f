"""HBONE, the tunnel of Istio: `wire` without I/O, and `aio`, its asyncio edge."""
