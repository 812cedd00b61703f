"""Pinned definitions of tools: one that changes after it was approved does not reach clients.

An extension. Source: spec/mcp_a2a.md section 5.3, wish 9; hardening case 44; OWASP MCP03.

API: `Pins(config, content)`, one a target that has `pin`. `kept(tools)` for the items of each page
of the server's list, before anything else is done to them; `check(name)` for a call; `changes()`
for the log. With a file: `learned()` tells what is to be written, `encode(pins)` how, and
`content` is what was read.

What is hashed is what a model or a person is told: name, title, description, inputSchema,
outputSchema, annotations, those that are there; as JSON without spaces, keys sorted, in UTF-8.
A list may come in several pages and from several calls, so each name keeps its last state. A call
of a tool that no list has shown yet is `unseen`: the caller lists first, or refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final, Literal, NamedTuple, final

import orjson

from sidecar.config.model.mcp_tools import ToolPins
from sidecar.errors import ConfigError
from sidecar.jsonrpc import INVALID_PARAMS, Json, JsonRpcError

State = Literal["approved", "changed", "new", "unseen"]
"""Changed: another definition than the pinned one. New: not pinned where all must be."""

MAX_PINS: Final = 10_000
"""Tools of one server that are remembered. Further ones are not approved."""

TOLD: Final = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")


@final
class Change(NamedTuple):
    """For the log: a tool that was left out."""

    name: str
    state: State
    digest: str
    """Of the definition that the server gives now: what an operator writes down to approve it."""


def digest(tool: Json) -> str:
    """SHA-256 of a definition, in hexadecimal."""
    told = {key: tool[key] for key in TOLD if key in tool}
    return sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()


def encode(pins: Mapping[str, str]) -> bytes:
    """The text of a pin file: one tool a line, for a person to compare two of them."""
    return orjson.dumps(
        dict(pins),
        option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


@final
class Pins:
    """The approved definitions of one target, and what is known of its tools.

    `content`: of the file, None when there is none yet. Raises: ConfigError for a file that is no
    mapping from names to digests.
    """

    __slots__ = (
        "_approved",
        "_changes",
        "_learned",
        "_learns",
        "_refused",
        "_refuses",
        "_states",
        "_told",
    )

    def __init__(self, config: ToolPins, content: bytes | None = None) -> None:
        self._refuses = config.on_change == "refuse"
        self._learns = config.file is not None
        """Trust on first use: the first definition of a tool is the approved one."""
        given = config.definitions if config.file is None else parse(content)
        self._approved = dict(given or {})
        self._learned: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        """Learned, and not written down."""
        self._states: dict[str, State] = {}
        self._changes: list[Change] = []
        self._told: dict[str, str] = {}

    def kept(self, tools: list[Json]) -> list[Json]:
        """The tools whose definition is approved; the list itself when all are."""
        kept = [tool for tool in tools if self._see(tool) == "approved"]
        return tools if len(kept) == len(tools) else kept

    def state(self, name: str) -> State:
        """What the last list said of a tool, by the server's own name."""
        return self._states.get(name, "unseen")

    def check(self, name: str) -> bool:
        """Whether a tool may be called; False: to a client there is none.

        Raises: JsonRpcError -32602 that says why, when so configured.
        """
        state = self.state(name)
        if state == "approved":
            return True
        if self._refuses and state != "unseen":
            raise JsonRpcError(
                INVALID_PARAMS,
                f"Tool {name} is not available: its definition changed and is not approved yet"
                if state == "changed"
                else f"Tool {name} is not available: its definition is not approved yet",
            )
        return False

    def changes(self) -> list[Change]:
        """What was left out and is not told yet; each definition once."""
        told, self._changes = self._changes, []
        return told

    def relearn(self) -> None:
        """Try once more with what could not be written down."""
        self._refused = {}

    def learned(self) -> dict[str, str]:
        """Tools seen for the first time since the last call, to be added to the file."""
        learned, self._learned = self._learned, {}
        return learned

    def replace(self, pins: Mapping[str, str]) -> None:
        """Approve what the file says by now: whoever wrote a tool into it first decided. The next
        list shows which tools that leaves out."""
        self._approved = dict(pins)

    def forget(self, learned: Mapping[str, str]) -> None:
        """What was learned could not be written down, so it is not approved: another process may
        have seen another definition."""
        for name in learned:
            self._approved.pop(name, None)
        self._refused = dict(learned)

    def _see(self, tool: Json) -> State:
        name, now = tool["name"], digest(tool)
        approved = self._approved.get(name)
        may_learn = self._learns and self._refused.get(name) != now
        if approved is None and may_learn and len(self._approved) < MAX_PINS:
            self._approved[name] = self._learned[name] = approved = now
        state: State = "new" if approved is None else "approved" if approved == now else "changed"
        if name not in self._states and len(self._states) >= MAX_PINS:
            # Not remembered, and so neither listed nor called.
            return "new"
        if state != "approved" and self._told.get(name) != now:
            self._told[name] = now
            self._changes.append(Change(name, state, now))
        self._states[name] = state
        return state


def parse(content: bytes | None) -> dict[str, str]:
    """The definitions of a file; none when there is no file. Raises: ConfigError."""
    if content is None:
        return {}
    try:
        pins = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise ConfigError("pin.file", "is no JSON") from None
    if not isinstance(pins, dict) or not _are_digests(pins.values()):
        raise ConfigError("pin.file", "is no mapping from names of tools to SHA-256 digests")
    return pins


def _are_digests(values: Iterable[object]) -> bool:
    return all(
        isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
        for value in values
    )
