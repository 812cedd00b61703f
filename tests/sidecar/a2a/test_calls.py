"""Bodies of calls: ids and webhooks of all bindings, and what is refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.types import a2a_pb2 as new
from hypothesis import given
from hypothesis import strategies as st

from sidecar.a2a import calls
from sidecar.a2a.calls import BadCall, Details
from sidecar.a2a.methods import called

URL = "https://hook.test/"


def rpc(method: str, params: object = None, **more: Any) -> Details:
    body = {"jsonrpc": "2.0", "id": "i", "method": method, "params": params or {}, **more}
    return calls.rpc(orjson.dumps(body))


MESSAGE = {"messageId": "m", "taskId": "t", "contextId": "c"}
RPCS: dict[str, tuple[str, object, str, str, tuple[object, ...]]] = {
    "send": ("SendMessage", {"message": MESSAGE}, "t", "c", ()),
    "send, snake": ("SendMessage", {"message": {"task_id": "t"}}, "t", "", ()),
    "0.3 hook": (
        "message/send",
        {"message": {}, "configuration": {"pushNotificationConfig": {"url": URL}}},
        *("", "", (URL,)),
    ),
    "1.0 hook": (
        "SendStreamingMessage",
        {"configuration": {"taskPushNotificationConfig": {"url": URL, "token": "x"}}},
        *("", "", (URL,)),
    ),
    "hook spelt for lenient readers": (
        "SendMessage",
        {"Configuration": {"task_push_notification_config": {"URL": URL}}},
        *("", "", (URL,)),
    ),
    "a url in a message is none": (
        "SendMessage",
        {"message": {"parts": [{"url": "http://127.0.0.1/"}]}},
        *("", "", ()),
    ),
    "set": (
        "tasks/pushNotificationConfig/set",
        {"taskId": "t", "pushNotificationConfig": {"url": URL}},
        *("t", "", (URL,)),
    ),
    "create": ("CreateTaskPushNotificationConfig", {"taskId": "t", "url": URL}, "t", "", (URL,)),
    "create with no text": ("CreateTaskPushNotificationConfig", {"url": 1}, "", "", (1,)),
    "get": ("tasks/get", {"id": "t"}, "t", "", ()),
    "list": ("ListTasks", {"contextId": "c"}, "", "c", ()),
    "hook's own id": ("GetTaskPushNotificationConfig", {"id": "1", "taskId": "t"}, "t", "", ()),
    "another method": ("x/y", {"deep": [{"PushNotification": {"url": URL}}]}, "", "", (URL,)),
}


@pytest.mark.parametrize("case", RPCS.values(), ids=RPCS)
def test_json_rpc(case: tuple[str, object, str, str, tuple[object, ...]]) -> None:
    method, params, task, context, webhooks = case
    found = rpc(method, params)
    assert (found.task_id, found.context_id, found.webhooks) == (task, context, webhooks)
    assert (found.wire_method, found.identity) == (method, "i")


BAD = {
    "not JSON": (b"{", -32700),
    "trailing": (b"{} {}", -32700),
    "twice": (b'{"jsonrpc":"2.0","method":"a","method":"b"}', -32700),
    "twice below": (b'{"jsonrpc":"2.0","method":"a","params":{"x":1,"x":2}}', -32700),
    "escaped twin": (b'{"jsonrpc":"2.0","method":"a","m\\u0065thod":"b"}', -32700),
    "no number": (b'{"jsonrpc":"2.0","method":"a","id":NaN}', -32700),
    "mark": (b'\xef\xbb\xbf{"jsonrpc":"2.0","method":"a"}', -32700),
    "UTF-16": ('{"jsonrpc":"2.0","method":"a"}'.encode("utf-16"), -32700),
    "surrogate": (b'{"jsonrpc":"2.0","method":"\\ud800"}', -32700),
    "another case": (b'{"jsonrpc":"2.0","Method":"a"}', -32600),
    "both cases": (b'{"jsonrpc":"2.0","method":"a","METHOD":"b"}', -32600),
    "batch": (b'[{"jsonrpc":"2.0","method":"a"}]', -32600),
    "no version": (b'{"method":"a"}', -32600),
    "method of no text": (b'{"jsonrpc":"2.0","method":1}', -32600),
    "text": (b'"a"', -32600),
    "list of params": (b'{"jsonrpc":"2.0","method":"a","params":[1]}', -32602),
    "deep": (b'{"jsonrpc":"2.0","method":"a","params":' + b'{"a":' * 500, -32700),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_refused(case: tuple[bytes, int]) -> None:
    with pytest.raises(BadCall) as caught:
        calls.rpc(case[0])
    assert caught.value.code == case[1]


def test_json_that_is_no_call_is_not_ours() -> None:
    assert calls.rpc(b'{"file":"x"}') == Details("")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"a":1}', True),
        ('{"a":1}'.encode("utf-16"), True),
        (b" [1", True),
        (b"--boundary", False),
        (b"", False),
        (b"7", False),
    ],
)
def test_what_an_agent_could_take_for_a_call(raw: bytes, expected: bool) -> None:
    assert calls.looks_like_rpc(raw) is expected


def test_rest() -> None:
    create = called("POST", "/tasks/9/pushNotificationConfigs", b"")
    body = {"config": {"pushNotificationConfig": {"url": URL}}}
    found = calls.rest(create, orjson.dumps(body))
    assert (found.task_id, found.webhooks) == ("9", (URL,))
    send = called("POST", "/v1/message:send", b"")
    body = {"request": MESSAGE, "configuration": {"pushNotification": {"url": URL}}}
    found = calls.rest(send, orjson.dumps(body))
    assert (found.task_id, found.context_id, found.webhooks) == ("t", "c", (URL,))
    assert calls.rest(called("POST", "/tasks/9:cancel", b""), b" ").task_id == "9"
    for raw in (b"[]", b'{"jsonrpc":"2.0","method":"CancelTask"}'):
        with pytest.raises(BadCall):
            calls.rest(send, raw)


def grpc(service: str, method: str, message: Any) -> Details:
    head = called("POST", f"/{service}.A2AService/{method}", b"application/grpc")
    return calls.grpc(head, message.SerializeToString())


def test_grpc_of_1_0() -> None:
    hook = new.TaskPushNotificationConfig(task_id="t", url=URL)
    message = new.Message(task_id="t", context_id="c")
    send = new.SendMessageRequest(
        message=message,
        configuration=new.SendMessageConfiguration(task_push_notification_config=hook),
    )
    found = grpc("lf.a2a.v1", "SendMessage", send)
    assert (found.task_id, found.context_id, found.webhooks) == ("t", "c", (URL,))
    found = grpc("lf.a2a.v1", "CreateTaskPushNotificationConfig", hook)
    assert (found.task_id, found.webhooks) == ("t", (URL,))
    for method, request in (
        ("GetTask", new.GetTaskRequest(id="t")),
        ("CancelTask", new.CancelTaskRequest(id="t")),
        ("SubscribeToTask", new.SubscribeToTaskRequest(id="t")),
        ("GetTaskPushNotificationConfig", new.GetTaskPushNotificationConfigRequest(task_id="t")),
        (
            "ListTaskPushNotificationConfigs",
            new.ListTaskPushNotificationConfigsRequest(task_id="t"),
        ),
        (
            "DeleteTaskPushNotificationConfig",
            new.DeleteTaskPushNotificationConfigRequest(task_id="t"),
        ),
    ):
        assert grpc("lf.a2a.v1", method, request).task_id == "t"
    assert grpc("lf.a2a.v1", "ListTasks", new.ListTasksRequest(context_id="c")).context_id == "c"


def test_grpc_of_0_3() -> None:
    hook = old.PushNotificationConfig(url=URL)
    send = old.SendMessageRequest(
        request=old.Message(task_id="t", context_id="c"),
        configuration=old.SendMessageConfiguration(push_notification=hook),
    )
    found = grpc("a2a.v1", "SendStreamingMessage", send)
    assert (found.task_id, found.context_id, found.webhooks) == ("t", "c", (URL,))
    create = old.CreateTaskPushNotificationConfigRequest(
        parent="tasks/t", config=old.TaskPushNotificationConfig(push_notification_config=hook)
    )
    found = grpc("a2a.v1", "CreateTaskPushNotificationConfig", create)
    assert (found.task_id, found.webhooks) == ("t", (URL,))
    assert grpc("a2a.v1", "GetTask", old.GetTaskRequest(name="tasks/t")).task_id == "t"


def test_hooks_in_parts_that_are_merged() -> None:
    """A message that occurs twice is one message to its reader."""

    def send(url: str) -> bytes:
        hook = new.TaskPushNotificationConfig(url=url)
        configuration = new.SendMessageConfiguration(task_push_notification_config=hook)
        return new.SendMessageRequest(configuration=configuration).SerializeToString()

    head = called("POST", "/lf.a2a.v1.A2AService/SendMessage", b"application/grpc")
    assert calls.grpc(head, send("a") + send("b")).webhooks == ("a", "b")


@given(st.binary(max_size=64))
def test_any_octets_are_a_call_or_refused(raw: bytes) -> None:
    head = called("POST", "/lf.a2a.v1.A2AService/SendMessage", b"application/grpc")
    for read in (lambda: calls.grpc(head, raw), lambda: calls.rpc(raw)):
        try:
            read()
        except BadCall:
            continue
