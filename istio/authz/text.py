"""How texts and paths are compared: exact, prefix, suffix, presence, and templates of paths.

Source: spec istio sections 4.3 and 4.5 (string match); Istio's reference of AuthorizationPolicy
(`{*}` and `{**}` of paths).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sidecar.routing import canonical

TextMatch = Mapping[str, Any]
"""`{exact|prefix|suffix: text}` or `{presence: …}`; of paths also `{template: text}`."""

Matches = Callable[[str], bool]

_ONE: Final = "{*}"
_MANY: Final = "{**}"
_DOTS: Final = frozenset((".", ".."))


def text_matcher(values: Sequence[TextMatch], *, lower: bool = False) -> Matches:
    """Whether a text is one of them. An empty text never matches presence."""
    exact: set[str] = set()
    prefixes: list[str] = []
    suffixes: list[str] = []
    has_presence = False
    for value in values:
        for kind, given in value.items():
            text = given.lower() if lower and isinstance(given, str) else given
            match kind:
                case "exact":
                    exact.add(text)
                case "prefix":
                    prefixes.append(text)
                case "suffix":
                    suffixes.append(text)
                case "presence":
                    has_presence = True
    return _matcher(frozenset(exact), tuple(prefixes), tuple(suffixes), has_presence)


def _matcher(
    exact: frozenset[str], prefixes: tuple[str, ...], suffixes: tuple[str, ...], presence: bool
) -> Matches:
    # Nobody's name is empty, so that "" stands for nobody and matches nothing.
    if presence:
        return bool
    if not prefixes and not suffixes:
        wanted = exact - {""}
        return wanted.__contains__

    def matches(text: str) -> bool:
        if not text:
            return False
        return text in exact or text.startswith(prefixes) or text.endswith(suffixes)

    return matches


def path_matcher(values: Sequence[TextMatch]) -> Matches:
    """The same of paths, which are compared in their canonical form. Raises: ValueError."""
    plain = [_canonical(value) for value in values if "template" not in value]
    templates = [template(value["template"]) for value in values if "template" in value]
    matches = text_matcher(plain)
    if not templates:
        return matches
    return lambda path: matches(path) or any(one.fullmatch(path) for one in templates)


def _canonical(value: TextMatch) -> TextMatch:
    """A path of a policy written as requests' are. A suffix may begin within a segment."""
    ((kind, text),) = value.items()
    if isinstance(text, str) and any(part in _DOTS for part in _undotted(text).split("/")):
        # Requests' are resolved: what such a path means would depend on who reads it.
        raise ValueError("a path with dot segments")
    match kind:
        case "exact" | "prefix":
            return {kind: canonical.configured(text)}
        case "suffix":
            form = canonical.configured(text if text.startswith("/") else f"/{text}")
            return {kind: form if text.startswith("/") else form[1:]}
    return value


def _undotted(text: str) -> str:
    return re.sub("%2[eE]", ".", text)


def template(text: str) -> re.Pattern[str]:
    """`/a/{*}/b`, `/a/{**}`, `/a/{**}/b`: one segment, and any number of them. Raises: ValueError.

    Each segment is an operator or plain; `{**}` is the last operator, so that matching is linear.
    """
    if not text.startswith("/"):
        raise ValueError("a path template begins with /")
    segments = text[1:].split("/")
    many = [index for index, segment in enumerate(segments) if segment == _MANY]
    operators = [index for index, segment in enumerate(segments) if segment in (_ONE, _MANY)]
    if many and (len(many) > 1 or many[0] != operators[-1]):
        raise ValueError("{**} must be the last operator of a path template, and the only one")
    return re.compile("".join(_pattern(segment) for segment in segments))


def _pattern(segment: str) -> str:
    if segment == _ONE:
        return "/[^/]+"
    if segment == _MANY:
        return "(?:/.*)?"
    if any(mark in segment for mark in "{}*"):
        raise ValueError(f"`{segment}`: an operator stands for a whole segment")
    return re.escape(canonical.configured(f"/{segment}"))
