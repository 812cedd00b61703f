"""Builds TLS ClientHello messages, so that tests can say exactly what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def block(data: bytes, width: int) -> bytes:
    """Data behind its length in `width` octets."""
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, body: bytes) -> bytes:
    """One extension."""
    return kind.to_bytes(2, "big") + block(body, 2)


def server_name(name: bytes) -> bytes:
    """A server_name extension with one host name."""
    return extension(0, block(b"\x00" + block(name, 2), 2))


def hello_message(extensions: bytes | None, *, legacy: bytes = b"\x03\x03") -> bytes:
    """The handshake message, header included; None leaves the extensions out altogether."""
    body = legacy + bytes(range(32)) + block(b"\x07" * 32, 1) + block(b"\x13\x01\x13\x02", 2)
    body += block(b"\x00", 1)
    if extensions is not None:
        body += block(extensions, 2)
    return b"\x01" + block(body, 3)


def records(message: bytes, sizes: Iterable[int] = ()) -> bytes:
    """The message in handshake records: some of given sizes, then one with the rest."""
    out, at = b"", 0
    for size in sizes:
        out += b"\x16\x03\x01" + block(message[at : at + size], 2)
        at += size
    if at < len(message):
        out += b"\x16\x03\x01" + block(message[at:], 2)
    return out


def client_hello(
    name: str | None, alpn: Sequence[bytes] = (), *, versions: bool = True, padding: int = 0
) -> bytes:
    """A plausible ClientHello in one record."""
    extensions = b""
    if padding:
        extensions += extension(21, bytes(padding))
    if name is not None:
        extensions += server_name(name.encode())
    if alpn:
        extensions += extension(16, block(b"".join(block(item, 1) for item in alpn), 2))
    if versions:
        extensions += extension(43, block(b"\x03\x04\x03\x03", 1))
    return records(hello_message(extensions))
