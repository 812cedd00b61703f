"""What results and contents of MCP hold of URIs and task ids, given other ones.

Source: MCP 2025-11-25 and 2026-07-28 schema: ContentBlock, ResourceContents, InputRequiredResult,
tasks; spec/mcp_a2a.md section 5.2, row 20.

Every function returns its argument itself when nothing in it changes, else a copy of the path to
what does. What a tool calls structured content is data, and never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, final

from sidecar.jsonrpc import Json

Change = Callable[[str], str]

RELATED_TASK: Final = "io.modelcontextprotocol/related-task"

_MAX_DEPTH: Final = 8
"""How deep results of tools may hold results of tools, in what servers ask of models."""


def with_key(mapping: Json, key: str, value: Any) -> Json:
    """The mapping with another value; itself when it has that one."""
    if key in mapping and ((old := mapping[key]) is value or _is_same_text(old, value)):
        return mapping
    return {**mapping, key: value}


def with_meta(holder: Json, *, task: Change, uri: Change | None = None) -> Json:
    """A holder of `_meta`, with the task that it is related to; `uri` for the views of MCP Apps."""
    meta = holder.get("_meta")
    if not isinstance(meta, dict):
        return holder
    told = meta
    if isinstance(related := meta.get(RELATED_TASK), dict):
        told = with_key(told, RELATED_TASK, _with_text(related, "taskId", task))
    if uri is not None:
        told = _with_text(told, "ui/resourceUri", uri)
        if isinstance(ui := meta.get("ui"), dict):
            told = with_key(told, "ui", _with_text(ui, "resourceUri", uri))
    return with_key(holder, "_meta", told)


@final
class Rewriting:
    """The two ways in which a server's words change: of URIs, and of task ids."""

    __slots__ = ("task", "uri")

    def __init__(self, *, uri: Change, task: Change) -> None:
        self.uri = uri
        self.task = task

    def block(self, block: Json, depth: int = 0) -> Json:
        """One ContentBlock."""
        kind = block.get("type")
        if kind == "resource_link":
            return _with_text(block, "uri", self.uri)
        if kind == "resource" and isinstance(resource := block.get("resource"), dict):
            return with_key(block, "resource", _with_text(resource, "uri", self.uri))
        if kind == "tool_result" and depth < _MAX_DEPTH:
            return self.content(block, depth + 1)
        return block

    def content(self, holder: Json, depth: int = 0) -> Json:
        """What has a `content`: one block, or a list of them."""
        content = holder.get("content")
        if isinstance(content, dict):
            return with_key(holder, "content", self.block(content, depth))
        return _with_each(holder, "content", lambda block: self.block(block, depth))

    def messages(self, holder: Json) -> Json:
        """What has `messages` with contents: a prompt, or what a server asks of a model."""
        return _with_each(holder, "messages", self.content)

    def inputs(self, result: Json) -> Json:
        """`inputRequests`: what a server asks of the client before it goes on."""
        asked = result.get("inputRequests")
        if not isinstance(asked, dict):
            return result
        told = asked
        for key, request in asked.items():
            if isinstance(request, dict) and isinstance(params := request.get("params"), dict):
                params = with_meta(self.messages(params), task=self.task)
                told = with_key(told, key, with_key(request, "params", params))
        return with_key(result, "inputRequests", told)

    def call(self, result: Json) -> Json:
        """Of `tools/call`, and of the task that became of one."""
        told = self.inputs(self.content(result))
        if isinstance(task := result.get("task"), dict):
            told = with_key(told, "task", _with_text(task, "taskId", self.task))
        if result.get("resultType") == "task":
            told = _with_text(told, "taskId", self.task)
        return told

    def prompt(self, result: Json) -> Json:
        """Of `prompts/get`."""
        return self.inputs(self.messages(result))

    def read(self, result: Json) -> Json:
        """Of `resources/read`."""
        told = _with_each(result, "contents", lambda one: _with_text(one, "uri", self.uri))
        return self.inputs(told)

    def task_state(self, result: Json) -> Json:
        """A task; a finished one of 2026-07-28 holds the result of its call."""
        told = self.inputs(_with_text(result, "taskId", self.task))
        if isinstance(inner := result.get("result"), dict):
            told = with_key(told, "result", self.call(inner))
        return told


_RESULTS: Final[Mapping[str, Callable[[Rewriting, Json], Json]]] = {
    "tools/call": Rewriting.call,
    "tasks/result": Rewriting.call,
    "prompts/get": Rewriting.prompt,
    "resources/read": Rewriting.read,
    "tasks/get": Rewriting.task_state,
    "tasks/update": Rewriting.task_state,
    "tasks/cancel": Rewriting.task_state,
}


def result_of(method: str, result: Json, rewriting: Rewriting) -> Json:
    """The result of a client's request."""
    change = _RESULTS.get(method)
    told = result if change is None else change(rewriting, result)
    return with_meta(told, task=rewriting.task, uri=rewriting.uri)


def _with_text(mapping: Json, key: str, change: Change) -> Json:
    value = mapping.get(key)
    return with_key(mapping, key, change(value)) if isinstance(value, str) else mapping


def _with_each(holder: Json, key: str, change: Callable[[Json], Json]) -> Json:
    """A holder of a list of objects, each changed; what is no object stays."""
    items = holder.get(key)
    if not isinstance(items, list):
        return holder
    told = [change(item) if isinstance(item, dict) else item for item in items]
    if all(new is old for new, old in zip(told, items, strict=True)):
        return holder
    return {**holder, key: told}


def _is_same_text(old: object, new: object) -> bool:
    return isinstance(old, str) and isinstance(new, str) and old == new
