"""Agent cards as clients behind the gateway may see them: every URL leads back through it.

Source: A2A 0.3 section 5 (`url`, `additionalInterfaces`), 1.0 sections 4.4 and 8
(`supportedInterfaces`, signatures); spec/mcp_a2a.md sections 3.1 (gaps 1 to 4) and 3.2.

A card may be of both eras at once, and each form is rewritten, or clients of one era would go
straight to the agent. Signatures are dropped, for what they cover has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final
from urllib.parse import urlsplit

import orjson

from sidecar import jsonrpc
from sidecar.a2a import wire

MAX_BYTES: Final = 1024 * 1024
_GRPC: Final = "GRPC"
_LISTS: Final = (
    *("supportedInterfaces", "supported_interfaces"),
    *("additionalInterfaces", "additional_interfaces"),
)
_BINDINGS: Final = ("protocolBinding", "protocol_binding", "transport")
_PREFERRED: Final = ("preferredTransport", "preferred_transport")
_HTTP: Final = frozenset(("http", "https"))
_AUTHORITY: Final = frozenset(("grpc", "grpcs", "dns", "ipv4", "ipv6"))
"""Schemes before a bare authority."""


class BadCard(ValueError):
    """What an agent gave in the place of a card. The message may be shown to clients."""


@final
@dataclass(frozen=True, slots=True)
class Public:
    """How clients reach the agent.

    `base`: scheme and authority, and the path of `publicUrl` where one is configured, without a
    final slash. `grpc`: `host:port`. `outer`, `inner`: a prefix of paths as clients write it and
    what the agent gets in its place, neither with a final slash; equal ones where nothing rewrites.
    """

    base: str
    grpc: str
    outer: str = ""
    inner: str = ""

    def url(self, given: object, binding: str) -> str | None:
        """A URL of the card as clients use it; None for one that cannot lead through the gateway.

        Raises: BadCard.
        """
        if not isinstance(given, str) or not given:
            raise BadCard("an interface without a url")
        is_grpc = binding.upper() == _GRPC
        if is_grpc and "://" not in given and not given.startswith("/"):
            # `host:port`, and `dns:host:port` as gRPC's resolvers write it.
            return self.grpc
        try:
            parts = urlsplit(given)
        except ValueError as error:
            raise BadCard("a url that is none") from error
        if is_grpc:
            if parts.scheme in _AUTHORITY:
                return self.grpc
            if parts.scheme in _HTTP and parts.path in ("", "/"):
                scheme = self.base.partition("://")[0]
                return f"{scheme}://{self.grpc}{parts.path}"
        if parts.scheme and parts.scheme not in _HTTP:
            return None
        tail = f"?{parts.query}" if parts.query else ""
        return self.base + self.path(parts.path) + tail

    def path(self, inner: str) -> str:
        """An agent's path as clients write it."""
        if inner and not inner.startswith("/"):
            inner = f"/{inner}"
        if inner == self.inner or inner.startswith(f"{self.inner}/"):
            return self.outer + inner[len(self.inner) :]
        return inner


def prefixes(received: str, forwarded: str) -> tuple[str, str]:
    """`(outer, inner)`: by what a rewrite replaced, from one path before and after it."""
    outer, inner = received.split("/"), forwarded.split("/")
    while len(outer) > 1 and len(inner) > 1 and outer[-1] == inner[-1]:
        del outer[-1], inner[-1]
    return "/".join(outer).rstrip("/"), "/".join(inner).rstrip("/")


def rewritten(card: object, public: Public) -> dict[str, Any]:
    """The card, changed in place, with all URLs of its interfaces replaced. Raises: BadCard."""
    if not isinstance(card, dict):
        raise BadCard("an agent card that is no object")
    has_url = False
    for name in _LISTS:
        if name in card and card[name] is not None:
            card[name] = _interfaces(card[name], public)
            has_url = has_url or bool(card[name])
    if card.get("url") or not has_url:
        made = public.url(card.get("url"), _binding(card, _PREFERRED))
        if made is None:
            raise BadCard("an agent card whose url the gateway cannot serve")
        card["url"] = made
    card.pop("signatures", None)
    return card


def _interfaces(given: object, public: Public) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        raise BadCard("interfaces that are no list")
    kept: list[dict[str, Any]] = []
    for one in given:
        if not isinstance(one, dict):
            raise BadCard("an interface that is no object")
        url = public.url(one.get("url"), _binding(one, _BINDINGS))
        # One of another protocol (`mqtt://…`) would lead past the gateway.
        if url is not None:
            kept.append({**one, "url": url})
    return kept


def _binding(card: dict[str, Any], names: tuple[str, ...]) -> str:
    value = next((card[name] for name in names if name in card), "")
    return value if isinstance(value, str) else ""


Sign = Callable[[dict[str, Any]], dict[str, str]]
"""Gives the entry of `signatures` for a card. Raises: BadCard."""


def document(raw: bytes, public: Public, sign: Sign | None = None) -> tuple[bytes, bytes]:
    """A card as a document, and its validator. Raises: BadCard."""
    made = rewritten(_parsed(raw), public)
    plain = orjson.dumps(made)
    if sign is None:
        return plain, etag(plain)
    # Each process signs in other octets, which mean the same.
    return orjson.dumps({**made, "signatures": [sign(made)]}), b"W/" + etag(plain)


def answer(raw: bytes, public: Public, sign: Sign | None = None) -> bytes:
    """A JSON-RPC answer whose result is a card; an error stays as it is. Raises: BadCard."""
    message = _parsed(raw)
    if isinstance(message, dict) and "error" in message and "result" not in message:
        return raw
    if not isinstance(message, dict) or "result" not in message:
        raise BadCard("an answer that is none of JSON-RPC")
    made = rewritten(message["result"], public)
    message["result"] = made if sign is None else {**made, "signatures": [sign(made)]}
    return orjson.dumps(message)


def _parsed(raw: bytes) -> object:
    try:
        return jsonrpc.parse(raw)
    except jsonrpc.JsonRpcError as error:
        raise BadCard("an agent card that is not JSON") from error


_SIGNATURES: Final = {"1.0": 13, "0.3": 17}
_INTERFACES: Final = {"1.0": 3, "0.3": 15}
_URL: Final = {"1.0": 0, "0.3": 3}
"""Field numbers; 1.0 has no URL of its own."""
_TRANSPORT: Final = 14


def message(raw: bytes, era: str, public: Public) -> bytes:
    """A card as a protocol buffer of an era. Raises: BadCard."""

    def of_interface(one: bytes) -> bytes | None:
        url = public.url(wire.text(one, 1), wire.text(one, 2))
        if url is None:
            return None
        return wire.edited(one, lambda _, value: url.encode(), frozenset((1,)))

    def of_card(number: int, value: bytes) -> bytes | None:
        if number == _INTERFACES[era]:
            return of_interface(value)
        if number == _URL[era]:
            made = public.url(value.decode("utf-8", "replace"), wire.text(raw, _TRANSPORT))
            if made is None:
                raise BadCard("an agent card whose url the gateway cannot serve")
            return made.encode()
        return None

    numbers = frozenset((_SIGNATURES[era], _INTERFACES[era], _URL[era]))
    try:
        return wire.edited(raw, of_card, numbers)
    except wire.WireError as error:
        raise BadCard("an agent card that is no message") from error


def etag(raw: bytes) -> bytes:
    """The validator of a card's octets."""
    return b'"' + hashlib.blake2b(raw, digest_size=16).hexdigest().encode() + b'"'


def is_known(if_none_match: list[bytes], tag: bytes) -> bool:
    """Whether the client has it already (RFC 9110 section 13.1.2: weak comparison)."""
    known = [one.strip().removeprefix(b"W/") for one in b",".join(if_none_match).split(b",")]
    return tag.removeprefix(b"W/") in known or b"*" in known
