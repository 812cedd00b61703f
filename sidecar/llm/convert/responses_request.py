"""Reading an OpenAI responses request for another format: its input, its tools, what has no place.

The gateway keeps no state: what refers to an earlier response or asks to keep this one is dropped.

Source: OpenAI API reference (create a response); spec llm section 2.8.
"""

from __future__ import annotations

from typing import Final

from sidecar.llm.convert.base import Context, Json
from sidecar.llm.convert.custom_tools import as_function, custom_names
from sidecar.llm.shape import joined_text, to_list, to_object, to_objects, to_text

_STATE: Final = ("previous_response_id", "conversation", "prompt", "context_management")
_UNASKED: Final = "reasoning.encrypted_content"
"""Of `include`: what there is of it is in every answer."""
_UNSUPPORTED: Final = (
    "background",
    "max_tool_calls",
    "safety_identifier",
    "store",
    "top_logprobs",
)
CALLS: Final = ("function_call", "custom_tool_call")
RESULTS: Final = ("function_call_output", "custom_tool_call_output")


def input_items(body: Json) -> list[Json]:
    """The input as items. Raises: ShapeError."""
    given = body.get("input")
    if isinstance(given, str):
        part = {"type": "input_text", "text": given}
        return [{"type": "message", "role": "user", "content": [part]}]
    return to_objects(given, "input")


def is_message(item: Json) -> bool:
    """Messages may leave their type out."""
    return item.get("type", "message") in ("message", None)


def drop_unsupported(body: Json, context: Context) -> None:
    """Say what neither chat completions nor messages can do. `store: false` is what they do, and
    hints that change no answer (`prompt_cache_key`, obfuscation) are left out without a word."""
    if any(name != _UNASKED for name in to_list(body.get("include"), "include")):
        context.drop("include")
    for name in _STATE + _UNSUPPORTED:
        if body.get(name) not in (None, False, [], {}, 0):
            context.drop(name)
    if body.get("truncation") == "auto":
        context.drop("truncation")
    if to_object(body.get("text"), "text").get("verbosity") not in (None, "medium"):
        context.drop("text.verbosity")


def functions(body: Json, context: Context) -> list[Json]:
    """The tools as `{name, description?, parameters?, strict?}`; free-form ones become functions.

    Tools that only OpenAI itself can run are dropped. Raises: ShapeError.
    """
    context.custom_tools = custom_names(body)
    out: list[Json] = []
    for index, tool in enumerate(to_objects(body.get("tools"), "tools")):
        kind = tool.get("type")
        where = f"tools[{index}]"
        if kind == "custom":
            out.append(as_function(tool, where))
        elif kind == "function":
            function: Json = {"name": to_text(tool.get("name"), f"{where}.name")}
            for name in ("description", "parameters", "strict"):
                if tool.get(name) is not None:
                    function[name] = tool[name]
            out.append(function)
        else:
            context.drop(f"tool {kind}")
    return out


def tool_choice(body: Json, context: Context) -> tuple[str, str]:
    """`(mode, name)`: `auto`, `none`, `required`, `named` (with the name), or "" for unsaid."""
    choice = body.get("tool_choice")
    if choice is None or isinstance(choice, str):
        return (choice if choice in ("auto", "none", "required") else ""), ""
    choice = to_object(choice, "tool_choice")
    kind = choice.get("type")
    if kind in ("function", "custom"):
        return "named", to_text(choice.get("name"), "tool_choice.name")
    context.drop(f"tool_choice {kind}")
    mode = choice.get("mode") if kind == "allowed_tools" else None
    return (mode if isinstance(mode, str) and mode in ("auto", "required") else ""), ""


def output_text(item: Json, where: str, context: Context) -> str:
    """The text of a tool's result. Raises: ShapeError."""
    output = item.get("output")
    if isinstance(output, list) and any(part_kind(part) != "input_text" for part in output):
        context.drop("tool result that is not text")
    return joined_text(output, f"{where}.output", "\n")


def part_kind(part: object) -> object:
    """The type of a content part; texts in results may be of either direction."""
    kind = part.get("type") if isinstance(part, dict) else None
    return "input_text" if kind in ("input_text", "output_text", "text") else kind


def refusal_text(part: Json, where: str) -> str:
    """What a refusal says; some keep it where texts are. Raises: ShapeError."""
    return to_text(part.get("refusal") or part.get("text"), f"{where}.refusal")


def schema_format(body: Json) -> Json | None:
    """`text.format` when it asks for JSON. Raises: ShapeError."""
    wanted = to_object(to_object(body.get("text"), "text").get("format"), "text.format")
    return wanted if wanted.get("type") in ("json_schema", "json_object") else None


def effort(body: Json) -> object:
    """`reasoning.effort`. Raises: ShapeError."""
    return to_object(body.get("reasoning"), "reasoning").get("effort")
