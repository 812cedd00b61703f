"""Anthropic.

Source: spec llm sections 1.1 and 1.2; Anthropic API reference.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.chat import loose
from sidecar.llm.convert.thought_signatures import SIGNATURE_MARK, clean_id
from sidecar.llm.providers.address import Site, unsupported
from sidecar.llm.providers.base import (
    COUNT,
    MESSAGES,
    UNTOUCHED,
    Authority,
    Call,
    DefaultAuth,
    ErrorFamily,
    Json,
    KeyPlace,
    Target,
)

_HOST: Final = "api.anthropic.com"
_BASE: Final = "/v1"
_PATHS: Final = {MESSAGES: "/messages", COUNT: "/messages/count_tokens"}
_FORMATS: Final = frozenset(_PATHS)
_IDS: Final = {"tool_use": "id", "tool_result": "tool_use_id"}
_HEADERS: Final = ((b"anthropic-version", b"2023-06-01"),)
_BROWSER: Final = frozenset(
    (
        b"origin",
        b"access-control-request-method",
        b"access-control-request-headers",
        b"access-control-request-private-network",
        b"sec-fetch-dest",
        b"sec-fetch-mode",
        b"sec-fetch-site",
        b"sec-fetch-user",
        b"sec-fetch-storage-access",
    )
)
"""Anthropic refuses calls that look like a browser's; here the gateway is who calls."""
_KEYS: Final = KeyPlace(b"x-api-key", never=(b"sk-ant-oat",))
"""Tokens of subscriptions (`sk-ant-oat`) are bearer tokens and stay so."""


@final
class Anthropic:
    """Claude models at their maker's."""

    kind = "anthropic"
    name = "anthropic"
    auth = DefaultAuth()

    def __init__(self, site: Site, model: str | None = None) -> None:
        self.model = model
        self._site = site
        self._authority = site.at(_HOST)
        # Another gateway there may want the signatures that ids carry.
        self._checks_ids = self._authority.host == _HOST

    def authorities(self) -> tuple[Authority, ...]:
        """See Provider."""
        return (self._authority,)

    def formats(self, model: str) -> frozenset[str]:
        """See Provider."""
        return _FORMATS

    def dialect(self, format: str, model: str) -> str:
        """See Provider."""
        return ""

    def target(self, call: Call) -> Target:
        """See Provider."""
        suffix = _PATHS.get(call.format)
        if suffix is None and call.format not in UNTOUCHED:
            raise unsupported("Anthropic", call.format)
        path = self._site.replaced(call, _BASE, suffix or "")
        return Target(self._authority, path, _HEADERS, _BROWSER, _KEYS)

    def edit(self, body: Json, call: Call) -> None:
        """See Provider. What a conversation brings from Gemini is no id here."""
        if not self._checks_ids or call.client_format != call.format:
            return  # converters see to it
        for message in loose.objects(body.get("messages")):
            for block in loose.objects(message.get("content")):
                key = _IDS.get(loose.text(block.get("type")))
                if key is not None and SIGNATURE_MARK in loose.text(block.get(key)):
                    block[key] = clean_id(block[key])

    def error_family(self, format: str, model: str) -> ErrorFamily:
        """See Provider."""
        return "anthropic"

    def excludes_cache(self, format: str, model: str) -> bool:
        """See Provider."""
        return True

    def settings(self, model: str) -> Json:
        """See Provider."""
        return {}
