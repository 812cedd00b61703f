"""What answers tell, whole and split anywhere."""

from __future__ import annotations

import gzip
from typing import Any

import orjson
import pytest
from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.types import a2a_pb2 as new
from hypothesis import given
from hypothesis import strategies as st

from sidecar.a2a.outcome import MAX_BYTES, Facts, Watch
from sidecar.http.grpc import frame

STATUS = {"state": "completed"}
TASK = {"id": "t", "contextId": "c", "status": STATUS}
TOLD = {"outcome": "success", "taskState": "completed", "contextId": "c"}


def rpc(result: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": result}


DOCUMENTS: dict[str, tuple[str, int, object, Facts]] = {
    "flat task": ("JSONRPC", 200, rpc({**TASK, "kind": "task"}), {**TOLD, "resultKind": "task"}),
    "bare task": ("JSONRPC", 200, rpc(TASK), {**TOLD, "resultKind": "task"}),
    "nested task": ("JSONRPC", 200, rpc({"task": TASK}), {**TOLD, "resultKind": "task"}),
    "nested message": (
        *("JSONRPC", 200, rpc({"message": {"contextId": "c"}})),
        {"outcome": "success", "resultKind": "message", "contextId": "c"},
    ),
    "update": (
        *("JSONRPC", 200, rpc({"statusUpdate": TASK})),
        {**TOLD, "resultKind": "status-update"},
    ),
    "artifact": (
        *("HTTP+JSON", 200, {"artifactUpdate": {"contextId": "c"}}),
        {"outcome": "success", "resultKind": "artifact-update", "contextId": "c"},
    ),
    "rest task": ("HTTP+JSON", 200, TASK, {**TOLD, "resultKind": "task"}),
    "list": ("HTTP+JSON", 200, {"tasks": []}, {"outcome": "success"}),
    "error": (
        *("JSONRPC", 200, {"error": {"code": -32001, "message": "x"}}),
        {"outcome": "error", "errorCode": -32001},
    ),
    "rest error": (
        *("HTTP+JSON", 404, {"error": {"code": 404}}),
        {"outcome": "error", "errorCode": 404},
    ),
    "error of no number": ("JSONRPC", 200, {"error": {"code": "x"}}, {"outcome": "error"}),
    "error of no object": ("JSONRPC", 200, {"error": "x"}, {"outcome": "error"}),
    "neither": ("JSONRPC", 200, {"id": 1}, {"outcome": "unknown"}),
    "list of results": ("JSONRPC", 200, [rpc({})], {"outcome": "unknown"}),
    "wrong types": (
        *("JSONRPC", 200, rpc({"kind": "task", "status": 7, "contextId": []})),
        {"outcome": "success", "resultKind": "task"},
    ),
    "null result": ("JSONRPC", 200, rpc(None), {"outcome": "success"}),
}


def watched(
    binding: Any, status: int, raw: bytes, kind: bytes = b"application/json", **more: Any
) -> Facts:
    watch = Watch(binding, more.get("method", ""), status, kind, more.get("codings", []))
    step = more.get("step", 1)
    for start in range(0, len(raw), step):
        watch.feed(raw[start : start + step])
    return watch.finish(more.get("grpc_status"))


@pytest.mark.parametrize("case", DOCUMENTS.values(), ids=DOCUMENTS)
def test_document(case: tuple[str, int, object, Facts]) -> None:
    binding, status, document, expected = case
    assert watched(binding, status, orjson.dumps(document)) == expected


def test_not_json_and_too_large() -> None:
    assert watched("JSONRPC", 200, b"<html>") == {"outcome": "unknown"}
    assert watched("JSONRPC", 500, b"<html>") == {"outcome": "error"}
    large = orjson.dumps(rpc({"kind": "task", "x": "x" * MAX_BYTES}))
    assert watched("JSONRPC", 200, large, step=65536) == {"outcome": "unknown"}


def test_compressed() -> None:
    raw = gzip.compress(orjson.dumps(rpc({"kind": "task"})))
    told = watched("JSONRPC", 200, raw, codings=[b"gzip"])
    assert told == {"outcome": "success", "resultKind": "task"}
    assert watched("JSONRPC", 200, b"damaged", codings=[b"gzip"]) == {"outcome": "unknown"}
    bomb = gzip.compress(b"x" * (MAX_BYTES + 1))
    assert watched("JSONRPC", 200, bomb, codings=[b"gzip"]) == {"outcome": "unknown"}


@given(st.integers(1, 200))
def test_the_last_event_of_a_stream(step: int) -> None:
    events = [rpc({"kind": "task"}), rpc({**TASK, "kind": "status-update"})]
    raw = b"".join(b"data: " + orjson.dumps(event) + b"\r\n\r\n" for event in events)
    told = watched("JSONRPC", 200, raw + b": bye\n\n", b"text/event-stream", step=step)
    assert told == {**TOLD, "resultKind": "status-update"}


def test_an_event_without_end() -> None:
    raw = b"data: " + b"x" * (MAX_BYTES + 9)
    assert watched("JSONRPC", 200, raw, b"text/event-stream", step=4096) == {"outcome": "unknown"}


def grpc(message: Any, method: str, status: int | None = 0) -> Facts:
    raw = frame(message.SerializeToString())
    return watched("GRPC", 200, raw, b"application/grpc", method=method, grpc_status=status)


def test_grpc() -> None:
    task = new.Task(
        id="t",
        context_id="c",
        status=new.TaskStatus(state=new.TaskState.TASK_STATE_INPUT_REQUIRED),
    )
    told = {
        "outcome": "success",
        "resultKind": "task",
        "taskState": "TASK_STATE_INPUT_REQUIRED",
        "contextId": "c",
    }
    assert grpc(task, "GetTask") == told
    assert grpc(new.SendMessageResponse(task=task), "SendMessage") == told
    artifact = new.TaskArtifactUpdateEvent(context_id="c")
    assert grpc(new.StreamResponse(artifact_update=artifact), "SubscribeToTask") == {
        "outcome": "success",
        "resultKind": "artifact-update",
        "contextId": "c",
    }
    update = old.TaskStatusUpdateEvent(
        context_id="c", status=old.TaskStatus(state=old.TaskState.TASK_STATE_COMPLETED)
    )
    assert grpc(old.StreamResponse(status_update=update), "SendStreamingMessage") == {
        "outcome": "success",
        "resultKind": "status-update",
        "taskState": "TASK_STATE_COMPLETED",
        "contextId": "c",
    }
    assert grpc(new.ListTasksResponse(), "ListTasks") == {"outcome": "success"}
    assert grpc(task, "GetTask", 5) == {"outcome": "error", "errorCode": 5}
    assert grpc(task, "GetTask", None) == {"outcome": "unknown"}


def test_grpc_that_is_none() -> None:
    told = watched("GRPC", 200, frame(b"\xff"), b"", method="GetTask", grpc_status=0)
    assert told == {"outcome": "success", "resultKind": "task"}
    assert watched("GRPC", 200, b"\x01\0\0\0\x01x", b"", grpc_status=0) == {"outcome": "success"}
