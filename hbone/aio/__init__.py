"""HBONE on asyncio: TLS 1.3 with SPIFFE identities, server, client, pool; see docs/hbone.md."""

from hbone.aio.credentials import Credentials
from hbone.aio.dial import Prepare
from hbone.aio.peer import Peer
from hbone.aio.pool import Pool, PoolKey
from hbone.aio.relay import relay
from hbone.aio.revocation import RevocationList
from hbone.aio.server import Connect, Server
from hbone.aio.settings import Settings
from hbone.aio.tcp import TcpStream, dial_tcp
from hbone.aio.tunnel import ByteStream, Tunnel

__all__ = [
    "ByteStream",
    "Connect",
    "Credentials",
    "Peer",
    "Pool",
    "PoolKey",
    "Prepare",
    "RevocationList",
    "Server",
    "Settings",
    "TcpStream",
    "Tunnel",
    "dial_tcp",
    "relay",
]
