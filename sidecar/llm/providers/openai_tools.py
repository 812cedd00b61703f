"""Schemas of functions as OpenAI's models take them: an object's schema lists its properties.

Source: OpenAI API reference (function calling: "object schema missing properties").
"""

from __future__ import annotations

from sidecar.llm.chat import loose
from sidecar.llm.providers.base import COMPLETIONS, RESPONSES, Call, Json


def complete_schemas(body: Json, call: Call) -> None:
    """Edit a converted body: a client of another format need not list what its tools do not have.
    The client's own schemas are not changed."""
    if call.format == call.client_format or call.format not in (COMPLETIONS, RESPONSES):
        return
    for tool in loose.objects(body.get("tools")):
        function = tool.get("function") if call.format == COMPLETIONS else tool
        if tool.get("type") != "function" or not isinstance(function, dict):
            continue
        schema = function.get("parameters")
        if schema is None:
            schema = {"type": "object"}
        if isinstance(schema, dict) and schema.get("type", "object") == "object":
            function["parameters"] = {"type": "object", "properties": {}} | schema
