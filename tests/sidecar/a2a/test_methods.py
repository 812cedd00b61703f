"""Methods by the head of a request."""

from __future__ import annotations

import pytest

from sidecar.a2a.methods import CARD, EXTENDED_CARD, AmbiguousPath, called, of_rpc

HEADS = {
    "card": ("GET", "/.well-known/agent-card.json", "", "HTTP+JSON", CARD, ""),
    "old card": ("GET", "/x/y/.well-known/agent.json", "", "HTTP+JSON", CARD, ""),
    "card's head": ("HEAD", "/.well-known/agent.json", "", "HTTP+JSON", CARD, ""),
    "card by POST": ("POST", "/.well-known/agent.json", "", "JSONRPC", "", ""),
    "another well-known": ("GET", "/.well-known/openid-configuration", "", "", "", ""),
    "send": ("POST", "/message:send", "", "HTTP+JSON", "SendMessage", ""),
    "send, encoded": ("POST", "/message%3Asend", "", "HTTP+JSON", "SendMessage", ""),
    "send, 0.3": ("POST", "/v1/message:send", "", "HTTP+JSON", "SendMessage", ""),
    "send, slash": ("POST", "/message:send/", "", "HTTP+JSON", "SendMessage", ""),
    "stream": ("POST", "/t/message:stream", "", "HTTP+JSON", "SendStreamingMessage", ""),
    "send by GET": ("GET", "/message:send", "", "", "", ""),
    "list": ("GET", "/tenant/tasks", "", "HTTP+JSON", "ListTasks", ""),
    "get": ("GET", "/tasks/a.b-c", "", "HTTP+JSON", "GetTask", "a.b-c"),
    "get, encoded": ("GET", "/tasks/a%2Fb", "", "HTTP+JSON", "GetTask", "a/b"),
    "get behind an encoded slash": ("GET", "/x/tasks%2Fa", "", "HTTP+JSON", "GetTask", "a"),
    "get, colon": ("GET", "/tasks/a:b", "", "HTTP+JSON", "GetTask", "a:b"),
    "cancel": ("POST", "/v1/tasks/7:cancel", "", "HTTP+JSON", "CancelTask", "7"),
    "cancel by GET": ("GET", "/tasks/7:cancel", "", "", "", ""),
    "subscribe": ("POST", "/tasks/7:subscribe", "", "HTTP+JSON", "SubscribeToTask", "7"),
    "subscribe, 0.3": ("GET", "/v1/tasks/7:subscribe", "", "HTTP+JSON", "SubscribeToTask", "7"),
    "hook": (
        *("POST", "/tasks/7/pushNotificationConfigs", "", "HTTP+JSON"),
        *("CreateTaskPushNotificationConfig", "7"),
    ),
    "hooks": (
        *("GET", "/tasks/7/pushNotificationConfigs", "", "HTTP+JSON"),
        *("ListTaskPushNotificationConfigs", "7"),
    ),
    "one hook": (
        *("GET", "/tasks/7/pushNotificationConfigs/1", "", "HTTP+JSON"),
        *("GetTaskPushNotificationConfig", "7"),
    ),
    "hook gone": (
        *("DELETE", "/t/tasks/7/pushNotificationConfigs/1", "", "HTTP+JSON"),
        *("DeleteTaskPushNotificationConfig", "7"),
    ),
    "extended": ("GET", "/extendedAgentCard", "", "HTTP+JSON", EXTENDED_CARD, ""),
    "extended, 0.3": ("GET", "/v1/card", "", "HTTP+JSON", EXTENDED_CARD, ""),
    "json-rpc": ("POST", "/", "application/json", "JSONRPC", "", ""),
    "json-rpc at a word": ("POST", "/tasks", "application/json", "JSONRPC", "", ""),
    "untyped": ("POST", "/rpc", "", "JSONRPC", "", ""),
    "plain": ("GET", "/", "", "", "", ""),
    "upload": ("PUT", "/files/1", "application/json", "", "", ""),
    "grpc": (
        *("POST", "/lf.a2a.v1.A2AService/SendMessage", "application/grpc", "GRPC"),
        *("SendMessage", ""),
    ),
    "grpc, 0.3": (
        *("POST", "/a2a.v1.A2AService/TaskSubscription", "application/grpc+proto", "GRPC"),
        *("SubscribeToTask", ""),
    ),
    "grpc card, 0.3": (
        *("POST", "/a2a.v1.A2AService/GetAgentCard", "application/grpc", "GRPC"),
        *(EXTENDED_CARD, ""),
    ),
    "grpc below a prefix": (
        *("POST", "/m/lf.a2a.v1.A2AService/GetTask", "application/grpc", "GRPC"),
        *("GetTask", ""),
    ),
    "get's head": ("HEAD", "/tasks/7", "", "HTTP+JSON", "GetTask", "7"),
    "another service": ("POST", "/x.Y/SendMessage", "application/grpc", "GRPC", "", ""),
}


@pytest.mark.parametrize("case", HEADS.values(), ids=HEADS)
def test_head(case: tuple[str, ...]) -> None:
    verb, path, kind, binding, method, task = case
    found = called(verb, path, kind.encode())
    assert (found.binding, found.method, found.task_id) == (binding, method, task)


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/tasks/tasks"),
        ("GET", "/tasks/extendedAgentCard"),
        ("GET", "/tasks/7%2FpushNotificationConfigs"),
        # Connect and transcoding.
        ("POST", "/lf.a2a.v1.A2AService/SendMessage"),
        ("POST", "/m/a2a.v1.A2AService/SendMessage"),
    ],
)
def test_a_path_of_two_meanings(verb: str, path: str) -> None:
    with pytest.raises(AmbiguousPath):
        called(verb, path, b"")


def test_a_long_path_is_not_searched() -> None:
    assert called("GET", "/tasks/" + "a" * 5000, b"").method == ""


def test_names_of_json_rpc() -> None:
    assert of_rpc("message/send") == of_rpc("SendMessage") == "SendMessage"
    assert of_rpc("agent/getAuthenticatedExtendedCard") == EXTENDED_CARD
    assert of_rpc("own/method") == "own/method"
