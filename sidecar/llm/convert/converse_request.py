"""A Bedrock Converse request as it grows, whatever format the client speaks.

Source: Amazon Bedrock API reference (Converse); Anthropic API reference (extended thinking); spec
llm sections 2.9 and 4.3.
"""

from __future__ import annotations

from typing import Any, Final, final

import orjson

from sidecar.errors import RequestError
from sidecar.llm.convert.base import Context, Json
from sidecar.llm.convert.bedrock_media import Documents
from sidecar.llm.convert.bedrock_tools import ToolNames
from sidecar.llm.convert.claude_models import is_adaptive_only
from sidecar.llm.convert.prompt_caching import MAX_POINTS, add_cache_points, cache_point
from sidecar.llm.convert.thinking import MIN_BUDGET, effort_of, settle_sampling
from sidecar.llm.shape import (
    parse_object,
    to_list,
    to_object,
    to_optional_count,
    to_text,
)

DEFAULT_MAX_TOKENS: Final = 4096
METADATA_HEADER: Final = "x-bedrock-metadata"
_DUMMY_TOOL: Final = "agentgateway_dummy_do_not_call"
_NO_OUTPUT: Final = "(no output)"


def result_text(text: str) -> Json:
    """A text of a tool's result. Bedrock refuses blank text, and a result without any."""
    return {"text": text if text.strip() else _NO_OUTPUT}


@final
class ConverseRequest:
    """One request under construction. Order of calls: tools first, since they take their names.

    Neighbours of the same role become one message, which Bedrock wants of them.
    """

    __slots__ = (
        "_body",
        "_choice",
        "_context",
        "_extra",
        "_has_tool_blocks",
        "_inference",
        "_is_adaptive",
        "_messages",
        "_points",
        "_system",
        "_tools",
        "_wish",
        "documents",
        "names",
    )

    def __init__(self, context: Context) -> None:
        self._context = context
        self._body: Json = {}
        self._system: list[Json] = []
        self._messages: list[Json] = []
        self._tools: list[Json] = []
        self._choice: Json | None = None
        self._inference: Json = {}
        self._extra: Json = {}
        self._has_tool_blocks = False
        self._points = 0
        self._wish: tuple[int, bool] | None = None
        """Thinking asked for by effort: the budget, and whether the client set a limit."""
        self._is_adaptive = is_adaptive_only(context.model)
        self.names = ToolNames(context)
        self.documents = Documents(context)

    # --- content ---

    def add_system(self, text: str, *, is_cached: bool = False) -> None:
        """A piece of the system prompt. Bedrock refuses blank text."""
        if text.strip():
            self._system.append({"text": text})
            if is_cached:
                self._system += self.cache_point()

    def add(self, role: str, blocks: list[Json]) -> None:
        """Blocks of a message. `blocks` belongs to the request from here on."""
        if not blocks:
            return
        if not self._has_tool_blocks:
            self._has_tool_blocks = any("toolUse" in b or "toolResult" in b for b in blocks)
        if self._messages and self._messages[-1]["role"] == role:
            self._messages[-1]["content"] += blocks
        else:
            self._messages.append({"role": role, "content": blocks})

    def cache_point(self) -> list[Json]:
        """A point that the client set; none past the most that Bedrock takes."""
        if self._points >= MAX_POINTS:
            self._context.drop("cache_control")
            return []
        self._points += 1
        return [cache_point()]

    # --- tools ---

    def add_tool(self, name: str, description: object, schema: object, where: str) -> None:
        """A tool. `name` is the client's."""
        description = None if description is None else to_text(description, f"{where}.description")
        spec = {
            "name": self.names.clean(name, f"{where}.name"),
            "description": description or None,
            "inputSchema": {"json": schema if isinstance(schema, dict) else {"type": "object"}},
        }
        self._tools.append({"toolSpec": spec})

    def add_tool_cache_point(self) -> None:
        """A point behind the tools so far."""
        self._tools += self.cache_point()

    def choose(self, mode: str, name: str = "") -> None:
        """`auto`, `any`, `none` or `tool` (then with the client's name of it)."""
        if mode == "none":
            # Bedrock cannot forbid tools that stand in the request, and they must stand there
            # when the history used them.
            if self._tools:
                self._context.drop("tool_choice none")
        elif mode == "tool":
            self._choice = {"tool": {"name": self.names.clean(name, "tool_choice.name")}}
        elif mode:
            self._choice = {mode: {}}

    # --- parameters ---

    def infer(self, maximum: object, temperature: object, top_p: object, stop: object) -> None:
        """Parameters that all models know. `maximum` None: the usual one. Raises: ShapeError."""
        limit = to_optional_count(maximum, "max_tokens")
        self._inference = {"maxTokens": limit or DEFAULT_MAX_TOKENS}
        if temperature is not None:
            self._inference["temperature"] = temperature
        if top_p is not None:
            self._inference["topP"] = top_p
        if stop not in (None, []):
            stops = [stop] if isinstance(stop, str) else to_list(stop, "stop")
            self._inference["stopSequences"] = stops

    def think(self, budget_tokens: int, *, has_limit: bool) -> None:
        """Think with a budget, where nothing in the request stands against it.

        `has_limit`: the client set the limit of the answer, so it stays and the budget gives way.
        """
        self._wish = (budget_tokens, has_limit)

    def think_as(self, thinking: Json) -> None:
        """Anthropic's own thinking object."""
        self._extra["thinking"] = thinking

    def set_own(self, name: str, value: Any) -> None:
        """A parameter that only this kind of model knows."""
        self._extra[name] = value

    def answer_as(self, schema: object, name: object = None, description: object = None) -> None:
        """The answer must be JSON of this schema."""
        wanted: Json = {"schema": orjson.dumps(schema).decode()}
        if name is not None:
            wanted["name"] = to_text(name, "json_schema.name")
        if description is not None:
            wanted["description"] = to_text(description, "json_schema.description")
        form = {"type": "json_schema", "structure": {"jsonSchema": wanted}}
        self._body["outputConfig"] = {"textFormat": form}

    # --- the end ---

    def finish(self) -> Json:
        """The body. Raises: RequestError 400."""
        settle_sampling(self._inference, self._context, "topP")
        settle_sampling(self._extra, self._context)
        self._settle_thinking()
        body = self._body
        body["messages"] = self._messages
        if self._system:
            body["system"] = self._system
        body["inferenceConfig"] = self._inference
        if self._has_tool_blocks and not self._tools:
            # Bedrock refuses tool blocks in the history when no tool is declared.
            self.add_tool(_DUMMY_TOOL, None, None, "tools")
            self._choice = None
        if self._tools:
            body["toolConfig"] = {"tools": self._tools}
            if self._choice is not None:
                body["toolConfig"]["toolChoice"] = self._choice
        if self._extra:
            body["additionalModelRequestFields"] = self._extra
        if self._context.settings.get("guardrailConfig"):
            body["guardrailConfig"] = self._context.settings["guardrailConfig"]
        metadata = request_metadata(self._context.headers.get(METADATA_HEADER))
        if metadata:
            body["requestMetadata"] = metadata
        add_cache_points(body, self._context, self._points)
        return body

    def _settle_thinking(self) -> None:
        """Claude thinks with a budget only at its own temperature and only if tools are free."""
        is_forced = self._choice is not None and "auto" not in self._choice
        if self._wish is not None:
            is_unthought = not self._is_adaptive and _is_unthought_round(self._messages)
            if is_forced or is_unthought:
                self._context.drop("reasoning effort in a tool round")
            else:
                self._grant(*self._wish)
        kind = self._extra.get("thinking", {}).get("type")
        # A client that asked for adaptive thinking itself knows what may stand beside it.
        if kind != "enabled" and (self._wish is None or kind is None):
            return
        temperature = self._inference.pop("temperature", None)
        if temperature not in (None, 1):
            self._context.drop("temperature with reasoning")
        if self._inference.pop("topP", None) not in (None, 1):
            self._context.drop("top_p with reasoning")
        if self._extra.pop("top_k", None) is not None:
            self._context.drop("top_k with reasoning")
        if is_forced:
            self._context.drop("tool_choice with thinking")
            self._choice = {"auto": {}}

    def _grant(self, budget_tokens: int, has_limit: bool) -> None:
        limit: int = self._inference["maxTokens"]
        if self._is_adaptive:
            if not has_limit:
                self._inference["maxTokens"] = budget_tokens + limit
            self.think_as({"type": "adaptive"})
            config = to_object(self._extra.get("output_config"), "output_config")
            self._extra["output_config"] = {**config, "effort": effort_of(budget_tokens)}
            return
        if has_limit:
            budget_tokens = min(budget_tokens, limit - 1)
        elif budget_tokens >= limit:
            # The budget counts as output: the usual limit is for the answer behind it.
            self._inference["maxTokens"] = budget_tokens + limit
        if budget_tokens < MIN_BUDGET:
            self._context.drop("reasoning effort")
        else:
            self.think_as({"type": "enabled", "budget_tokens": budget_tokens})


def _is_unthought_round(messages: list[Json]) -> bool:
    """Whether results of tools come last that were called without visible thinking: Claude would
    miss it there."""
    for message in reversed(messages):
        blocks = [block for block in message["content"] if "cachePoint" not in block]
        if message["role"] == "assistant":
            is_round = any("toolUse" in block for block in blocks)
            return is_round and "reasoningContent" not in blocks[0]
        if not all("toolResult" in block for block in blocks):
            return False
    return False


def request_metadata(header: str | None) -> dict[str, str]:
    """Tags for Bedrock's invocation log, out of the client's header.

    Raises: RequestError 400 when it is no flat JSON object.
    """
    if not header:
        return {}
    given = parse_object(header)
    if given is None or any(isinstance(value, dict | list) for value in given.values()):
        raise RequestError(
            400, "InvalidRequest", f"the header {METADATA_HEADER} must hold a flat JSON object"
        )
    return {name: _tag(value) for name, value in given.items() if value is not None}


def _tag(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
