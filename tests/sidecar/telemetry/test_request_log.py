"""The rows of the request log: which requests have one, what it holds, and where it is cut."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.telemetry import request_log
from sidecar.telemetry.access import AccessLog
from sidecar.telemetry.clock import SystemClock
from sidecar.telemetry.request_log import COLUMNS, RequestRows, Row
from sidecar.telemetry.sink import LogSink
from tests.sidecar.telemetry.entries import compiler, entry, request


class Call(dict[str, Any]):
    """What the gateway knows of a call, with its words."""

    def __init__(self, prompt: Any = None, *, hides: bool = False, **facts: Any) -> None:
        super().__init__(facts)
        self.prompt = prompt
        self.hides_completion = hides

    def cel(self, wanted: frozenset[str] | None) -> Mapping[str, object]:
        return {**self, "prompt": self.prompt}


CALL = {
    "provider": "openai",
    "requestModel": "m-1",
    "responseModel": "m-1-0125",
    "inputTokens": 17,
    "outputTokens": 23,
    "totalTokens": 40,
    "cost": {"total": 0.5, "cacheRead": 0.125},
}
PROMPT = [{"role": "user", "content": "a\nb"}]


def made(policy: Any = None, *, standard: Any = None, state: Any = None, **facts: Any) -> Row:
    found: list[Row] = []
    rows = RequestRows(policy, standard, compiler(), put=found.append, clock=SystemClock())
    headers = Headers([(b"user-agent", b"tester/1 (x)")])
    one = request(headers=headers)
    one.state.update({"llm": Call(**CALL)} if state is None else state)
    rows.put(entry(one, **facts))
    (row,) = found
    return row


def shown(row: Row) -> dict[str, Any]:
    return dict(zip(COLUMNS, row.columns, strict=True))


def attributes(row: Row) -> dict[str, Any]:
    return dict(json.loads(shown(row)["attributes_json"]))


def test_the_columns() -> None:
    found = shown(made(error="late"))
    identity = uuid.UUID(found.pop("id"))
    assert (identity.version, identity.variant) == (7, uuid.RFC_4122)
    assert identity.int >> 80 == 1_700_000_000_000
    text = found.pop("attributes_json")
    assert found == {
        "started_at": "2023-11-14T22:13:19.987654+00:00",
        "completed_at": "2023-11-14T22:13:20.000000+00:00",
        "duration_ms": 12,
        "trace_id": None,
        "span_id": None,
        "http_status": 200,
        "error": "late",
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "openai",
        "gen_ai_request_model": "m-1",
        "gen_ai_response_model": "m-1-0125",
        "input_tokens": 17,
        "output_tokens": 23,
        "total_tokens": 40,
        "cost": 0.5,
        "agentgateway_user": None,
        "agentgateway_group": None,
        "user_agent_name": "tester",
        "has_payload": 0,
    }
    known = json.loads(text)
    assert known["agw.ai.usage.cost.cacheRead"] == 0.125
    assert known["http.path"] == "/a/b"
    assert "secret" not in text


@pytest.mark.parametrize(
    ("state", "user", "group"),
    [
        ({"apiKey": {"name": "ada", "group": "blue"}}, "ada", "blue"),
        ({"jwt": {"sub": "s", "groups": ["g1", "g2"]}}, "s", "g1"),
        ({"jwt": {"email": "e@x"}}, "e@x", None),
        ({"basicAuth": {"username": "bob"}}, "bob", None),
    ],
)
def test_who_asked(state: Any, user: str | None, group: str | None) -> None:
    found = shown(made(state={"llm": Call(**CALL), **state}))
    assert (found["agentgateway_user"], found["agentgateway_group"]) == (user, group)


def test_expressions_of_ones_own() -> None:
    row = made(
        {"add": {"how": "request.method", "http.host": '"other"'}}, standard={"user": '"me"'}
    )
    assert shown(row)["agentgateway_user"] == "me"
    assert attributes(row)["agentgateway.user"] == "me"
    assert (attributes(row)["how"], attributes(row)["http.host"]) == ("GET", "other")


@pytest.mark.parametrize("policy", [None, {"llm": "metadata"}])
def test_words_are_kept_only_when_asked_for(policy: Any) -> None:
    call = Call(PROMPT, **CALL, completion=["hi"])
    row = made(policy, state={"llm": call})
    assert row.payload is None
    assert "hi" not in attributes(row).values()
    row = made({"llm": "full"}, state={"llm": call})
    assert row.payload is not None
    assert [json.loads(one or "") for one in row.payload] == [PROMPT, ["hi"]]
    assert shown(row)["has_payload"] == 1
    call.hides_completion = True
    row = made({"llm": "full"}, state={"llm": call})
    assert row.payload is not None
    assert row.payload[1] is None


def test_whatever_a_client_can_make_large_is_cut() -> None:
    huge = "é" * 1_000_000
    call = Call(
        [{"role": "user", "content": huge}, {"role": "user", "content": "never"}],
        **{**CALL, "requestModel": huge, "inputTokens": 2**70, "completion": [huge, huge]},
    )
    add = {f"a{number}": "request.path + llm.requestModel" for number in range(40)}
    row = made(
        {"llm": "full", "add": add}, state={"llm": call, "llmRequest": {"model": "x" + huge}}
    )
    found = shown(row)
    assert len(found["gen_ai_request_model"]) < 1100
    assert found["input_tokens"] == 2**63 - 1
    assert len(found["attributes_json"].encode()) <= request_log.MAX_ATTRIBUTES_BYTES
    assert attributes(row)["agw.cut"] is True
    assert attributes(row)["http.status"] == 200
    assert row.payload is not None
    (message,) = json.loads(row.payload[0] or "")
    (text,) = json.loads(row.payload[1] or "")
    limit = request_log.MAX_CONTENT_CHARS
    assert len(message["content"]) == len(text) == limit + len("…[cut]")


def test_odd_texts_are_still_json() -> None:
    call = Call([{"role": "user", "content": "\ud800"}], **{**CALL, "requestModel": "a\x00\ud800"})
    row = made({"llm": "full"}, state={"llm": call, "llmRequest": {"model": "\ud800"}})
    assert shown(row)["gen_ai_request_model"] == "a\\x00\\ud800"
    assert attributes(row)["agw.ai.original_model"] == "\\ud800"
    assert row.payload is not None
    assert json.loads(row.payload[0] or "")[0]["content"] == "\\ud800"


@pytest.mark.parametrize(
    ("state", "policy", "count"),
    [
        ({"llm": Call(**CALL)}, {}, 1),
        ({"llmRequest": {"model": "unknown"}}, {}, 1),
        ({"mcp": {}}, {}, 0),
        ({"llm": Call(**CALL)}, {"filter": "response.code == 500"}, 0),
        ({"llm": Call(**CALL)}, {"filter": "no.such"}, 0),
    ],
)
@pytest.mark.parametrize("level", [logging.INFO, logging.ERROR])
def test_which_requests_have_a_row(state: Any, policy: Any, count: int, level: int) -> None:
    found: list[Row] = []
    rows = RequestRows(None, None, compiler(), put=found.append, clock=SystemClock())
    sink = LogSink(2)
    log = AccessLog(policy, "text", compiler(), sink=sink, clock=SystemClock(), rows=rows)
    logger = logging.getLogger("request")
    logger.setLevel(level)
    try:
        one = request()
        one.state.update(state)
        assert log.is_wanted(logging.INFO)
        log.emit(entry(one))
    finally:
        logger.setLevel(logging.NOTSET)
        sink.close()
    assert len(found) == count


@pytest.mark.parametrize(
    ("policy", "standard", "path"),
    [
        ({"add": {"x": "1 +"}}, None, "frontendPolicies.accessLog.database.add.x"),
        ({"lm": "full"}, None, "frontendPolicies.accessLog.database.lm"),
        ({}, {"group": "1 +"}, "config.standardAttributes.group"),
    ],
)
def test_what_cannot_be_honoured_is_refused(policy: Any, standard: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(policy, standard=standard)
    assert caught.value.path == path


def test_a_row_that_cannot_be_made_costs_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def put(row: Row) -> None:
        raise RuntimeError("no")

    lost: list[int] = []
    rows = RequestRows(
        *(None, None, compiler()), put=put, clock=SystemClock(), lose=lambda: lost.append(1)
    )
    for _ in range(3):
        rows.put(entry(request()))
    assert lost == [1, 1, 1]
    # Once a minute.
    assert caplog.text.count("no row could be made") == 1
