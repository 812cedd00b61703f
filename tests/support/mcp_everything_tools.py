"""The tools of the everything server, as the MCP conformance suite asks for them.

Names, texts and schemas are those that the scenarios of `@modelcontextprotocol/conformance` name in
their descriptions. A few tools more are for the tests with SDK clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from mcp.server import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    BlobResourceContents,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
    TextResourceContents,
    Tool,
)

MODERN = "2026-07-28"
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/"
    "iZk9HQAAAABJRU5ErkJggg=="
)
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="

_PAUSE_SECONDS = 0.05
"""Between two notifications, so that a client sees them come one after the other."""

Result: TypeAlias = CallToolResult | InputRequiredResult
Schema: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One `tools/call` on its way."""

    context: ServerRequestContext
    params: CallToolRequestParams
    server: str

    @property
    def arguments(self) -> dict[str, Any]:
        return self.params.arguments or {}

    @property
    def is_modern(self) -> bool:
        return self.context.protocol_version >= MODERN

    def accepted(self, key: str) -> dict[str, Any] | None:
        """What the person filled in for this input request, if they did."""
        answer = (self.params.input_responses or {}).get(key)
        if isinstance(answer, ElicitResult) and answer.action == "accept":
            return answer.content or {}
        return None

    def sampled(self, key: str) -> str | None:
        """What the model said to this input request."""
        answer = (self.params.input_responses or {}).get(key)
        return _text_of(answer) if isinstance(answer, CreateMessageResult) else None

    def roots(self, key: str) -> list[str] | None:
        """The roots that answered this input request."""
        answer = (self.params.input_responses or {}).get(key)
        return [str(r.uri) for r in answer.roots] if isinstance(answer, ListRootsResult) else None

    async def log(self, text: str) -> None:
        session, number = self.context.session, self.context.request_id
        await session.send_log_message("info", text, related_request_id=number)

    async def elicit(self, message: str, schema: Schema) -> ElicitResult:
        session, number = self.context.session, self.context.request_id
        return await session.elicit_form(message, schema, related_request_id=number)


Handler: TypeAlias = Callable[[Call], Awaitable[Result]]
TOOLS: dict[str, tuple[Tool, Handler]] = {}
bus = InMemorySubscriptionBus()
cancelled: list[str] = []
"""Of `wait_cancelled`: the word each cancelled call was given."""


def tool(
    description: str, schema: Schema | None = None, **properties: Schema
) -> Callable[[Handler], Handler]:
    """A tool with the function's name; `properties` are all required unless `schema` is given."""
    made = schema or {"type": "object", "properties": properties, "required": [*properties]}

    def register(handler: Handler) -> Handler:
        name = handler.__name__
        TOOLS[name] = (Tool(name=name, description=description, input_schema=made), handler)
        return handler

    return register


def text(words: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=words)])


def _text_of(result: CreateMessageResult) -> str:
    return result.content.text if isinstance(result.content, TextContent) else ""


def _form(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": [*required]}


def _ask(message: str, **properties: Schema) -> ElicitRequest:
    schema = _form(*properties, **properties)
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(prompt: str, tokens: int = 100) -> CreateMessageRequest:
    said = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    params = CreateMessageRequestParams(messages=[said], max_tokens=tokens)
    return CreateMessageRequest(params=params)


STRING: Schema = {"type": "string"}
NAME = _ask("What is your name?", name=STRING)


# --- contents ------------------------------------------------------------------------------------


@tool("Answers with a text.")
async def test_simple_text(call: Call) -> Result:
    return text("This is a simple text response for testing.")


@tool("Answers with a picture.")
async def test_image_content(call: Call) -> Result:
    return CallToolResult(content=[ImageContent(type="image", data=PNG, mime_type="image/png")])


@tool("Answers with a sound.")
async def test_audio_content(call: Call) -> Result:
    return CallToolResult(content=[AudioContent(type="audio", data=WAV, mime_type="audio/wav")])


def _embedded(uri: str, mime_type: str, words: str) -> EmbeddedResource:
    made = TextResourceContents(uri=uri, mime_type=mime_type, text=words)
    return EmbeddedResource(type="resource", resource=made)


@tool("Answers with a resource inside.")
async def test_embedded_resource(call: Call) -> Result:
    words = "This is an embedded resource content."
    return CallToolResult(content=[_embedded("test://embedded-resource", "text/plain", words)])


@tool("Answers with a text, a picture and a resource.")
async def test_multiple_content_types(call: Call) -> Result:
    content: list[ContentBlock] = [
        TextContent(type="text", text="Multiple content types test:"),
        ImageContent(type="image", data=PNG, mime_type="image/png"),
        _embedded(
            "test://mixed-content-resource", "application/json", '{"test":"data","value":123}'
        ),
    ]
    return CallToolResult(content=content)


@tool("Answers with a blob of as many bytes, in base64.", size={"type": "integer"})
async def blob(call: Call) -> Result:
    made = BlobResourceContents(uri="test://blob", blob="A" * call.arguments["size"])
    return CallToolResult(content=[EmbeddedResource(type="resource", resource=made)])


@tool("Always fails.")
async def test_error_handling(call: Call) -> Result:
    words = "This tool intentionally returns an error for testing"
    return CallToolResult(content=[TextContent(type="text", text=words)], is_error=True)


@tool("Says which server this is.")
async def whoami(call: Call) -> Result:
    return text(call.server)


# --- notifications -------------------------------------------------------------------------------


@tool("Logs three times on its way.")
async def test_tool_with_logging(call: Call) -> Result:
    await call.log("Tool execution started")
    await asyncio.sleep(_PAUSE_SECONDS)
    await call.log("Tool processing data")
    await asyncio.sleep(_PAUSE_SECONDS)
    await call.log("Tool execution completed")
    return text("Tool with logging executed successfully")


@tool("Logs once, for whoever asked for logs.")
async def test_logging_tool(call: Call) -> Result:
    await call.log("a line of the log")
    return text("logged")


@tool("Reports progress three times.")
async def test_tool_with_progress(call: Call) -> Result:
    for done in (0, 50, 100):
        await call.context.session.report_progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(_PAUSE_SECONDS)
    return text("Tool with progress executed successfully")


@tool("Ends its stream before it answers.")
async def test_reconnection(call: Call) -> Result:
    if call.context.close_sse_stream is not None:
        await call.context.close_sse_stream()
    await asyncio.sleep(_PAUSE_SECONDS)
    return text("Reconnection test completed")


@tool("Says that the tools changed.")
async def test_trigger_tool_change(call: Call) -> Result:
    if not call.is_modern:
        await call.context.session.send_tool_list_changed()
    await bus.publish(ToolsListChanged())
    return text("tool list changed")


@tool("Says that the prompts changed.")
async def test_trigger_prompt_change(call: Call) -> Result:
    if not call.is_modern:
        await call.context.session.send_prompt_list_changed()
    await bus.publish(PromptsListChanged())
    return text("prompt list changed")


@tool("Waits for its cancellation.", word=STRING)
async def wait_cancelled(call: Call) -> Result:
    try:
        await call.context.session.report_progress(0, 1)
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        cancelled.append(call.arguments["word"])
        raise
    return text("nobody cancelled")


@tool("Which calls of `wait_cancelled` were cancelled.")
async def cancelled_words(call: Call) -> Result:
    return text(" ".join(cancelled))


# --- what a server asks of a client --------------------------------------------------------------


@tool("Asks the client's model.", prompt=STRING)
async def test_sampling(call: Call) -> Result:
    said = SamplingMessage(
        role="user", content=TextContent(type="text", text=call.arguments["prompt"])
    )
    answer = await call.context.session.create_message(
        [said], max_tokens=100, related_request_id=call.context.request_id
    )
    return text(f"LLM response: {_text_of(answer)}")


@tool("Asks the client's user.", message=STRING)
async def test_elicitation(call: Call) -> Result:
    schema = _form(
        "username",
        "email",
        username={"type": "string", "description": "User's response"},
        email={"type": "string", "description": "User's email address"},
    )
    answer = await call.elicit(call.arguments["message"], schema)
    return text(f"User response: action={answer.action}, content={answer.content}")


@tool("Asks with a default for each primitive type.")
async def test_elicitation_sep1034_defaults(call: Call) -> Result:
    schema = _form(
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={
            "type": "string",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        verified={"type": "boolean", "default": True},
    )
    answer = await call.elicit("Please review the defaults", schema)
    return text(f"Elicitation completed: action={answer.action}, content={answer.content}")


def _titled(prefix: str, kind: str) -> list[Schema]:
    ordinals = ("First", "Second", "Third")
    return [
        {"const": f"{prefix}{number}", "title": f"{ordinal} {kind}"}
        for number, ordinal in enumerate(ordinals, 1)
    ]


@tool("Asks with each kind of choice.")
async def test_elicitation_sep1330_enums(call: Call) -> Result:
    options = ["option1", "option2", "option3"]
    schema = _form(
        untitledSingle={"type": "string", "enum": options},
        titledSingle={"type": "string", "oneOf": _titled("value", "Option")},
        legacyEnum={
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        untitledMulti={"type": "array", "items": {"type": "string", "enum": options}},
        titledMulti={"type": "array", "items": {"anyOf": _titled("value", "Choice")}},
    )
    answer = await call.elicit("Please choose", schema)
    return text(f"Elicitation completed: action={answer.action}, content={answer.content}")


@tool("Says the client's roots.")
async def list_roots(call: Call) -> Result:
    answer = await call.context.session.list_roots()
    return text(" ".join(str(root.uri) for root in answer.roots))


@tool("Needs a client that samples.")
async def test_missing_capability(call: Call) -> Result:
    capabilities = call.context.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "The client does not declare sampling",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return text("the client declares sampling")


@tool("Asks the user, in the form of the protocol in use.")
async def test_streaming_elicitation(call: Call) -> Result:
    await call.context.session.report_progress(0, 1)
    if call.is_modern:
        return await test_input_required_result_elicitation(call)
    answer = await call.elicit("What is your name?", _form("name", name=STRING))
    return text(f"Hello, {(answer.content or {}).get('name')}!")


# --- input_required (2026-07-28) -----------------------------------------------------------------


@tool("Greets by name.")
async def test_input_required_result_elicitation(call: Call) -> Result:
    given = call.accepted("user_name")
    if given is None or not isinstance(given.get("name"), str):
        return InputRequiredResult(input_requests={"user_name": NAME})
    return text(f"Hello, {given['name']}!")


@tool("Asks the client's model for a capital.")
async def test_input_required_result_sampling(call: Call) -> Result:
    said = call.sampled("capital_question")
    if said is None:
        asked = _sample("What is the capital of France?")
        return InputRequiredResult(input_requests={"capital_question": asked})
    return text(said)


@tool("Asks for the client's roots.")
async def test_input_required_result_list_roots(call: Call) -> Result:
    roots = call.roots("client_roots")
    if roots is None:
        return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})
    return text("roots: " + " ".join(roots))


async def _confirmed(call: Call) -> Result:
    if call.accepted("confirm") is None or call.params.request_state != "confirming":
        asked = _ask("Please confirm", ok={"type": "boolean"})
        return InputRequiredResult(input_requests={"confirm": asked}, request_state="confirming")
    return text("state-ok")


@tool("Confirms, with a state that comes back.")
async def test_input_required_result_request_state(call: Call) -> Result:
    return await _confirmed(call)


@tool("Confirms, with a state that must not be changed.")
async def test_input_required_result_tampered_state(call: Call) -> Result:
    return await _confirmed(call)


@tool("Asks for three things at once.")
async def test_input_required_result_multiple_inputs(call: Call) -> Result:
    name, said, roots = (
        call.accepted("user_name"),
        call.sampled("greeting"),
        call.roots("client_roots"),
    )
    if name is None or said is None or roots is None:
        return InputRequiredResult(
            input_requests={
                "user_name": NAME,
                "greeting": _sample("Generate a greeting", 50),
                "client_roots": ListRootsRequest(),
            },
            request_state="three",
        )
    return text(f"{said}, {name.get('name')}: {' '.join(roots)}")


@tool("Asks twice, one after the other.")
async def test_input_required_result_multi_round(call: Call) -> Result:
    state = call.params.request_state
    if state == "colour" and (colour := call.accepted("step2")) is not None:
        return text(f"Your favorite color is {colour.get('color')}")
    if state == "name" and call.accepted("step1") is not None:
        asked = _ask("Step 2: What is your favorite color?", color=STRING)
        return InputRequiredResult(input_requests={"step2": asked}, request_state="colour")
    asked = _ask("Step 1: What is your name?", name=STRING)
    return InputRequiredResult(input_requests={"step1": asked}, request_state="name")


@tool("Asks for no more than the client declares.")
async def test_input_required_result_capabilities(call: Call) -> Result:
    declared = call.context.session.client_capabilities
    asked: dict[str, Any] = {}
    if declared is not None and declared.sampling is not None:
        asked["greeting"] = _sample("Generate a greeting", 50)
    if declared is not None and declared.elicitation is not None:
        asked["user_name"] = NAME
    if not asked or call.params.input_responses:
        return text("nothing to ask")
    return InputRequiredResult(input_requests=asked)


# --- schemas and tasks ---------------------------------------------------------------------------

_ADDRESS: Schema = {
    "$anchor": "addressDef",
    "type": "object",
    "properties": {"street": STRING, "city": STRING},
}
_RICH: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": _ADDRESS},
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@tool("Has a schema of many keywords.", _RICH)
async def json_schema_2020_12_tool(call: Call) -> Result:
    return text(f"called with {sorted(call.arguments)}")


@tool("Has a parameter that is mirrored in a header.", region=STRING | {"x-mcp-header": "Region"})
async def test_x_mcp_header(call: Call) -> Result:
    return text(f"region={call.arguments['region']}")


@tool("Would be a task if the server had tasks.")
async def test_tool_with_task(call: Call) -> Result:
    return text("done at once")
