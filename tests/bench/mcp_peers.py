"""The gateways that are compared in front of one canned MCP server, each on a core of its own."""

from __future__ import annotations

import http.client
import sys
from dataclasses import dataclass
from typing import Any, Final

import orjson

from tests.bench import mcp_contextforge
from tests.bench.environments import AbsentError
from tests.bench.peers import wait_open
from tests.bench.processes import Processes
from tests.bench.usage import LOAD_CORE, PROXY_CORE, descendants, pinned
from tests.support.gateway import GatewayProcess, free_ports

Json = dict[str, Any]
MODERN: Final = "2026-07-28"
ACCEPT: Final = "application/json, text/event-stream"
DIRECT: Final = "direct"
GATEWAY: Final = "gateway"
CONTEXTFORGE: Final = "ContextForge"
SERVERS: Final = 10
RULE: Final = (
    'mcp.tool.name == "echo" || mcp.tool.name.startsWith("tool_1") || '
    'mcp.tool.target == "server-3" && request.method == "POST"'
)
"""Of four terms; most tools are hidden by it."""


@dataclass(frozen=True, slots=True)
class McpPeer:
    """Who is measured. `paths`: of its endpoints, by what is behind them: one, ten, ruled.

    `prefix`: before a tool's name at the endpoint of one server; `headers`: with each request.
    """

    name: str
    port: int = 0
    paths: tuple[tuple[str, str], ...] = ()
    load_pids: tuple[int, ...] = ()
    all_pids: tuple[int, ...] = ()
    prefix: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    connections: int = 32
    """Of the load generator."""
    least_seconds: float = 0.0
    """That a run takes, so that there are calls to be counted."""
    why_absent: str = ""

    def path(self, shape: str) -> str:
        """ "" where it has no such endpoint."""
        return dict(self.paths).get(shape, "")


class McpStage(Processes):
    """`with McpStage() as stage:` everything runs; `stage.peers` are ready for load."""

    def __init__(self, *, with_contextforge: bool = True) -> None:
        super().__init__()
        (self.upstream,) = free_ports(1)
        self.peers: list[McpPeer] = []
        self._with_contextforge = with_contextforge

    def peer(self, name: str) -> McpPeer:
        """By its name."""
        return next(one for one in self.peers if one.name == name)

    def _start(self) -> None:
        with pinned(LOAD_CORE):
            command = [sys.executable, "-m", "tests.bench.mcp_upstream", str(self.upstream)]
            process = self._spawn(command)
            wait_open(process, f"http://127.0.0.1:{self.upstream}/")
        self.peers.append(McpPeer(DIRECT, self.upstream, (("one", "/server-0"),)))
        with pinned(PROXY_CORE):
            self.peers.append(self._ours())
            self.peers.append(self._contextforge())

    def _ours(self) -> McpPeer:
        (port,) = free_ports(1)
        process = GatewayProcess(_config(port, self.upstream))
        self._gateways.append(process)
        process.start()
        load = tuple(pid for one in process.worker_pids() for pid in descendants(one))
        everyone = tuple(descendants(process.process.pid))
        paths = tuple((shape, f"/{shape}") for shape in ("one", "ten", "ruled"))
        return McpPeer(GATEWAY, port, paths, load, everyone)

    def _contextforge(self) -> McpPeer:
        if not self._with_contextforge:
            return McpPeer(CONTEXTFORGE, why_absent="left out")
        (port,) = free_ports(1)
        try:
            process = mcp_contextforge.start(self.folder, port)
        except AbsentError as error:
            return McpPeer(CONTEXTFORGE, why_absent=str(error))
        self._processes.append(process)
        try:
            path, prefix = mcp_contextforge.register(
                process, port, f"http://127.0.0.1:{self.upstream}/server-0"
            )
        except (OSError, AbsentError) as error:
            tail = mcp_contextforge.log_tail(self.folder)
            return McpPeer(CONTEXTFORGE, why_absent=f"no start: {error}; {tail}")
        pids = tuple(descendants(process.pid))
        headers = mcp_contextforge.headers()
        # With more connections it has no core left, and calls wait for seconds.
        return McpPeer(
            *(CONTEXTFORGE, port, (("one", path),), pids, pids, prefix, headers),
            connections=4,
            least_seconds=10.0,
        )


def _config(port: int, upstream: int) -> Json:
    targets = [
        {"name": f"server-{n}", "mcp": {"host": f"http://127.0.0.1:{upstream}/server-{n}"}}
        for n in range(SERVERS)
    ]
    ten: Json = {"targets": targets, "listCacheTtl": "1h"}
    routes = [
        _route("/one", {"targets": targets[:1]}),
        _route("/ten", ten),
        {**_route("/ruled", ten), "policies": {"mcpAuthorization": {"rules": [RULE]}}},
    ]
    return {
        "config": {"logging": {"level": "info,request=warn"}},
        "binds": [{"port": port, "listeners": [{"routes": routes}]}],
    }


def _route(path: str, mcp: Json) -> Json:
    return {"matches": [{"path": {"exact": path}}], "backends": [{"mcp": mcp}]}


# --- a client that is no load generator -----------------------------------------------------------


class Session:
    """A session of a legacy client at one endpoint."""

    def __init__(self, peer: McpPeer, shape: str) -> None:
        """Raises: LookupError when there is none to be had."""
        self.peer = peer
        self.path = peer.path(shape)
        self.headers = {**dict(peer.headers), "mcp-protocol-version": "2025-11-25"}
        self._connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=60)
        params: Json = {"protocolVersion": "2025-11-25", "capabilities": {}}
        params["clientInfo"] = {"name": "bench", "version": "1"}
        status, _, headers = self.post(message("initialize", params))
        if status != 200:
            raise LookupError(f"{peer.name}: initialize was answered with {status}")
        if "mcp-session-id" in headers:
            self.headers["mcp-session-id"] = headers["mcp-session-id"]
        told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        self.post(orjson.dumps(told))

    def post(self, body: bytes) -> tuple[int, Json, dict[str, str]]:
        """Status, the message that answered ({} for none), lower-case headers."""
        given = {"content-type": "application/json", "accept": ACCEPT, **self.headers}
        self._connection.request("POST", self.path, body, given)
        answer = self._connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        raw = answer.read()
        if headers.get("content-type", "").startswith("text/event-stream"):
            lines = [line[6:] for line in raw.split(b"\n") if line.startswith(b"data: ")]
            raw = lines[-1] if lines else b""
        return answer.status, orjson.loads(raw) if raw else {}, headers

    def close(self) -> None:
        """The connection; the session stays."""
        self._connection.close()


def message(method: str, params: Json) -> bytes:
    """A request."""
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})


def call(name: str, *, is_modern: bool = False) -> bytes:
    """Of a tool, with some arguments."""
    params: Json = {"name": name, "arguments": {"argument_0": "some text", "argument_1": "more"}}
    if is_modern:
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    return message("tools/call", params)
