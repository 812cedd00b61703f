"""Where an agent may be told to send push notifications: not to what only the agent can reach.

Source: A2A 1.0 section 13.2 (push notification security); hardening.md case 43; RFC 6890, 6761.

An agent calls whatever URL a client gives it, from inside. The text is judged here, then every
address its name stands for; who decides asks `needs_lookup` in between.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Final, final
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_URL: Final = 2048
_PRINTABLE: Final = re.compile(r"[!-~]+")
_NAME: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_-]{1,63}")
_LOCAL_NAMES: Final = ("localhost", "local", "internal", "localdomain", "home.arpa")
"""With everything below them (RFC 6761, 6762, 8375; `internal` holds the clouds' metadata)."""
_REACHED_INSIDE: Final = tuple(
    ipaddress.ip_network(text)
    # Global by registry, but the host of a machine in Azure answers there.
    for text in ("168.63.129.16/32",)
)
_EMBEDDING: Final = (
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
    (ipaddress.IPv6Network("::/96"), 0),
)
"""IPv6 networks that carry an IPv4 address, and by how many bits it is shifted."""
_MASK: Final = 0xFFFFFFFF


class Refused(Exception):
    """A URL that no agent is told to call. The message names it in few words."""


@final
class Policy:
    """What is allowed.

    `hosts`: names in lower case that are trusted as they are, `*.` before one for everything below
    it. `networks`: trusted although they are not public. `schemes`: in lower case.
    """

    __slots__ = ("_below", "_hosts", "_networks", "_schemes")

    def __init__(
        self,
        hosts: Iterable[str] = (),
        networks: Iterable[Network] = (),
        schemes: Iterable[str] = ("https", "http"),
    ) -> None:
        self._hosts = frozenset(name for name in hosts if not name.startswith("*."))
        self._below = tuple(name[1:] for name in hosts if name.startswith("*."))
        self._networks = tuple(networks)
        self._schemes = frozenset(schemes)

    def needs_lookup(self, url: object) -> str | None:
        """The name whose addresses are to be judged as well; None: it is allowed as it stands.

        Raises: Refused.
        """
        host = self._host(url)
        if host in self._hosts or host.endswith(self._below):
            return None
        address = _literal(host)
        if address is not None:
            self.check(address)
            return None
        if not _NAME.fullmatch(host):
            raise Refused("its host is not a name")
        if any(host == name or host.endswith(f".{name}") for name in _LOCAL_NAMES):
            raise Refused("its host is a local name")
        if "." not in host:
            raise Refused("its host has no domain")
        return host

    def _host(self, url: object) -> str:
        if not isinstance(url, str) or not url or len(url) > _MAX_URL:
            raise Refused("it is no URL")
        # What parsers strip or read in several ways: blanks, controls, other scripts, `\\`.
        if not _PRINTABLE.fullmatch(url) or "\\" in url:
            raise Refused("it has characters that a URL may not have")
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise Refused("it is no URL") from error
        if parts.scheme not in self._schemes:
            raise Refused("its scheme is not allowed")
        if "@" in parts.netloc:
            raise Refused("it holds credentials")
        # An escaped name is another name to those who decode it.
        if not host or "%" in host:
            raise Refused("its host cannot be read")
        return host.rstrip(".")

    def check(self, address: Address) -> None:
        """An address that the URL means. Raises: Refused."""
        if any(
            address in network for network in self._networks if network.version == address.version
        ):
            return
        for one in _meant(address):
            if not is_public(one):
                raise Refused("its address is not public")


def is_public(address: Address) -> bool:
    """Whether an address is one of the Internet's, and of a single host."""
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(
            address in network for network in _REACHED_INSIDE if network.version == address.version
        )
    )


def _meant(address: Address) -> list[Address]:
    """The address, or the IPv4 address it carries as well."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    found: list[Address] = [address] if address not in _EMBEDDING[0][0] else []
    for network, shift in _EMBEDDING:
        if address in network:
            found.append(ipaddress.IPv4Address(int(address) >> shift & _MASK))
    if address.teredo is not None:
        found.extend(address.teredo)
    return found


def _literal(host: str) -> Address | None:
    """An address in any form that a resolver takes: `0x7f.1` and `2130706433` too."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None
