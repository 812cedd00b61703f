"""A small MCP server over Streamable HTTP, of both eras, in a thread; and a client of the gateway.

The server's tools say who they are, so that a test sees where its call went. Tools: `echo`,
`stream` (answers by events: a log line first), `ask` (asks the client, and answers what it said),
`fail`, `auth` (the Authorization it was sent), `hang`. Lists come in pages of `page` items.
"""

from __future__ import annotations

import http.client
import json
import queue
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from tests.support.client import Got, fetch
from tests.support.upstream import Answer, Seen, Upstream

MODERN = "2026-07-28"
ACCEPT = "application/json, text/event-stream"
_JSON = ("content-type", "application/json")
_EVENTS = ("content-type", "text/event-stream")


@dataclass
class McpServer:
    """To be served by `Upstream(server)`; knows both eras unless it is told otherwise."""

    name: str = "one"
    tools: tuple[str, ...] = ("echo", "stream", "ask", "fail", "auth", "hang")
    legacy: bool = True
    modern: bool = True
    has_sessions: bool = True
    has_prompts: bool = True
    page: int = 100
    is_public: bool = False
    event_ids: bool = False
    descriptions: dict[str, str] = field(default_factory=dict)
    """Of tools, where there are any."""
    broken: bool = False
    """Answers 500 to every POST."""
    sessions: set[str] = field(default_factory=set)
    ended: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    repeats: str = "Region"
    """In which header `Mcp-Param-…` the tool `region` wants its argument repeated."""
    asked: dict[str, queue.Queue[Any]] = field(default_factory=dict)
    listeners: list[queue.Queue[Any]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    told: list[str] = field(default_factory=list)
    subscribed: list[dict[str, Any]] = field(default_factory=list)
    """What modern clients listen to."""

    def __call__(self, seen: Seen) -> Answer:
        if seen.method == "DELETE":
            self.ended.append(seen.get("mcp-session-id") or "")
            self.sessions.discard(self.ended[-1])
            return Answer(204)
        if seen.method == "GET":
            return self._listen(seen)
        message = json.loads(seen.body)
        self.calls.append(message)
        if self.broken:
            return Answer(500)
        meta = message.get("params", {}).get("_meta") or {}
        if self.modern and (not self.legacy or "io.modelcontextprotocol/protocolVersion" in meta):
            return self._modern(message, seen)
        if (seen.get("mcp-protocol-version") or "2025-11-25") > "2025-11-25":
            return self._error(message, -32600, "Bad Request: unsupported version", 400)
        return self._legacy(message, seen)

    def forget(self) -> None:
        """Lose all sessions, as a server that was started again."""
        self.sessions.clear()

    def tell(self, method: str, **params: Any) -> None:
        """Say something on every listening stream."""
        for listener in self.listeners:
            listener.put({"jsonrpc": "2.0", "method": method, "params": params})

    def hear(self, count: int = 1) -> None:
        """Until so many listen."""
        while len(self.listeners) < count:
            threading.Event().wait(0.005)

    def _listen(self, seen: Seen) -> Answer:
        if self.has_sessions and seen.get("mcp-session-id") not in self.sessions:
            return Answer(404)
        mine: queue.Queue[Any] = queue.Queue()
        last = seen.get("last-event-id")
        if last:
            mine.put({"jsonrpc": "2.0", "method": "notifications/resumed", "params": {"at": last}})

        def events() -> Iterator[bytes]:
            yield b": hello\n\n"
            self.listeners.append(mine)
            number = 0
            while (message := mine.get()) is not None:
                number += 1
                yield self._event(message, f"g{number}")

        return Answer(200, [_EVENTS], events())

    def _event(self, message: Any, identity: str) -> bytes:
        head = f"id: {identity}\n" if self.event_ids else ""
        return f"{head}data: {json.dumps(message)}\n\n".encode()

    def _legacy(self, message: dict[str, Any], seen: Seen) -> Answer:
        method = message.get("method")
        session = seen.get("mcp-session-id")
        if method == "initialize":
            return self._initialize(message)
        if self.has_sessions and session not in self.sessions:
            return Answer(404)
        if method is None:
            self.asked[str(message["id"])].put(message)
            return Answer(202)
        if "id" not in message:
            self.told.append(method)
            return Answer(202)
        return self._answer(message, seen)

    def _initialize(self, message: dict[str, Any]) -> Answer:
        if message["params"]["protocolVersion"] == "odd":
            return self._error(message, -32602, "Invalid params: odd", 400)
        headers = [_JSON]
        if self.has_sessions:
            session = uuid.uuid4().hex
            self.sessions.add(session)
            headers.append(("mcp-session-id", session))
        result = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": self._capabilities(),
            "serverInfo": {"name": self.name, "version": "1"},
            "instructions": f"I am {self.name}",
        }
        return Answer(200, headers, _result(message, result))

    def _capabilities(self) -> dict[str, Any]:
        made: dict[str, Any] = {"tools": {"listChanged": True}, "resources": {"subscribe": True}}
        if self.has_prompts:
            made["prompts"] = {}
        return made

    def _modern(self, message: dict[str, Any], seen: Seen) -> Answer:
        method, params = message["method"], message.get("params", {})
        if method in ("initialize", "ping", "logging/setLevel", "resources/subscribe"):
            return self._error(message, -32601, "Method not found", 404)
        if seen.get("mcp-method") != method:
            return self._error(message, -32020, "Header mismatch", 400)
        region = params.get("arguments", {}).get("region")
        if region is not None and seen.get(f"mcp-param-{self.repeats.lower()}") != region:
            return self._error(message, -32020, f"Header mismatch: Mcp-Param-{self.repeats}", 400)
        if method == "server/discover":
            result = {
                "supportedVersions": [MODERN],
                "capabilities": self._capabilities(),
                "ttlMs": 0,
                "cacheScope": "private",
                "resultType": "complete",
            }
            return Answer(200, [_JSON], _result(message, result))
        if method == "subscriptions/listen":
            return self._subscribe(message)
        if method == "tools/call" and params["name"] == "ask":
            return self._input(message)
        return self._answer(message, seen)

    def _input(self, message: dict[str, Any]) -> Answer:
        """The tool `ask` as the modern era has it."""
        params = message["params"]
        answers = params.get("inputResponses")
        if answers is None:
            question = {"method": "elicitation/create", "params": {"message": "who?"}}
            result = {
                "resultType": "input_required",
                "inputRequests": {"who": question},
                "requestState": "opaque",
            }
            return Answer(200, [_JSON], _result(message, result))
        said = answers["who"].get("content", answers["who"].get("action"))
        return self._text(message, f"{self.name}: {said} {params.get('requestState')}")

    def _subscribe(self, message: dict[str, Any]) -> Answer:
        mine: queue.Queue[Any] = queue.Queue()
        tag = {"io.modelcontextprotocol/subscriptionId": message["id"]}
        self.subscribed.append(message["params"]["notifications"])

        def events() -> Iterator[bytes]:
            params = {"notifications": message["params"]["notifications"], "_meta": tag}
            method = "notifications/subscriptions/acknowledged"
            told = {"jsonrpc": "2.0", "method": method, "params": params}
            yield f"data: {json.dumps(told)}\n\n".encode()
            self.listeners.append(mine)
            while (said := mine.get()) is not None:
                said = {**said, "params": {**said["params"], "_meta": tag}}
                yield f"data: {json.dumps(said)}\n\n".encode()
            done = {"resultType": "complete", "_meta": tag}
            yield b"data: " + _result(message, done) + b"\n\n"

        return Answer(200, [_EVENTS], events())

    def _answer(self, message: dict[str, Any], seen: Seen) -> Answer:
        method, params = message["method"], message.get("params", {})
        if method in ("ping", "logging/setLevel", "resources/subscribe"):
            return Answer(200, [_JSON], _result(message, {}))
        if method == "tools/list":
            return self._page(message, "tools", [self._tool(name) for name in self.tools])
        if method == "prompts/list" and self.has_prompts:
            return self._page(message, "prompts", [{"name": "greet"}])
        if method == "resources/list":
            items = [{"uri": f"memo://{self.name}/a", "name": "a"}]
            return self._page(message, "resources", items)
        if method == "resources/read":
            contents = [{"uri": params["uri"], "text": f"{self.name} has {params['uri']}"}]
            return self._result(message, {"contents": contents})
        if method == "prompts/get":
            return self._result(message, {"messages": [], "description": params["name"]})
        if method == "tools/call" and params["name"] in self.tools:
            return self._call(message, params["name"], params.get("arguments", {}), seen)
        return self._error(message, -32601, "Method not found")

    def _tool(self, name: str) -> dict[str, Any]:
        said = self.descriptions.get(name)
        made = _tool(name, self.repeats)
        return made if said is None else {**made, "description": said}

    def _page(self, message: dict[str, Any], key: str, items: list[Any]) -> Answer:
        start = int(message.get("params", {}).get("cursor", "0"))
        result: dict[str, Any] = {key: items[start : start + self.page]}
        if start + self.page < len(items):
            result["nextCursor"] = str(start + self.page)
        return self._result(message, result)

    def _result(self, message: dict[str, Any], result: dict[str, Any]) -> Answer:
        hints: dict[str, Any] = {}
        if self.is_public:
            hints = {"ttlMs": 60_000, "cacheScope": "public"}
        elif not self.legacy:
            hints = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        return Answer(200, [_JSON], _result(message, {**result, **hints}))

    def _call(self, message: dict[str, Any], tool: str, given: Any, seen: Seen) -> Answer:
        if tool == "echo" or tool not in ("stream", "ask", "fail", "auth", "hang"):
            return self._text(message, f"{self.name}: {tool} {json.dumps(given, sort_keys=True)}")
        if tool == "auth":
            return self._text(message, str(seen.get("authorization")))
        if tool == "fail":
            return self._error(message, -32000, "it broke")
        return Answer(200, [_EVENTS], self._events(message, tool))

    def _events(self, message: dict[str, Any], tool: str) -> Iterator[bytes]:
        if tool == "hang":
            yield b": under way\n\n"
            self.released.wait(20)
            return
        if tool == "stream":
            given = message["params"].get("arguments", {})
            log = {"level": "info", "data": given.get("mark", self.name)}
            note = {"jsonrpc": "2.0", "method": "notifications/message", "params": log}
            yield self._event(note, "s1")
            said: object = f"streamed {given['mark']}" if "mark" in given else "streamed"
        else:
            self.asked["q7"] = queue.Queue()
            ask = {"jsonrpc": "2.0", "id": "q7", "method": "elicitation/create", "params": {}}
            yield self._event(ask, "s1")
            said = self.asked["q7"].get(timeout=20).get("result", {}).get("content", "refused")
        result = {"content": [{"type": "text", "text": f"{self.name}: {said}"}]}
        yield self._event({"jsonrpc": "2.0", "id": message["id"], "result": result}, "s2")

    def _text(self, message: dict[str, Any], text: str) -> Answer:
        return self._result(message, {"content": [{"type": "text", "text": text}]})

    def _error(self, message: Any, code: int, text: str, status: int = 200) -> Answer:
        body = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": code, "message": text}}
        return Answer(status, [_JSON], json.dumps(body).encode())


def _tool(name: str, repeats: str = "Region") -> dict[str, Any]:
    region = {"type": "string", "x-mcp-header": repeats}
    properties = {"a": {}, "b": {}, **({"region": region} if name == "region" else {})}
    return {"name": name, "inputSchema": {"type": "object", "properties": properties}}


def _result(message: dict[str, Any], result: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()


def served(server: McpServer) -> Upstream:
    """The server, to be entered."""
    return Upstream(server)


@dataclass
class McpClient:
    """Of a gateway's port. Sends each message on a connection of its own: to any worker."""

    port: int
    path: str = "/mcp"
    version: str = "2025-11-25"
    session: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    number: int = 0

    def post(self, message: object, **headers: str) -> Got:
        """Any message, with the headers of the session."""
        given = {"accept": ACCEPT, "content-type": "application/json", **self.headers}
        if self.session:
            given |= {"mcp-session-id": self.session, "mcp-protocol-version": self.version}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return fetch(self.port, self.path, "POST", host="localhost", headers=given, body=body)

    def initialize(self, version: str = "") -> dict[str, Any]:
        """Begin a session; the result."""
        params = {
            "protocolVersion": version or self.version,
            "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "test", "version": "1"},
        }
        got = self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        assert got.status == 200, got
        self.session = got.get("mcp-session-id") or ""
        done = self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert done.status == 202, done
        found: dict[str, Any] = messages(got)[-1]["result"]
        return found

    def request(self, method: str, **params: Any) -> Got:
        """A request of the session."""
        self.number += 1
        message = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        return self.post(message)

    def modern(self, method: str, mirrored: str = "", /, **params: Any) -> Got:
        """A request that stands for itself."""
        self.number += 1
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        message = {
            "jsonrpc": "2.0",
            "id": self.number,
            "method": method,
            "params": {**params, "_meta": meta},
        }
        headers = {"mcp_protocol_version": MODERN, "mcp_method": method}
        if mirrored:
            headers["mcp_name"] = mirrored
        return self.post(message, **headers)

    def result(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a request of the session."""
        got = self.request(method, **params)
        assert got.status == 200, got
        found: dict[str, Any] = messages(got)[-1]["result"]
        return found

    def text(self, tool: str, **arguments: Any) -> str:
        """What a tool said."""
        found = self.result("tools/call", name=tool, arguments=arguments)
        return str(found["content"][0]["text"])

    def end(self) -> Got:
        """DELETE."""
        headers = {"mcp-session-id": self.session, **self.headers}
        return fetch(self.port, self.path, "DELETE", host="localhost", headers=headers)


def messages(got: Got) -> list[Any]:
    """What a response holds: a document, or events."""
    if (got.get("content-type") or "").startswith("text/event-stream"):
        blocks = got.text.split("\n\n")
        lines = [line for block in blocks for line in block.split("\n")]
        # An event that says but an id has no data to speak of.
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line[6:]]
    found = json.loads(got.body)
    return found if isinstance(found, list) else [found]


def mcp_config(port: int, *targets: Any, **more: Any) -> dict[str, Any]:
    """A gateway with one `mcp` route. `targets`: `(name, address)`, or a whole target."""
    made = [
        {"name": one[0], "mcp": {"host": f"http://{one[1]}/mcp"}} if isinstance(one, tuple) else one
        for one in targets
    ]
    policies = more.pop("policies", None)
    route: dict[str, Any] = {"backends": [{"mcp": {"targets": made, **more}}]}
    if policies:
        route["policies"] = policies
    return {"binds": [{"port": port, "listeners": [{"routes": [route]}]}]}


class Events:
    """An event stream under way: `with Events(client, …) as events: events.next()`."""

    def __init__(
        self, client: McpClient, message: object = None, *, last: str = "", modern: str = ""
    ) -> None:
        """GET without a message. `modern`: method of a message that stands for itself."""
        self._connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
        headers = {"accept": ACCEPT, "host": "localhost", **client.headers}
        if client.session:
            headers["mcp-session-id"] = client.session
        if modern:
            headers |= {"mcp-protocol-version": MODERN, "mcp-method": modern}
        if last:
            headers["last-event-id"] = last
        if message is None:
            self._connection.request("GET", client.path, headers=headers)
        else:
            headers["content-type"] = "application/json"
            self._connection.request("POST", client.path, json.dumps(message), headers)
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.identity = ""
        self.name = ""

    def next(self) -> Any:
        """The next event's message; None at the end."""
        data = ""
        while True:
            line = self._answer.readline().decode().rstrip("\n")
            if line.startswith("id: "):
                self.identity = line[4:]
            elif line.startswith("event: "):
                self.name = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
            elif not line and data:
                return json.loads(data) if data.startswith(("{", "[")) else data
            elif not line and self._answer.isclosed():
                return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._connection.close()
