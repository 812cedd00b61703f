"""The PROXY protocol, versions 1 and 2: who the client of the proxy before us is.

Source: the PROXY protocol, HAProxy Technologies, 2020-03-05, sections 2.1 and 2.2; spec config
section 1.10.

`parse` gets everything that has come so far, each time from the first octet. It decides as early as
it can, so that a client that speaks first and briefly is not waited for.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import final

from sidecar.errors import SidecarError

Address = tuple[str, int]
"""An IP address as text, and a port."""

MAX_V1_BYTES = 107
"""The longest line of version 1, with its CR LF."""
MAX_V2_BYTES = 16 + 4096
"""Our bound for addresses and TLVs; the format itself allows 64 KiB."""

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V1_LINE = re.compile(
    rb"PROXY TCP([46]) ([0-9a-fA-F.:]{2,39}) ([0-9a-fA-F.:]{2,39})"
    rb" (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n"
)
_IP_SIZES = {1: 4, 2: 16}
_UNIX_FAMILY = 3
_IDENTITY = 0xD0
"""Type of the TLV in which Istio's proxies name the client (spec istio section 1.4)."""
_UNIX_BYTES = 216


class ProxyHeaderError(SidecarError):
    """A PROXY header that is broken, or of a version that is not accepted here."""


@final
@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A header and its `size` in octets, which the connection proper follows.

    Addresses are None when the header tells none that matter: a health check of the proxy itself
    (LOCAL), an unknown or a Unix family. Those of the TCP connection hold then.
    """

    size: int
    version: int
    source: Address | None = None
    destination: Address | None = None
    identity: str = ""
    """What a proxy of a mesh has proved the client to be, a SPIFFE URI; "" when it says nothing."""

    @property
    def is_absent(self) -> bool:
        """There is no header: the connection begins with something else."""
        return self.size == 0


ABSENT = ProxyHeader(0, 0)


def parse(
    data: bytes | bytearray | memoryview, versions: Collection[int] = (1, 2)
) -> ProxyHeader | None:
    """The header; `ABSENT` when the octets begin no header; None while more are needed.

    `versions`: those accepted, of 1 and 2. A header of the other one is an error and no absence:
    it would reach the application as data. Raises: ProxyHeaderError.
    """
    octets = bytes(data)
    for signature, version in ((_V1, 1), (_V2, 2)):
        if octets.startswith(signature):
            if version not in versions:
                raise ProxyHeaderError(f"PROXY protocol version {version} is not accepted here")
            return _parse_v1(octets) if version == 1 else _parse_v2(octets)
        if signature.startswith(octets):
            return None
    return ABSENT


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_V1_BYTES)
    if end == -1:
        if len(data) >= MAX_V1_BYTES or b"\n" in data:
            raise ProxyHeaderError("PROXY header: the line does not end")
        return None
    size = end + 2
    line = data[:size]
    if line == b"PROXY UNKNOWN\r\n" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader(size, 1)
    found = _V1_LINE.fullmatch(line)
    if found is None:
        raise ProxyHeaderError("PROXY header: a malformed line")
    family, source, destination, source_port, destination_port = found.groups()
    return ProxyHeader(
        size,
        1,
        _text_address(family, source, source_port),
        _text_address(family, destination, destination_port),
    )


def _text_address(family: bytes, host: bytes, port: bytes) -> Address:
    try:
        text = host.decode("ascii")
        address = IPv4Address(text) if family == b"4" else IPv6Address(text)
    except ValueError as exc:
        raise ProxyHeaderError("PROXY header: a malformed address") from exc
    number = int(port)
    if number > 65535:
        raise ProxyHeaderError("PROXY header: a malformed port")
    return str(address), number


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < 16:
        if len(data) > 12 and data[12] not in (0x20, 0x21):
            raise ProxyHeaderError("PROXY header: an unknown version or command")
        return None
    command, family, transport = data[12], data[13] >> 4, data[13] & 0x0F
    if command not in (0x20, 0x21) or family > _UNIX_FAMILY or transport > 2:
        raise ProxyHeaderError("PROXY header: an unknown command, family or transport")
    size = 16 + int.from_bytes(data[14:16], "big")
    if size > MAX_V2_BYTES:
        raise ProxyHeaderError(f"PROXY header is larger than {MAX_V2_BYTES} bytes")
    if len(data) < size:
        return None
    body = data[16:size]
    if command == 0x20:
        # LOCAL: the receiver must take the header whatever it says, and ignore it.
        return ProxyHeader(size, 2)
    width = _IP_SIZES.get(family)
    if width is None:
        # A Unix or unspecified sender has no address for us; what follows it are TLVs.
        _identity_in(body, _UNIX_BYTES if family == _UNIX_FAMILY else len(body))
        return ProxyHeader(size, 2)
    identity = _identity_in(body, 2 * width + 4)
    ports = body[2 * width : 2 * width + 4]
    return ProxyHeader(
        size,
        2,
        (str(ip_address(body[:width])), int.from_bytes(ports[:2], "big")),
        (str(ip_address(body[width : 2 * width])), int.from_bytes(ports[2:], "big")),
        identity,
    )


def _identity_in(body: bytes, at: int) -> str:
    """What the TLVs say of the client's identity, "" for nothing.

    All of them must add up: else we and the sender disagree on the header.
    """
    identity = b""
    if len(body) < at:
        raise ProxyHeaderError("PROXY header: addresses are cut short")
    while at < len(body):
        if at + 3 > len(body):
            raise ProxyHeaderError("PROXY header: a TLV is cut short")
        end = at + 3 + int.from_bytes(body[at + 1 : at + 3], "big")
        if body[at] == _IDENTITY:
            if identity:
                raise ProxyHeaderError("PROXY header: two identities")
            identity = body[at + 3 : end]
        at = end
    if at != len(body):
        raise ProxyHeaderError("PROXY header: a TLV is cut short")
    try:
        return identity.decode()
    except UnicodeDecodeError as exc:
        raise ProxyHeaderError("PROXY header: the identity is no text") from exc


def encode_v1(source: Address | None, destination: Address | None) -> bytes:
    """The line for a TCP connection; UNKNOWN when an address is missing or families differ."""
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n"
    ours, theirs = ip_address(source[0]), ip_address(destination[0])
    if ours.version != theirs.version:
        return b"PROXY UNKNOWN\r\n"
    ports = f"{source[1]} {destination[1]}"
    return f"PROXY TCP{ours.version} {ours} {theirs} {ports}\r\n".encode()


def encode_v2(source: Address | None, destination: Address | None) -> bytes:
    """The header for a TCP connection; LOCAL when an address is missing.

    Addresses of two families are both written as IPv6, the IPv4 one mapped.
    """
    if source is None or destination is None:
        return _V2 + b"\x20\x00\x00\x00"
    ours, theirs = ip_address(source[0]), ip_address(destination[0])
    if ours.version != theirs.version:
        ours, theirs = _mapped(ours), _mapped(theirs)
    body = ours.packed + theirs.packed
    body += source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big")
    family = b"\x11" if ours.version == 4 else b"\x21"
    return _V2 + b"\x21" + family + len(body).to_bytes(2, "big") + body


def _mapped(address: IPv4Address | IPv6Address) -> IPv6Address:
    if isinstance(address, IPv6Address):
        return address
    return IPv6Address(b"\x00" * 10 + b"\xff\xff" + address.packed)
