"""Which server a request about one thing goes to, and whether this client may make it.

Source: spec/mcp_a2a.md sections 2.2, 2.3 and 2.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, final

from sidecar.jsonrpc import Json, JsonRpcError
from sidecar.mcp.names import Kind, Names
from sidecar.mcp.rules import Evaluation, unknown
from sidecar.mcp.tools import Control

SCOPES: Final = "requiredScopes"
"""In `data` of a refusal with status 403: the scopes of a token that would do."""
_INSUFFICIENT_SCOPE: Final = -32001


@final
class Called(NamedTuple):
    """What a request is about, in the server's own words."""

    kind: Kind
    target: str
    name: str


@final
class Calls:
    """The rules of calls of one backend."""

    __slots__ = ("_controls", "names")

    def __init__(self, names: Names, controls: Mapping[str, Control]) -> None:
        self.names = names
        self._controls = controls

    def own(self, kind: Kind, target: str, name: str) -> Called | None:
        """What a client's name without prefix means at a server; None: nothing that is offered."""
        control = self._controls.get(target) if kind == "tool" else None
        if control is None:
            return Called(kind, target, name)
        own = control.own_name(name)
        return None if own is None else Called(kind, target, own)

    def renamed(self, called: Called, name: str) -> Called | None:
        """The same with another name of the server's; None: nothing that is offered."""
        control = self._controls.get(called.target) if called.kind == "tool" else None
        return called._replace(name=name) if control is None or control.offers(name) else None

    def seen(self, called: Called, given: Json | None) -> Json | None:
        """The arguments with what the operator fixed in place, whatever the client says."""
        control = self._controls.get(called.target) if called.kind == "tool" else None
        return given if control is None else control.seen(called.name, given)

    def check(
        self,
        called: Called | None,
        named: tuple[Kind, str],
        evaluation: Evaluation | None,
        arguments: Json | None,
    ) -> Called:
        """The call, if the client may make it. `named`: as the client named it. `arguments`: as the
        client gave them; rules see the operator's fixed ones in their place.

        Raises: JsonRpcError, the same for what there is not and for what is denied.
        """
        if called is None:
            raise unknown(*named)
        if evaluation is None:
            return called
        control = self._controls.get(called.target) if called.kind == "tool" else None
        if control is not None:
            arguments = control.seen(called.name, arguments)
        verdict = evaluation.check(called.kind, called.target, called.name, arguments)
        if verdict.is_allowed:
            return called
        if verdict.scopes:
            data = {SCOPES: list(verdict.scopes)}
            raise JsonRpcError(_INSUFFICIENT_SCOPE, "Insufficient scope", status=403, data=data)
        raise unknown(*named)

    def arguments(self, called: Called, given: Json | None) -> Json | None:
        """Of a call of a tool, with what the operator fixed. Raises: JsonRpcError -32602."""
        control = self._controls.get(called.target) if called.kind == "tool" else None
        return given if control is None else control.arguments(called.name, given)

    def has_control(self, target: str) -> bool:
        """Whether tools of the server are told otherwise than it tells them."""
        return target in self._controls
