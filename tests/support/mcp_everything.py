"""A server with all that the MCP conformance suite calls, on the official Python SDK.

It speaks both eras. Run as a module: `http PORT [NAME]`, `sse PORT [NAME]` or `stdio [NAME]`. The
name is what the tool `whoami` says.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import warnings
from typing import Any

import uvicorn
from mcp.server import Server, ServerRequestContext
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.sse import SseServerTransport
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import (
    INVALID_PARAMS,
    BlobResourceContents,
    CallToolRequestParams,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    ImageContent,
    InputRequiredResult,
    JSONRPCMessage,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from tests.support.mcp_everything_tools import PNG, TOOLS, Call, Result, bus

RETRY_MILLISECONDS = 50
_WORDS = ("paris", "park", "party")

RESOURCES: dict[str, tuple[str, str | bytes]] = {
    "test://static-text": ("text/plain", "This is the content of the static text resource."),
    "test://static-binary": ("image/png", base64.b64decode(PNG)),
    "test://watched-resource": ("text/plain", "Watched resource content"),
}
TEMPLATE = "test://template/{id}/data"
PROMPTS = [
    Prompt(name="test_simple_prompt", description="A prompt without arguments"),
    Prompt(
        name="test_prompt_with_arguments",
        description="A prompt with two arguments",
        arguments=[
            PromptArgument(name="arg1", description="First test argument", required=True),
            PromptArgument(name="arg2", description="Second test argument", required=True),
        ],
    ),
    Prompt(
        name="test_prompt_with_embedded_resource",
        description="A prompt with a resource inside",
        arguments=[PromptArgument(name="resourceUri", description="Which one", required=True)],
    ),
    Prompt(name="test_prompt_with_image", description="A prompt with a picture"),
    Prompt(name="test_input_required_result_prompt", description="A prompt that asks first"),
]


class Kept(EventStore):
    """The events of all streams, in order."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send: EventCallback) -> str | None:
        at = int(last_event_id)
        stream, _ = self._events[at - 1]
        for number, (of, message) in enumerate(self._events[at:], at + 1):
            if of == stream and message is not None:
                await send(EventMessage(message, str(number)))
        return stream


class Everything:
    """The handlers; `subscribed` are the URIs that legacy clients watch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.subscribed: set[str] = set()

    async def list_tools(self, context: ServerRequestContext, params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[made for made, _ in TOOLS.values()])

    async def call_tool(
        self, context: ServerRequestContext, params: CallToolRequestParams
    ) -> Result:
        if params.name not in TOOLS:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}")
        made, handler = TOOLS[params.name]
        missing = set(made.input_schema.get("required", ())) - set(params.arguments or ())
        if missing:
            raise MCPError(INVALID_PARAMS, f"Missing arguments: {sorted(missing)}")
        return await handler(Call(context, params, self.name))

    async def list_resources(
        self, context: ServerRequestContext, params: Any
    ) -> ListResourcesResult:
        return ListResourcesResult(
            resources=[
                Resource(uri=uri, name=uri[7:], description=f"The {uri[7:]}", mime_type=mime_type)
                for uri, (mime_type, _) in RESOURCES.items()
            ]
        )

    async def list_templates(
        self, context: ServerRequestContext, params: Any
    ) -> ListResourceTemplatesResult:
        made = ResourceTemplate(
            uri_template=TEMPLATE, name="template", mime_type="application/json", description="Data"
        )
        return ListResourceTemplatesResult(resource_templates=[made])

    async def read_resource(
        self, context: ServerRequestContext, params: ReadResourceRequestParams
    ) -> ReadResourceResult:
        uri = str(params.uri)
        before, after = TEMPLATE.split("{id}")
        if uri in RESOURCES:
            mime_type, content = RESOURCES[uri]
        elif uri.startswith(before) and uri.endswith(after):
            number = uri[len(before) : -len(after)]
            mime_type = "application/json"
            content = f'{{"id":"{number}","templateTest":true,"data":"Data for ID: {number}"}}'
        else:
            raise MCPError(INVALID_PARAMS, "Resource not found", {"uri": uri})
        if isinstance(content, bytes):
            blob = base64.b64encode(content).decode()
            made = BlobResourceContents(uri=uri, mime_type=mime_type, blob=blob)
            return ReadResourceResult(contents=[made])
        found = TextResourceContents(uri=uri, mime_type=mime_type, text=content)
        return ReadResourceResult(contents=[found])

    async def subscribe(
        self, context: ServerRequestContext, params: SubscribeRequestParams
    ) -> EmptyResult:
        self.subscribed.add(str(params.uri))
        await context.session.send_resource_updated(params.uri)
        return EmptyResult()

    async def unsubscribe(
        self, context: ServerRequestContext, params: UnsubscribeRequestParams
    ) -> EmptyResult:
        self.subscribed.discard(str(params.uri))
        return EmptyResult()

    async def list_prompts(self, context: ServerRequestContext, params: Any) -> ListPromptsResult:
        return ListPromptsResult(prompts=PROMPTS)

    async def get_prompt(
        self, context: ServerRequestContext, params: GetPromptRequestParams
    ) -> GetPromptResult | InputRequiredResult:
        given = params.arguments or {}
        match params.name:
            case "test_simple_prompt":
                return _prompt("This is a simple prompt for testing.")
            case "test_prompt_with_arguments":
                one, two = given.get("arg1"), given.get("arg2")
                return _prompt(f"Prompt with arguments: arg1='{one}', arg2='{two}'")
            case "test_prompt_with_embedded_resource":
                held = TextResourceContents(
                    uri=given["resourceUri"],
                    mime_type="text/plain",
                    text="Embedded resource content for testing.",
                )
                inside = EmbeddedResource(type="resource", resource=held)
                return _prompt("Please process the embedded resource above.", inside)
            case "test_prompt_with_image":
                picture = ImageContent(type="image", data=PNG, mime_type="image/png")
                return _prompt("Please analyze the image above.", picture)
            case "test_input_required_result_prompt":
                return _asking(params)
        raise MCPError(INVALID_PARAMS, f"Unknown prompt: {params.name}")

    async def complete(
        self, context: ServerRequestContext, params: CompleteRequestParams
    ) -> CompleteResult:
        values = [word for word in _WORDS if word.startswith(params.argument.value)]
        return CompleteResult(
            completion=Completion(values=values, total=len(values), has_more=False)
        )

    async def set_level(
        self, context: ServerRequestContext, params: SetLevelRequestParams
    ) -> EmptyResult:
        return EmptyResult()


def _prompt(words: str, *before: ImageContent | EmbeddedResource) -> GetPromptResult:
    content = [*before, TextContent(type="text", text=words)]
    return GetPromptResult(messages=[PromptMessage(role="user", content=one) for one in content])


def _asking(params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
    answer = (params.input_responses or {}).get("user_context")
    if isinstance(answer, ElicitResult) and answer.action == "accept":
        return _prompt(f"Use the context {(answer.content or {}).get('context')}")
    schema = {
        "type": "object",
        "properties": {"context": {"type": "string"}},
        "required": ["context"],
    }
    asked = ElicitRequestFormParams(
        message="What context should the prompt use?", requested_schema=schema
    )
    return InputRequiredResult(input_requests={"user_context": ElicitRequest(params=asked)})


def made(name: str = "everything") -> Server[dict[str, Any]]:
    """The server; state that it hands out is sealed, and refused when it was changed."""
    handlers = Everything(name)
    server = Server(
        name,
        version="1.0.0",
        cache_hints={"tools/list": CacheHint(60_000, "public")},
        get_tool_input_schema=lambda tool: TOOLS[tool][0].input_schema if tool in TOOLS else None,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_templates,
        on_read_resource=handlers.read_resource,
        on_subscribe_resource=handlers.subscribe,
        on_unsubscribe_resource=handlers.unsubscribe,
        on_subscriptions_listen=ListenHandler(bus),
        on_list_prompts=handlers.list_prompts,
        on_get_prompt=handlers.get_prompt,
        on_completion=handlers.complete,
        on_set_logging_level=handlers.set_level,
    )
    server.middleware.append(
        RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=name)
    )
    return server


async def _stdio(server: Server[dict[str, Any]]) -> None:
    options = server.create_initialization_options(NotificationOptions(True, True, True))
    async with stdio_server() as (read, write):
        await server.run(read, write, options)


def _sse(server: Server[dict[str, Any]]) -> Starlette:
    transport = SseServerTransport("/messages/")
    options = server.create_initialization_options(NotificationOptions(True, True, True))

    async def connect(request: Request) -> Response:
        async with transport.connect_sse(request.scope, request.receive, request._send) as streams:
            await server.run(streams[0], streams[1], options)
        return Response()

    return Starlette(
        routes=[Route("/sse", connect), Mount("/messages/", transport.handle_post_message)]
    )


def main(transport: str, *arguments: str) -> None:
    if transport == "stdio":
        asyncio.run(_stdio(made(*arguments)))
        return
    port, *name = arguments
    server = made(*name or ["everything"])
    if transport == "sse":
        app = _sse(server)
    else:
        app = server.streamable_http_app(event_store=Kept(), retry_interval=RETRY_MILLISECONDS)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    # The revision of 2026 deprecates what a legacy client needs.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    main(*sys.argv[1:])
