"""Memory under streams: much that passes through, and clients that stop reading."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from tests.bench.peers import Peer
from tests.bench.usage import cpu_seconds, memory

_REQUEST = b"GET /huge HTTP/1.1\r\nhost: bench\r\n\r\n"
_QUIET_SECONDS = 1.0
_PATIENCE_SECONDS = 60.0
_SAMPLE_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Streamed:
    """One large response: how fast, what it cost, how far RSS rose (KiB)."""

    octets: int
    seconds: float
    cpu_seconds: float
    growth_kib: int


def _rss(peer: Peer) -> int:
    return sum(memory(pid).rss for pid in peer.load_pids)


def _connect(peer: Peer, *, receive_bytes: int = 0) -> socket.socket:
    client = socket.socket()
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(30)
    client.connect(("127.0.0.1", peer.plain))
    client.sendall(_REQUEST)
    return client


def stream_through(peer: Peer, octets: int) -> Streamed:
    """Read so much of an endless response as fast as it comes."""
    with _connect(peer) as warm:
        warm.recv(65536)
    before = highest = _rss(peer)
    cpu = cpu_seconds(peer.load_pids)
    began = time.monotonic()
    buffer = bytearray(2**20)
    read = sampled = 0
    with _connect(peer) as client:
        while read < octets:
            got = client.recv_into(buffer)
            if not got:
                raise ConnectionError(f"the stream ended after {read} octets")
            read += got
            if read - sampled >= _SAMPLE_BYTES:
                sampled = read
                highest = max(highest, _rss(peer))
    spent = time.monotonic() - began
    return Streamed(read, spent, cpu_seconds(peer.load_pids) - cpu, highest - before)


def stalled_growth_kib(peer: Peer, clients: int) -> float:
    """How far RSS rises for each client that asks for much and then reads nothing."""
    with _connect(peer) as warm:
        warm.recv(65536)
    _wait_quiet(peer)
    before = _rss(peer)
    opened = [_connect(peer, receive_bytes=4096) for _ in range(clients)]
    try:
        _wait_quiet(peer)
        return (_rss(peer) - before) / clients
    finally:
        for client in opened:
            client.close()


def _wait_quiet(peer: Peer) -> None:
    """Until the proxy has used less than one tick a tenth of a second, for a whole second."""
    until = time.monotonic() + _PATIENCE_SECONDS
    quiet_since = time.monotonic()
    used = cpu_seconds(peer.load_pids)
    while time.monotonic() - quiet_since < _QUIET_SECONDS:
        time.sleep(0.1)  # the condition is that nothing happens for a while
        now = cpu_seconds(peer.load_pids)
        if now - used > 0.011:
            quiet_since = time.monotonic()
        used = now
        if time.monotonic() > until:
            raise TimeoutError("the proxy never came to rest")
