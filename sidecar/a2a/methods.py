"""Which A2A method a request calls: one name for it in every binding and era.

Source: A2A 1.0 sections 5, 9 to 11 (methods and their bindings), A2A 0.3 sections 3 and 7;
spec/mcp_a2a.md section 3.2.

Rules over methods must not depend on how a client spells one, so that everything gets the name of
version 1.0: `message/send`, `POST /v1/message:send` and `/a2a.v1.A2AService/SendMessage` are all
`SendMessage`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, final
from urllib.parse import unquote

Binding = Literal["JSONRPC", "HTTP+JSON", "GRPC", ""]

CARD: Final = "GetAgentCard"
"""The public card at its well-known path, which is no method of the protocol."""
EXTENDED_CARD: Final = "GetExtendedAgentCard"
SEND: Final = "SendMessage"
STREAM: Final = "SendStreamingMessage"
SUBSCRIBE: Final = "SubscribeToTask"
CREATE_WEBHOOK: Final = "CreateTaskPushNotificationConfig"
LIST_WEBHOOKS: Final = "ListTaskPushNotificationConfigs"

METHODS: Final = frozenset(
    (
        *(SEND, STREAM, SUBSCRIBE, CREATE_WEBHOOK, LIST_WEBHOOKS, EXTENDED_CARD),
        *("GetTask", "ListTasks", "CancelTask"),
        *("GetTaskPushNotificationConfig", "DeleteTaskPushNotificationConfig"),
    )
)
STREAMING: Final = frozenset((STREAM, SUBSCRIBE))

_OLD: Final = {
    "message/send": SEND,
    "message/stream": STREAM,
    "tasks/get": "GetTask",
    "tasks/list": "ListTasks",
    "tasks/cancel": "CancelTask",
    "tasks/resubscribe": SUBSCRIBE,
    "tasks/pushNotificationConfig/set": CREATE_WEBHOOK,
    "tasks/pushNotificationConfig/get": "GetTaskPushNotificationConfig",
    "tasks/pushNotificationConfig/list": LIST_WEBHOOKS,
    "tasks/pushNotificationConfig/delete": "DeleteTaskPushNotificationConfig",
    "agent/getAuthenticatedExtendedCard": EXTENDED_CARD,
}
"""JSON-RPC methods of 0.3."""
_OLD_GRPC: Final = {
    "TaskSubscription": SUBSCRIBE,
    "ListTaskPushNotificationConfig": LIST_WEBHOOKS,
    # In 0.3 the method of this name gives the card of an authenticated caller.
    "GetAgentCard": EXTENDED_CARD,
}
_GRPC_SERVICES: Final = {"lf.a2a.v1.A2AService": "1.0", "a2a.v1.A2AService": "0.3"}
_WELL_KNOWN: Final = ("/.well-known/agent.json", "/.well-known/agent-card.json")

_ID: Final = r"[^/]+?"
_REST: Final = tuple(
    (verbs, re.compile(pattern), method)
    for verbs, pattern, method in (
        (("POST",), r"/message:send", SEND),
        (("POST",), r"/message:stream", STREAM),
        (("GET",), r"/tasks", "ListTasks"),
        (("POST",), rf"/tasks/(?P<task>{_ID}):cancel", "CancelTask"),
        (("GET", "POST"), rf"/tasks/(?P<task>{_ID}):subscribe", SUBSCRIBE),
        (("POST",), rf"/tasks/(?P<task>{_ID})/pushNotificationConfigs", CREATE_WEBHOOK),
        (("GET",), rf"/tasks/(?P<task>{_ID})/pushNotificationConfigs", LIST_WEBHOOKS),
        (
            ("GET",),
            rf"/tasks/(?P<task>{_ID})/pushNotificationConfigs/{_ID}",
            "GetTaskPushNotificationConfig",
        ),
        (
            ("DELETE",),
            rf"/tasks/(?P<task>{_ID})/pushNotificationConfigs/{_ID}",
            "DeleteTaskPushNotificationConfig",
        ),
        (("GET",), r"/tasks/(?P<task>(?![^/]*:(?:cancel|subscribe)\Z)[^/]+)", "GetTask"),
        (("GET",), r"/extendedAgentCard", EXTENDED_CARD),
        (("GET",), r"/v1/card", EXTENDED_CARD),
    )
)
"""Verbs, the end of a path and its method. What stands before it is the mount, the era's `/v1` and
the tenant."""
_MARKS: Final = ("/message:", "/tasks", "/extendedAgentCard", "/v1/card")
_REST_MAX: Final = 4096
"""Octets of a path beyond which nobody looks for a method."""


class AmbiguousPath(ValueError):
    """A path that some agents read as another method than others. The message says how."""


@final
@dataclass(frozen=True, slots=True)
class Called:
    """What the head of a request tells. `method` is "" where the body has to say."""

    binding: Binding
    method: str = ""
    task_id: str = ""
    wire_method: str = ""
    """The method's own name in the binding, where that has one."""
    era: str = ""
    """Of the service's name (gRPC)."""


PLAIN: Final = Called("")
"""A request of something else than the protocol."""
_RPC: Final = Called("JSONRPC")


def called(verb: str, path: str, content_type: bytes) -> Called:
    """By a request's head. `path`: canonical. Raises: AmbiguousPath."""
    if content_type.startswith(b"application/grpc"):
        return _grpc(path)
    if ".A2AService/" in path and not _GRPC_SERVICES.keys().isdisjoint(path.split("/")):
        # Connect and transcoders take its methods in other forms, which are not read here.
        raise AmbiguousPath("this service is served to gRPC only")
    if verb in ("GET", "HEAD") and path.endswith(_WELL_KNOWN):
        return Called("HTTP+JSON", CARD)
    if "%" in path or any(mark in path for mark in _MARKS):
        found = _rest(verb, path)
        if found is not None:
            return found
    return _RPC if verb == "POST" else PLAIN


def _grpc(path: str) -> Called:
    mount, _, name = path.rpartition("/")
    era = _GRPC_SERVICES.get(mount.rpartition("/")[2])
    if era is None:
        return Called("GRPC", "", wire_method=name[:128])
    method = (_OLD_GRPC.get(name) if era == "0.3" else None) or name
    return Called("GRPC", method[:128], wire_method=name[:128], era=era)


def _rest(verb: str, path: str) -> Called | None:
    if len(path) > _REST_MAX:
        return None
    path = path.rstrip("/")
    verb = "GET" if verb == "HEAD" else verb
    # Some servers decode `%2F` before they split a path, others after; and what is a tenant to one
    # (`/tasks/tasks`) is a task to another.
    found = [one for form in {path, unquote(path)} for one in _rest_of(verb, form)]
    if len({one.method for one in found}) > 1:
        raise AmbiguousPath("the path can be read as two methods")
    return found[0] if found else None


def _rest_of(verb: str, path: str) -> list[Called]:
    """All that the end of a path can mean."""
    found: list[Called] = []
    for verbs, pattern, method in _REST:
        match = _at_end(pattern, path) if verb in verbs else None
        if match is not None:
            task = match.groupdict().get("task") or ""
            found.append(Called("HTTP+JSON", method, unquote(task)))
    return found


def _at_end(pattern: re.Pattern[str], path: str) -> re.Match[str] | None:
    """A match of the end of a path that begins at one of its slashes."""
    start = len(path)
    # A pattern has four segments at most.
    for _ in range(4):
        start = path.rfind("/", 0, start)
        if start < 0:
            return None
        found = pattern.fullmatch(path, start)
        if found is not None:
            return found
    return None


def of_rpc(name: str) -> str:
    """The 1.0 name of a JSON-RPC method; one that nobody knows stays as it is."""
    return _OLD.get(name, name)
