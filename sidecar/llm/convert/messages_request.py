"""Reading an Anthropic messages request for another format: its tools, and the answer's form.

Tools that Anthropic runs itself (web search, …) have no counterpart: they are left out, and so is
a choice of one of them, which other providers refuse as they refuse a choice among no tools.

Source: Anthropic API reference (messages: tools, tool_choice, output_config; search results).
"""

from __future__ import annotations

from sidecar.llm.convert.base import Context, Json
from sidecar.llm.convert.bedrock_tools import MAX_NAME_CHARS, ToolNames
from sidecar.llm.shape import joined_text, to_object, to_objects, to_text


def is_own(tool: Json) -> bool:
    """Whether the client runs the tool itself."""
    return tool.get("type") in (None, "custom")


def own_tools(body: Json, context: Context) -> list[Json]:
    """The tools that the client runs; the others are told. Raises: ShapeError."""
    own: list[Json] = []
    for tool in to_objects(body.get("tools"), "tools"):
        if is_own(tool):
            own.append(tool)
        else:
            context.drop(f"tool {tool.get('type')}")
    return own


def choice_of(body: Json, context: Context) -> Json:
    """`tool_choice`, as far as it is about tools that the client runs. Raises: ShapeError."""
    choice = to_object(body.get("tool_choice"), "tool_choice")
    tools = to_objects(body.get("tools"), "tools")
    if not any(is_own(tool) for tool in tools):
        return {}
    name = choice.get("name")
    if choice.get("type") == "tool" and name in [t.get("name") for t in tools if not is_own(t)]:
        context.drop("tool_choice of a tool that is left out")
        return choice | {"type": "auto"}
    return choice


def short_name(name: str, names: ToolNames) -> str:
    """A tool's name for providers of OpenAI's formats: at most 64 characters, where Anthropic takes
    128. What the client calls it is kept in the context."""
    return name if len(name) <= MAX_NAME_CHARS else names.clean(name, "tools.name")


def schema_of(body: Json) -> Json | None:
    """`{type: json_schema, schema}` when the answer must be JSON; also out of `output_format`, as
    the beta called it. What is no object there means nothing. Raises: ShapeError."""
    config = to_object(body.get("output_config"), "output_config")
    old = body.get("output_format")
    wanted = config.get("format") or (old if isinstance(old, dict) else None)
    form = to_object(wanted, "output_config.format")
    return form if form.get("type") == "json_schema" else None


def found_text(block: Json, where: str) -> str:
    """A search result of the client's own as text. Raises: ShapeError."""
    head = (to_text(block.get(key), f"{where}.{key}") for key in ("title", "source"))
    text = joined_text(block.get("content"), f"{where}.content", "\n")
    return "\n".join(part for part in (*head, text) if part)
