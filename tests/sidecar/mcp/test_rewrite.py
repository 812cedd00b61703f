"""Messages of clients for one server, and of servers for clients."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.jsonrpc import JsonRpcError
from sidecar.mcp import rewrite
from sidecar.mcp.names import Names
from sidecar.mcp.rewrite import Named

TWO = Names(("a", "b"), "conditional")
ONE = Names(("a",), "conditional")
RELATED = "io.modelcontextprotocol/related-task"


def call(method: str, **params: object) -> dict:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def said(method: str, **params: object) -> dict:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def answered(result: dict) -> dict:
    return {"jsonrpc": "2.0", "id": 1, "result": result}


def prompt(name: str) -> dict:
    return {"type": "ref/prompt", "name": name}


def resource(uri: str) -> dict:
    return {"type": "ref/resource", "uri": uri}


NAMED = {
    "tool": (call("tools/call", name="a_x", arguments={}), ("tool", "a_x")),
    "prompt": (call("prompts/get", name="a_x"), ("prompt", "a_x")),
    "read": (call("resources/read", uri="a+f:x"), ("resource", "a+f:x")),
    "subscribe": (call("resources/subscribe", uri="a+f:x"), ("resource", "a+f:x")),
    "unsubscribe": (call("resources/unsubscribe", uri="a+f:x"), ("resource", "a+f:x")),
    "complete a prompt": (call("completion/complete", ref=prompt("a_x")), ("prompt", "a_x")),
    "complete a URI": (call("completion/complete", ref=resource("a+f:x")), ("template", "a+f:x")),
    "task": (call("tasks/get", taskId="a+1"), ("task", "a+1")),
    "task's result": (call("tasks/result", taskId="a+1"), ("task", "a+1")),
    "task, answered": (call("tasks/update", taskId="a+1"), ("task", "a+1")),
    "task, cancelled": (call("tasks/cancel", taskId="a+1"), ("task", "a+1")),
    "list": (call("tools/list"), None),
    "ping": ({"jsonrpc": "2.0", "id": 1, "method": "ping"}, None),
    "level": (call("logging/setLevel", level="info"), None),
}


@pytest.mark.parametrize(("message", "expected"), NAMED.values(), ids=NAMED.keys())
def test_named(message, expected):
    assert rewrite.named(message) == (None if expected is None else Named(*expected))


NAMELESS = {
    "tool": call("tools/call"),
    "no text": call("tools/call", name=7),
    "no params": {"jsonrpc": "2.0", "id": 1, "method": "resources/read"},
    "no reference": call("completion/complete"),
    "no object": call("completion/complete", ref="x"),
    "unknown reference": call("completion/complete", ref={"type": "ref/tool", "name": "x"}),
    "a reference's type is no text": call("completion/complete", ref={"type": ["ref/prompt"]}),
    "a reference without a name": call("completion/complete", ref={"type": "ref/prompt"}),
}


@pytest.mark.parametrize("message", NAMELESS.values(), ids=NAMELESS.keys())
def test_nothing_named(message):
    with pytest.raises(JsonRpcError) as caught:
        rewrite.named(message)
    assert (caught.value.code, caught.value.status, caught.value.identity) == (-32602, 400, 1)


TO_SERVER = {
    "tool": (
        call("tools/call", name="a_x", arguments={"uri": "a+f:x"}, _meta={"progressToken": 1}),
        "x",
        call("tools/call", name="x", arguments={"uri": "a+f:x"}, _meta={"progressToken": 1}),
    ),
    "read": (call("resources/read", uri="a+f:x"), "f:x", call("resources/read", uri="f:x")),
    "complete": (
        call("completion/complete", ref=prompt("a_x"), argument={"name": "n"}),
        "x",
        call("completion/complete", ref=prompt("x"), argument={"name": "n"}),
    ),
    "complete a URI": (
        call("completion/complete", ref=resource("a+f:{x}")),
        "f:{x}",
        call("completion/complete", ref=resource("f:{x}")),
    ),
    "task": (call("tasks/get", taskId="a+1"), "1", call("tasks/get", taskId="1")),
    "related task": (
        call("prompts/get", name="a_x", _meta={RELATED: {"taskId": "a+1"}}),
        "x",
        call("prompts/get", name="x", _meta={RELATED: {"taskId": "1"}}),
    ),
}


@pytest.mark.parametrize(("message", "own", "expected"), TO_SERVER.values(), ids=TO_SERVER.keys())
def test_for_target(message, own, expected):
    before = copy.deepcopy(message)
    assert rewrite.for_target(TWO, message, own) == expected
    assert message == before


def test_arguments():
    message = call("tools/call", name="a_x", arguments={"p": 1})
    expected = call("tools/call", name="x", arguments={"q": 2})
    assert rewrite.for_target(TWO, message, "x", arguments={"q": 2}) == expected
    missing = call("tools/call", name="a_x")
    assert rewrite.for_target(TWO, missing, "x", arguments={"q": 2}) == expected


UNTOUCHED = {
    "same name": (ONE, call("tools/call", name="x", arguments={}), "x"),
    "same arguments": (ONE, call("tools/call", name="x", arguments={}), "x"),
    "names nothing": (TWO, call("tools/list", cursor="x", _meta={"k": 1}), ""),
    "no params": (TWO, {"jsonrpc": "2.0", "id": 1, "method": "ping"}, ""),
    "foreign task": (TWO, call("ping", _meta={RELATED: {"taskId": "786"}}), ""),
}


@pytest.mark.parametrize(("names", "message", "own"), UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_untouched_requests_are_the_same_object(names, message, own):
    assert rewrite.for_target(names, message, own) is message
    arguments = message.get("params", {}).get("arguments")
    assert rewrite.for_target(names, message, own, arguments=arguments) is message


LINK = {"type": "resource_link", "uri": "f:x", "name": "n"}
LINKED = {**LINK, "uri": "a+f:x"}
EMBEDDED = {"type": "resource", "resource": {"uri": "f:x", "text": "f:x"}, "annotations": {}}
EMBED = {**EMBEDDED, "resource": {"uri": "a+f:x", "text": "f:x"}}
TEXT = {"type": "text", "text": "f:x"}
NESTED = {"type": "tool_result", "toolUseId": "1", "content": [LINK]}

RESULTS = {
    "links": ("tools/call", {"content": [TEXT, LINK]}, {"content": [TEXT, LINKED]}),
    "embedded": ("tools/call", {"content": [EMBEDDED]}, {"content": [EMBED]}),
    "structured content is data": (
        "tools/call",
        {"content": [LINK], "structuredContent": {"content": [LINK], "uri": "f:x"}},
        {"content": [LINKED], "structuredContent": {"content": [LINK], "uri": "f:x"}},
    ),
    "view": (
        "tools/call",
        {"content": [], "_meta": {"ui": {"resourceUri": "ui://v"}, "ui/resourceUri": "ui://v"}},
        {"content": [], "_meta": {"ui": {"resourceUri": "ui://a+v"}, "ui/resourceUri": "ui://a+v"}},
    ),
    "task of 2025-11-25": (
        "tools/call",
        {"task": {"taskId": "1", "status": "working"}},
        {"task": {"taskId": "a+1", "status": "working"}},
    ),
    "task of 2026-07-28": (
        "tools/call",
        {"resultType": "task", "taskId": "1"},
        {"resultType": "task", "taskId": "a+1"},
    ),
    "result of a task": (
        "tasks/result",
        {"content": [LINK], "_meta": {RELATED: {"taskId": "1"}}},
        {"content": [LINKED], "_meta": {RELATED: {"taskId": "a+1"}}},
    ),
    "state of a task": (
        "tasks/get",
        {"taskId": "1", "status": "completed", "result": {"content": [LINK]}},
        {"taskId": "a+1", "status": "completed", "result": {"content": [LINKED]}},
    ),
    "cancelled task": ("tasks/cancel", {"taskId": "1"}, {"taskId": "a+1"}),
    "prompt": (
        "prompts/get",
        {"messages": [{"role": "user", "content": LINK}, {"role": "user", "content": [EMBEDDED]}]},
        {"messages": [{"role": "user", "content": LINKED}, {"role": "user", "content": [EMBED]}]},
    ),
    "contents": (
        "resources/read",
        {"contents": [{"uri": "f:x", "text": "t"}, {"uri": "bare"}]},
        {"contents": [{"uri": "a+f:x", "text": "t"}, {"uri": "bare"}]},
    ),
    "several inputs": (
        "tools/call",
        {
            "resultType": "input_required",
            "requestState": "s",
            "inputRequests": {
                "1": {
                    "method": "sampling/createMessage",
                    "params": {"messages": [{"role": "user", "content": [NESTED]}]},
                },
                "2": {"method": "elicitation/create", "params": {"message": "f:x"}},
                "3": {"method": "roots/list"},
            },
        },
        {
            "resultType": "input_required",
            "requestState": "s",
            "inputRequests": {
                "1": {
                    "method": "sampling/createMessage",
                    "params": {
                        "messages": [{"role": "user", "content": [{**NESTED, "content": [LINKED]}]}]
                    },
                },
                "2": {"method": "elicitation/create", "params": {"message": "f:x"}},
                "3": {"method": "roots/list"},
            },
        },
    ),
}


@pytest.mark.parametrize(("method", "own", "client"), RESULTS.values(), ids=RESULTS.keys())
def test_results(method, own, client):
    message = answered(own)
    before = copy.deepcopy(message)
    assert rewrite.to_client(TWO, "a", message, method) == answered(client)
    assert message == before
    assert rewrite.to_client(ONE, "a", message, method) is message


def test_only_the_path_to_a_change_is_copied():
    message = answered({"content": [TEXT, LINK], "structuredContent": {"big": 1}})
    told = rewrite.to_client(TWO, "a", message, "tools/call")
    assert told["result"]["structuredContent"] is message["result"]["structuredContent"]
    assert told["result"]["content"][0] is TEXT


SAME = {
    "text": ("tools/call", answered({"content": [TEXT], "isError": False})),
    "bare URI": ("resources/read", answered({"contents": [{"uri": "bare"}]})),
    "no task": ("tools/call", answered({"content": [], "taskId": "1"})),
    "completion": ("completion/complete", answered({"completion": {"values": ["f:x"]}})),
    "another method": ("vendor/x", answered({"content": [LINK]})),
    "error": ("tools/call", {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "f:x"}}),
    "error with data": (
        "tools/call",
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "", "data": {"x": 1}}},
    ),
    "log": ("", said("notifications/message", level="info", data={"uri": "f:x"})),
    "progress": ("", said("notifications/progress", progressToken=1, progress=1)),
    "no params": ("", {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}),
    "junk": ("tools/call", answered({"content": 7, "_meta": 7, "inputRequests": 7})),
    "junk inside": ("tools/call", answered({"content": [7, {}, {"type": "resource"}]})),
    "junk inputs": ("tools/call", answered({"inputRequests": {"a": 7, "b": {"params": 7}}})),
    "junk links": ("tools/call", answered({"content": [{"type": "resource_link", "uri": 7}]})),
    "junk messages": ("prompts/get", answered({"messages": {"a": 1}})),
    "junk update": ("", said("notifications/resources/updated", uri=7)),
    "junk cancel": ("", said("notifications/cancelled", requestId=None)),
    "junk ack": ("", said("notifications/subscriptions/acknowledged", notifications=7)),
    "no result": ("tools/call", {"jsonrpc": "2.0", "id": 1, "result": None}),
}


@pytest.mark.parametrize(("method", "message"), SAME.values(), ids=SAME.keys())
def test_untouched_answers_are_the_same_object(method, message):
    assert rewrite.to_client(TWO, "a", message, method) is message


def test_a_resource_that_is_not_there():
    problem = {"code": -32002, "message": "Resource not found", "data": {"uri": "f:x"}}
    message = {"jsonrpc": "2.0", "id": 1, "error": problem}
    told = rewrite.to_client(TWO, "a", message, "resources/read")
    assert told["error"] == {**problem, "data": {"uri": "a+f:x"}}


NOTIFICATIONS = {
    "updated": (
        said("notifications/resources/updated", uri="f:x"),
        said("notifications/resources/updated", uri="a+f:x"),
    ),
    "updated, tagged": (
        said("notifications/resources/updated", uri="f:x", _meta={"s": 1}),
        said("notifications/resources/updated", uri="a+f:x", _meta={"s": 1}),
    ),
    "task of 2025-11-25": (
        said("notifications/tasks/status", taskId="1", status="working"),
        said("notifications/tasks/status", taskId="a+1", status="working"),
    ),
    "task of 2026-07-28": (
        said("notifications/tasks", taskId="1", result={"content": [LINK]}),
        said("notifications/tasks", taskId="a+1", result={"content": [LINKED]}),
    ),
    "a request taken back": (
        said("notifications/cancelled", requestId=7),
        said("notifications/cancelled", requestId="agw_a_n_7"),
    ),
    "related task": (
        said("notifications/message", data="x", _meta={RELATED: {"taskId": "1"}}),
        said("notifications/message", data="x", _meta={RELATED: {"taskId": "a+1"}}),
    ),
    "acknowledged": (
        said(
            "notifications/subscriptions/acknowledged",
            notifications={"toolsListChanged": True, "resourceSubscriptions": ["f:x"]},
        ),
        said(
            "notifications/subscriptions/acknowledged",
            notifications={"toolsListChanged": True, "resourceSubscriptions": ["a+f:x"]},
        ),
    ),
}


@pytest.mark.parametrize(("own", "client"), NOTIFICATIONS.values(), ids=NOTIFICATIONS.keys())
def test_notifications(own, client):
    before = copy.deepcopy(own)
    assert rewrite.to_client(TWO, "a", own) == client
    assert own == before


@pytest.mark.parametrize("identity", [0, 7, -1, "x", "", "7", "a_b", "agw_b_n_1"])
def test_requests_of_servers_come_back(identity):
    params = {"message": "?", "_meta": {"progressToken": identity, RELATED: {"taskId": "1"}}}
    asked = {"jsonrpc": "2.0", "id": identity, "method": "elicitation/create", "params": params}
    before = copy.deepcopy(asked)
    told = rewrite.to_client(TWO, "a", asked)
    assert asked == before
    assert told["id"] == rewrite.server_id("a", identity)
    assert told["params"]["_meta"] == {
        "progressToken": told["id"],
        RELATED: {"taskId": "a+1"},
    }
    answer = {"jsonrpc": "2.0", "id": told["id"], "result": {"_meta": {RELATED: {"taskId": "a+1"}}}}
    expected = {"jsonrpc": "2.0", "id": identity, "result": {"_meta": {RELATED: {"taskId": "1"}}}}
    assert rewrite.answer_for(TWO, answer) == ("a", expected)
    progress = said("notifications/progress", progressToken=told["id"], progress=1)
    assert rewrite.progress_for(TWO, progress) == (
        "a",
        said("notifications/progress", progressToken=identity, progress=1),
    )


def test_requests_without_params():
    asked = {"jsonrpc": "2.0", "id": 1, "method": "roots/list"}
    assert rewrite.to_client(TWO, "a", asked) == {**asked, "id": "agw_a_n_1"}
    assert rewrite.to_client(ONE, "a", asked) is asked


def test_sampling():
    params = {"messages": [{"role": "user", "content": NESTED}], "maxTokens": 9}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": params}
    told = rewrite.to_client(TWO, "a", asked)["params"]
    assert told["messages"][0]["content"]["content"] == [LINKED]


def test_errors_of_clients():
    problem = {"jsonrpc": "2.0", "id": "agw_b_s_x", "error": {"code": -1, "message": "no"}}
    assert rewrite.answer_for(TWO, problem) == ("b", {**problem, "id": "x"})


def test_with_one_server_answers_are_the_same_object():
    answer = answered({})
    progress = said("notifications/progress", progressToken=1)
    assert rewrite.answer_for(ONE, answer)[1] is answer
    assert rewrite.progress_for(ONE, progress)[1] is progress


FORGED = [7, None, "x", "agw_", "agw_z_n_1", "agw_a_n_x", "agw_a_n_", "agw_a_q_1", "agw_a_n_1 ", ""]


@pytest.mark.parametrize("identity", [*FORGED, "agw_a_n_" + "9" * 5000, "agw_a_n_٣"])
def test_ids_that_are_no_servers(identity):
    assert rewrite.answer_for(TWO, {"jsonrpc": "2.0", "id": identity, "result": {}}) is None
    message = said("notifications/progress", progressToken=identity)
    assert rewrite.progress_for(TWO, message) is None


@given(
    st.from_regex(r"[a-z0-9]([a-z0-9.\-]{0,20}[a-z0-9])?", fullmatch=True),
    st.one_of(st.text(max_size=40), st.integers(-(2**63), 2**63 - 1)),
)
def test_ids_round_trip(target, identity):
    names = Names((target, "other-one"), "conditional")
    assert rewrite.read_server_id(names, rewrite.server_id(target, identity)) == (target, identity)


def test_listening():
    params = {
        "notifications": {
            "toolsListChanged": True,
            "promptsListChanged": False,
            "resourceSubscriptions": ["a+f:x", "b+f:y", "a+f:z", "bare", "z+f:x"],
            "taskIds": ["b+1"],
        },
        "_meta": {"k": 1},
    }
    before = copy.deepcopy(params)
    parts = rewrite.listen_parts(TWO, params)
    lists = {"toolsListChanged": True, "promptsListChanged": False}
    assert parts == {
        "a": {
            "notifications": {**lists, "resourceSubscriptions": ["f:x", "f:z", "bare"]},
            "_meta": {"k": 1},
        },
        "b": {
            "notifications": {
                **lists,
                "resourceSubscriptions": ["f:y", "bare"],
                "taskIds": ["1"],
            },
            "_meta": {"k": 1},
        },
    }
    assert params == before


def test_listening_to_one_resource_asks_one_server():
    params = {"notifications": {"resourceSubscriptions": ["b+f:y"]}}
    assert rewrite.listen_parts(TWO, params) == {
        "b": {"notifications": {"resourceSubscriptions": ["f:y"]}}
    }


def test_listening_to_nothing_asks_all():
    params = {"notifications": {}}
    assert rewrite.listen_parts(TWO, params) == {"a": params, "b": params}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"notifications": []},
        {"notifications": {"resourceSubscriptions": "x"}},
        {"notifications": {"taskIds": [1]}},
    ],
)
def test_listening_to_junk(params):
    with pytest.raises(JsonRpcError):
        rewrite.listen_parts(TWO, params)


def test_acknowledgements_join():
    answers = [
        ("a", {"toolsListChanged": True, "resourceSubscriptions": ["f:x", "bare"]}),
        ("b", {"promptsListChanged": True, "resourceSubscriptions": ["f:x", "bare"]}),
    ]
    before = copy.deepcopy(answers)
    assert rewrite.acknowledged(TWO, answers) == {
        "toolsListChanged": True,
        "promptsListChanged": True,
        "resourceSubscriptions": ["a+f:x", "bare", "b+f:x"],
    }
    assert answers == before
