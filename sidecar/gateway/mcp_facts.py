"""What is known of one MCP request: the variable `mcp` of expressions, logs, spans and metrics.

Source: spec/mcp_a2a.md section 2.13; spec/config.md sections 7.2 and 9.1.
"""

from __future__ import annotations

from typing import Any, Final, final

from sidecar.http.message import Request
from sidecar.jsonrpc import Json, JsonRpcError
from sidecar.mcp.calls import Called
from sidecar.mcp.pins import Change
from sidecar.mcp.rewrite import named
from sidecar.telemetry.fields import RouteFacts
from sidecar.telemetry.metrics import OTHER, Counter, Registry, route_labels

STATE: Final = "mcp"
_MAX_COMBINATIONS: Final = 1024
_TEXT_MAX: Final = 256
_KINDS: Final = ("tool", "prompt", "resource", "task")

Labels = tuple[str, str, str, str]
"""Method, kind of resource, server, its name."""


@final
class McpMetrics:
    """The series of MCP requests; made once a compilation.

    Names of tools are the servers' and URIs the clients' to choose, so there are only so many
    combinations; what comes beyond them is counted without the name.
    """

    __slots__ = ("_guards", "_known", "_registry")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._guards: dict[tuple[str, str], Counter] = {}
        self._known: dict[tuple[RouteFacts, Labels], Counter] = {}

    def count(self, facts: RouteFacts, labels: Labels) -> None:
        """One request."""
        found = self._known.get((facts, labels))
        if found is None:
            found = self._found(facts, labels)
        found.add(1)

    def unapproved(self, server: str, change: Change) -> None:
        """A definition of a tool that is kept from clients."""
        labels = [("server", server), ("state", change.state)]
        self._registry.counter("mcp_unapproved_tools_total", labels).add(1)

    def guarded(self, phase: str, action: str) -> None:
        """A guard's judgement: Request, Response; Allow, Mask, Reject, FailOpen."""
        found = self._guards.get((phase, action))
        if found is None:
            labels = [("phase", phase), ("action", action)]
            found = self._registry.counter("guardrail_checks_total", labels)
            self._guards[phase, action] = found
        found.add(1)

    def _found(self, facts: RouteFacts, labels: Labels) -> Counter:
        if len(self._known) >= _MAX_COMBINATIONS:
            labels = (*labels[:3], OTHER)
        found = self._known.get((facts, labels))
        if found is None:
            method, kind, server, name = labels
            found = self._registry.counter(
                "mcp_requests_total",
                [
                    ("method", method),
                    ("resource_type", kind),
                    ("server", server),
                    ("resource", name),
                    *route_labels(facts),
                ],
            )
            self._known[facts, labels] = found
        return found


@final
class Facts:
    """Of one request. Written to as it goes its way; it is `request.state["mcp"]` as well."""

    __slots__ = ("_identity", "state")

    def __init__(self, request: Request, session: str = "") -> None:
        self.state: dict[str, Any] = {}
        self._identity: object = None
        if session:
            self.state["sessionId"] = session
        request.state[STATE] = self.state

    def asks(self, message: Json) -> None:
        """What the client asks for, in its own words."""
        method = message["method"]
        self._identity = message.get("id")
        self.state["methodName"] = method
        try:
            subject = named(message)
        except JsonRpcError:
            # It names nothing, which is for the servers to judge.
            return
        if subject is None:
            return
        self.is_about(subject.kind, "", subject.name)
        if subject.kind == "tool" and isinstance(message["params"].get("arguments"), dict):
            self.state["tool"]["arguments"] = message["params"]["arguments"]

    def is_about(self, kind: str, target: str, name: str) -> None:
        """The same in the server's words."""
        about = self.state.setdefault("resource" if kind == "template" else kind, {})
        about["name"], about["target"] = name, target

    def goes_to(self, target: str, called: Called | None = None) -> None:
        """Which server is asked. `called`: what about, in its words, where they differ."""
        if called is not None:
            self.is_about(called.kind, called.target, called.name)
            return
        for kind in _KINDS:
            if kind in self.state:
                self.state[kind]["target"] = target

    def seen(self, message: Json) -> None:
        """A message that goes to the client."""
        error = message.get("error")
        if isinstance(error, dict):
            self.failed(error.get("code"), error.get("message"))
        elif "result" in message and message.get("id") == self._identity:
            result = message["result"]
            tool = self.state.get("tool")
            if tool is not None and isinstance(result, dict):
                tool["error" if result.get("isError") else "result"] = result

    def failed(self, code: object, message: object) -> None:
        """The request ends with an error."""
        self.state["errorCode"] = code
        self.state["errorMessage"] = str(message)[:_TEXT_MAX]

    def labels(self) -> Labels:
        """Of its series."""
        state = self.state
        for kind in _KINDS:
            about = state.get(kind)
            if about is not None:
                name = "" if kind == "task" else about["name"]
                return str(state.get("methodName", "")), kind, about["target"], name
        return str(state.get("methodName", "")), "", "", ""
