"""OpenAI's free-form ("custom") tools for providers that know only tools with a JSON schema.

Such a tool takes one text. It is declared as a function with the one argument `input`, calls in the
history are written the same way, and a call that comes back is unpacked. A grammar cannot be
enforced that way: it is told to the model in the description.

Source: OpenAI API reference (responses: custom tools).
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from sidecar.llm.convert.base import Json
from sidecar.llm.shape import to_object, to_objects, to_text

_SCHEMA: Final = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The whole input of the tool."}},
    "required": ["input"],
    "additionalProperties": False,
}


def custom_names(body: Json) -> frozenset[str]:
    """Names of the free-form tools of a responses request."""
    tools = to_objects(body.get("tools"), "tools")
    custom = (tool.get("name") for tool in tools if tool.get("type") == "custom")
    return frozenset(name for name in custom if isinstance(name, str))


def as_function(tool: Json, where: str) -> Json:
    """A free-form tool as `{name, description, parameters}`. Raises: ShapeError."""
    description = to_text(tool.get("description"), f"{where}.description")
    form = to_object(tool.get("format"), f"{where}.format")
    if form.get("type") == "grammar":
        syntax = to_text(form.get("syntax"), f"{where}.format.syntax")
        grammar = to_text(form.get("definition"), f"{where}.format.definition")
        description += f"\n\nThe input must match this {syntax} grammar:\n{grammar}"
    function: Json = {"name": to_text(tool.get("name"), f"{where}.name")}
    if description:
        function["description"] = description.strip()
    return function | {"parameters": _SCHEMA}


def pack(text: str) -> str:
    """A free-form input as the arguments of the function."""
    return orjson.dumps({"input": text}).decode()


def unpack(arguments: str) -> str:
    """The free-form input out of the function's arguments; what is not packed is the input."""
    try:
        value: Any = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments
