"""How a client's names of tools, prompts, resources and tasks stand for those of the servers.

Source: spec/mcp_a2a.md section 2.2; spec/config.md section 6.2.

API: `Names(targets, mode)` with `to_client(kind, target, name)`, `to_target(kind, name)` and, for
names that do not tell their server, `candidates(kind, name)`: what these list tells the one meant.

With several servers (their number is not one, or the mode is `always`) names get a prefix:

| kind | mode `conditional`, `always` | mode `never` |
|---|---|---|
| tool, prompt | `{target}_{name}`, split at the first `_` | as it is |
| resource, template | `{target}+{uri}`, `ui://{target}+{rest}`; as it is without scheme | same |
| task | `{target}+{id}` | same |

With one server nothing changes. The name of a target has neither `_` nor `+`, so that prefixes
have one reading; the configuration sees to that.

Extension: models take tool names of 64 characters at most, so a prefixed tool name beyond
`max_tool_name` is cut, and ends in `_` and 12 characters of a hash of target and name. The hash
cannot be read backwards, so what looks like a cut name has `candidates`, and is found in their
lists by the same computation. The uncut name is understood as well.
"""

from __future__ import annotations

import re
from base64 import b32encode
from hashlib import sha256
from typing import Final, Literal, final

from sidecar.errors import ConfigError

Mode = Literal["conditional", "always", "never"]
Kind = Literal["tool", "prompt", "resource", "template", "task"]

MAX_TOOL_NAME: Final = 64
"""Default of `max_tool_name`, characters."""
MIN_TOOL_NAME: Final = 32
"""Below it a cut name would say too little."""

_HASH: Final = 12
"""Characters of base32: 60 bits, so that no server finds a name with the cut form of another's."""
_CUT: Final = re.compile(r".+_[a-z2-7]{12}", re.DOTALL)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_UI: Final = "ui://"


@final
class Names:
    """The names of one backend. `targets`: in the order of the configuration.

    `max_tool_name`: characters of a prefixed tool name, 0 for no limit.
    Raises: ConfigError for a target's name with `_` or `+`, two of one name, and a limit below 32.
    """

    __slots__ = ("_known", "_prefixes", "has_prefixes", "is_several", "max_tool_name", "targets")

    def __init__(
        self, targets: tuple[str, ...], mode: Mode, *, max_tool_name: int = MAX_TOOL_NAME
    ) -> None:
        for target in targets:
            if not target or "_" in target or "+" in target:
                raise ConfigError("targets", f"`{target}`: `_` and `+` separate names of targets")
        if len(set(targets)) < len(targets):
            raise ConfigError("targets", "two targets have the same name")
        if max_tool_name and max_tool_name < MIN_TOOL_NAME:
            raise ConfigError("maxNameLength", f"must be 0 or at least {MIN_TOOL_NAME}")
        self.targets = targets
        self.max_tool_name = max_tool_name
        self.is_several = mode == "always" or len(targets) != 1
        """Whether URIs and task ids tell their server."""
        self.has_prefixes = self.is_several and mode != "never"
        """Whether the names of tools and prompts tell their server."""
        self._known = frozenset(targets)
        self._prefixes = {target: f"{target}_" for target in targets}

    def to_client(self, kind: Kind, target: str, name: str) -> str:
        """The name that a client sees."""
        if kind == "tool" or kind == "prompt":
            if not self.has_prefixes:
                return name
            full = self._prefixes[target] + name
            if kind == "tool" and self.max_tool_name and len(full) > self.max_tool_name:
                return self._cut(full, target, name)
            return full
        if not self.is_several:
            return name
        if kind == "task":
            return f"{target}+{name}"
        if name.startswith(_UI):
            return f"{_UI}{target}+{name[len(_UI) :]}"
        return f"{target}+{name}" if _SCHEME.match(name) else name

    def to_target(self, kind: Kind, name: str) -> tuple[str, str] | None:
        """The target and its own name of what a client names.

        None when the name does not tell: see `candidates`.
        """
        if kind == "tool" or kind == "prompt":
            if not self.has_prefixes:
                return None if self.is_several else (self.targets[0], name)
            target, separator, rest = name.partition("_")
            if not separator or target not in self._known or self._may_be_cut(kind, name):
                return None
            return target, rest
        if not self.is_several:
            return self.targets[0], name
        is_ui = kind != "task" and name.startswith(_UI)
        target, separator, rest = (name[len(_UI) :] if is_ui else name).partition("+")
        if not separator or target not in self._known:
            return None
        if is_ui:
            return target, _UI + rest
        # Without a scheme it was not we who put the `+` there.
        return (target, rest) if kind == "task" or _SCHEME.match(rest) else None

    def candidates(self, kind: Kind, name: str) -> tuple[str, ...]:
        """The targets whose lists may have what `to_target` gives None for; none: it is unknown."""
        if kind == "task" or not self.is_several:
            return ()
        if kind == "resource" or kind == "template":
            return () if _SCHEME.match(name) else self.targets
        if not self.has_prefixes:
            return self.targets
        if not self._may_be_cut(kind, name):
            return ()
        kept = name[: -_HASH - 1]
        return tuple(
            target
            for target, prefix in self._prefixes.items()
            if kept.startswith(prefix) or prefix.startswith(kept)
        )

    def _cut(self, full: str, target: str, name: str) -> str:
        told = sha256(f"{target}\0{name}".encode("utf-8", "surrogatepass")).digest()
        ending = b32encode(told)[:_HASH].decode().lower()
        return f"{full[: self.max_tool_name - _HASH - 1]}_{ending}"

    def _may_be_cut(self, kind: Kind, name: str) -> bool:
        """A name that just happens to look so is found by look-up as well."""
        return (
            kind == "tool"
            and self.max_tool_name > 0
            and len(name) == self.max_tool_name
            and _CUT.fullmatch(name) is not None
        )
