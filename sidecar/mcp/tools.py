"""What an operator changes about the tools of one server: choice, names, texts, arguments.

An extension. Source: spec/mcp_a2a.md section 5.3, wishes 2 and 9 (agentgateway #963).

API: `Control(config)`, one a target that has `tools`. `listed(tool)` for each item of a list;
`own_name(name)`, `seen(own_name, given)` for rules and `arguments(own_name, given)` for a call.
Rules and pins see the server's own names and definitions, so they come before `listed` and after
`own_name`.

A renamed tool has its new name only. It wins over a tool that the server itself calls so, which is
left out: what a client calls must not depend on what the server thinks of next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, final

import re2

from sidecar.config.model.mcp_tools import ToolControl
from sidecar.jsonrpc import INVALID_PARAMS, Json, JsonRpcError

_COMBINED: Final = ("allOf", "anyOf", "oneOf")
_MAX_SCHEMA_DEPTH: Final = 16


class _Change(NamedTuple):
    title: str | None
    description: str | None
    fixed: dict[str, Any]
    hidden: frozenset[str]
    """Fixed ones too."""


@final
class Control:
    """For the tools of one target."""

    __slots__ = ("_allow", "_allows_all", "_changes", "_deny", "_old", "_rename")

    def __init__(self, config: ToolControl) -> None:
        self._allows_all = config.allow is None
        self._allow = _any_of(config.allow) if config.allow else None
        self._deny = _any_of(config.deny) if config.deny else None
        self._rename = dict(config.rename)
        self._old = {new: old for old, new in config.rename.items()}
        self._changes = {
            name: _Change(
                one.title,
                one.description,
                one.arguments,
                frozenset((*one.hide, *one.arguments)),
            )
            for name, one in config.override.items()
        }

    def offers(self, own_name: str) -> bool:
        """Whether the server's tool of this name can be had."""
        if not self._allows_all and not (self._allow and self._allow.fullmatch(own_name)):
            return False
        if self._deny is not None and self._deny.fullmatch(own_name):
            return False
        return own_name in self._rename or own_name not in self._old

    def listed(self, tool: Json) -> Json | None:
        """The tool as it is told; None to leave it out. The same object when nothing changes."""
        name = tool["name"]
        if not self.offers(name):
            return None
        change = self._changes.get(name)
        new = self._rename.get(name)
        if change is None:
            return tool if new is None else {**tool, "name": new}
        told = {**tool, "name": name if new is None else new}
        if change.title is not None:
            told["title"] = change.title
        if change.description is not None:
            told["description"] = change.description
        if change.hidden and isinstance(tool.get("inputSchema"), dict):
            told["inputSchema"] = _without(tool["inputSchema"], change.hidden)
        return told

    def own_name(self, name: str) -> str | None:
        """The server's name of a tool that a client names without prefix; None: not offered."""
        own = self._old.get(name)
        if own is None:
            own = None if name in self._rename else name
        return own if own is not None and self.offers(own) else None

    def seen(self, own_name: str, given: Json | None) -> Json | None:
        """The arguments that rules judge: the fixed ones in place, whatever the client says."""
        change = self._changes.get(own_name)
        if change is None or not change.fixed or not isinstance(given or {}, dict):
            return given
        return {**(given or {}), **change.fixed}

    def arguments(self, own_name: str, given: Json | None) -> Json | None:
        """The arguments to call with; `given` itself when nothing changes.

        Raises: JsonRpcError -32602 when the client sets what it may not.
        """
        change = self._changes.get(own_name)
        if change is None or not change.hidden:
            return given
        if given is not None and not isinstance(given, dict):
            raise JsonRpcError(INVALID_PARAMS, "Invalid params: arguments")
        for name in given or ():
            if name in change.hidden:
                raise JsonRpcError(INVALID_PARAMS, f"Invalid params: unknown argument {name}")
        return {**(given or {}), **change.fixed} if change.fixed else given


def _any_of(patterns: Iterable[str]) -> Any:
    # RE2, because names come from servers, and a pattern with many stars must not cost more than
    # one look at each character.
    return re2.compile("(?s)(?:" + "|".join(_regex(pattern) for pattern in patterns) + ")")


def _regex(pattern: str) -> str:
    parts = re.split(r"([*?])", pattern)
    return "".join({"*": ".*", "?": "."}.get(part) or re2.escape(part) for part in parts)


def _without(schema: Json, hidden: frozenset[str], depth: int = 0) -> Json:
    """The schema of an object, some of whose properties nobody is to know of."""
    told = dict(schema)
    if isinstance(properties := schema.get("properties"), dict):
        told["properties"] = {k: v for k, v in properties.items() if k not in hidden}
    if isinstance(required := schema.get("required"), list):
        kept = [name for name in required if name not in hidden]
        if kept:
            told["required"] = kept
        else:
            del told["required"]
    for key in ("dependentRequired", "dependentSchemas", "dependencies"):
        if isinstance(dependent := schema.get(key), dict):
            told[key] = {k: v for k, v in dependent.items() if k not in hidden}
    if depth < _MAX_SCHEMA_DEPTH:
        for key in _COMBINED:
            if isinstance(alternatives := schema.get(key), list):
                told[key] = [
                    _without(one, hidden, depth + 1) if isinstance(one, dict) else one
                    for one in alternatives
                ]
    return told
