"""Words of one era in the other's (mcp.bridge.words): what becomes of tasks."""

from __future__ import annotations

from typing import Any

from sidecar.jsonrpc import METHOD_NOT_FOUND
from sidecar.mcp import era
from sidecar.mcp.bridge import words

TASKS: dict[str, Any] = {"capabilities": {"tasks": {"requests": {"tools": {"call": {}}}}}}


def test_a_call_is_no_task_at_a_server_of_the_other_era() -> None:
    given = {"name": "t", "task": {"ttl": 60_000}}
    assert words.legacy_params(given, None) == {"name": "t"}
    assert "task" not in words.modern_params(given, None, "", {})
    assert given["task"] == {"ttl": 60_000}


def test_neither_side_is_offered_tasks_of_the_other() -> None:
    assert "tasks" not in words.discovered(TASKS)["capabilities"]
    client: dict[str, Any] = {"capabilities": {"tasks": {}, "roots": {}}}
    meta = words.modern_params({}, client, "", {})["_meta"]
    assert meta[era.CAPABILITIES_META] == {"roots": {}}


def test_tools_that_are_only_called_as_tasks_are_not_listed() -> None:
    tools = [
        {"name": "a"},
        {"name": "b", "execution": {"taskSupport": "required"}},
        {"name": "c", "execution": {"taskSupport": "optional"}},
    ]
    told = words.complete("tools/list", {"tools": tools}, None)
    assert told["tools"] == [{"name": "a"}, {"name": "c"}]
    assert len(tools) == 3


def test_refusals_say_why() -> None:
    old, new = words.no_tasks("tasks/get", era.LEGACY[0]), words.no_tasks("tasks/get", era.MODERN)
    assert {old.code, new.code} == {METHOD_NOT_FOUND}
    assert "speaks 2025-11-25, whose tasks are not 2026-07-28's" in str(old)
    assert "speaks 2026-07-28, whose tasks are not 2025-11-25's" in str(new)


def test_a_refused_call_may_want_to_be_a_task() -> None:
    error = {"code": METHOD_NOT_FOUND, "message": "no such"}
    assert "only called as a task" in words.of_call(error, TASKS)["message"]
    assert words.of_call(error, {"capabilities": {}}) == error
    assert words.of_call({"code": -1, "message": "x"}, TASKS) == {"code": -1, "message": "x"}
    assert words.is_task({"resultType": "task", "taskId": "t"})
    assert not words.is_task({"resultType": "complete"})
