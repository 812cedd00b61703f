"""The one form of an agent card that signatures cover.

Source: RFC 8785 (JSON Canonicalization Scheme); A2A 1.0 section 8.4.1; ECMA-262 Number::toString.

Verifiers read a card as a message of version 1.0 and write that anew, so that what the version does
not have, and what is empty, is not covered. A card of 0.3 alone is covered as it stands.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any, Final

from sidecar.a2a.card import BadCard

_SAFE: Final = 2**53
_LARGEST, _SMALLEST = 21, -6
"""Powers of ten from which, and below which, a number has an exponent."""

_ANY: Final = object()
_TEXT: Final = object()
_TRUTH: Final = object()
"""A truth value that is left out when it is false, for it has no presence of its own."""
Shape = Any
"""A marker above, a mapping of members, or `("map", shape)`."""

_SCOPES: Final = ("map", _TEXT)
_FLOW: Final = {
    **dict.fromkeys(("authorizationUrl", "tokenUrl", "refreshUrl"), _TEXT),
    "deviceAuthorizationUrl": _TEXT,
    "scopes": _SCOPES,
    "pkceRequired": _TRUTH,
}
_NEEDED: Final = {"schemes": ("map", {"list": _TEXT})}
_SCHEME: Final = {
    "apiKeySecurityScheme": dict.fromkeys(("description", "location", "name"), _TEXT),
    "httpAuthSecurityScheme": dict.fromkeys(("description", "scheme", "bearerFormat"), _TEXT),
    "oauth2SecurityScheme": {
        "description": _TEXT,
        "flows": dict.fromkeys(
            ("authorizationCode", "clientCredentials", "implicit", "password", "deviceCode"), _FLOW
        ),
        "oauth2MetadataUrl": _TEXT,
    },
    "openIdConnectSecurityScheme": dict.fromkeys(("description", "openIdConnectUrl"), _TEXT),
    "mtlsSecurityScheme": {"description": _TEXT},
}
_EXTENSION: Final = {"uri": _TEXT, "description": _TEXT, "required": _TRUTH, "params": _ANY}
_CARD: Final = {
    **dict.fromkeys(("name", "description", "version", "documentationUrl", "iconUrl"), _TEXT),
    "supportedInterfaces": dict.fromkeys(
        ("url", "protocolBinding", "tenant", "protocolVersion"), _TEXT
    ),
    "provider": dict.fromkeys(("url", "organization"), _TEXT),
    "capabilities": {
        **dict.fromkeys(("streaming", "pushNotifications", "extendedAgentCard"), _ANY),
        "extensions": _EXTENSION,
    },
    "securitySchemes": ("map", _SCHEME),
    "securityRequirements": _NEEDED,
    **dict.fromkeys(("defaultInputModes", "defaultOutputModes"), _TEXT),
    "skills": {
        **dict.fromkeys(("id", "name", "description", "tags", "examples"), _TEXT),
        **dict.fromkeys(("inputModes", "outputModes"), _TEXT),
        "securityRequirements": _NEEDED,
    },
}
"""Members of an AgentCard in version 1.0; lists have the shape of their items."""


def payload(card: dict[str, Any]) -> bytes:
    """What a signature of the card covers. Raises: BadCard for a number without a form."""
    kept = {name: value for name, value in card.items() if name != "signatures"}
    if card.get("supportedInterfaces"):
        kept = _shaped(kept, _CARD)
    return _written(_cleaned(kept)).encode()


def _shaped(value: Any, shape: Shape) -> Any:
    if isinstance(value, list):
        return [_shaped(item, shape) for item in value]
    if shape is _TRUTH:
        return value or None
    if not isinstance(value, dict) or shape is _ANY:
        return value
    if isinstance(shape, tuple):
        return {name: _shaped(member, shape[1]) for name, member in value.items()}
    if not isinstance(shape, dict):
        return None
    return {name: _shaped(value[name], shape[name]) for name in value if name in shape}


def _cleaned(value: Any) -> Any:
    """Without members and items that are null, or empty once theirs are gone."""
    if isinstance(value, dict):
        made = {name: _cleaned(member) for name, member in value.items()}
        return {name: member for name, member in made.items() if not _is_empty(member)}
    if isinstance(value, list):
        return [item for item in map(_cleaned, value) if not _is_empty(item)]
    return value


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def _written(value: Any) -> str:
    if isinstance(value, dict):
        # By UTF-16 code units, as section 3.2.3 has it.
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{_text(name)}:{_written(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _number(value)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    if isinstance(value, int) and abs(value) >= _SAFE:
        raise BadCard("a number that JSON cannot carry")
    number = float(value)
    if not math.isfinite(number):
        raise BadCard("a number that JSON cannot carry")
    if number == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(number)).as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).rstrip("0")
    # The decimal point stands behind so many digits.
    point = len(digits) + exponent
    head = "-" if sign else ""
    if len(text) <= point <= _LARGEST:
        return head + text.ljust(point, "0")
    if 0 < point <= _LARGEST:
        return f"{head}{text[:point]}.{text[point:]}"
    if _SMALLEST < point <= 0:
        return f"{head}0.{'0' * -point}{text}"
    fraction = f".{text[1:]}" if len(text) > 1 else ""
    return f"{head}{text[0]}{fraction}e{point - 1:+d}"
