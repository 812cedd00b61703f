"""An agent on the official SDK: JSON-RPC, REST and gRPC, versions 1.0 and 0.3, in its own process.

    python -m tests.support.a2a_agent HTTP_PORT GRPC_PORT GRPC_03_PORT

It answers a message by a task with one artifact, `echo: TEXT`. `wait` leaves the task at work until
somebody says `go on`; `ask` ends with the state input-required; `big N` gives an artifact of N
characters. Its card names the ports above, which clients behind a gateway must never see.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import uvicorn
from a2a.compat.v0_3 import a2a_v0_3_pb2_grpc
from a2a.compat.v0_3.grpc_handler import CompatGrpcHandler
from a2a.helpers import new_task_from_user_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler, GrpcHandler
from a2a.server.routes import (
    create_agent_card_routes,
    create_jsonrpc_routes,
    create_rest_routes,
)
from a2a.server.tasks import (
    InMemoryPushNotificationConfigStore,
    InMemoryTaskStore,
    TaskUpdater,
)
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentCardSignature,
    AgentInterface,
    AgentSkill,
    a2a_pb2_grpc,
)
from starlette.applications import Starlette

START_SECONDS = 90.0


class Echo(AgentExecutor):
    """See the module."""

    def __init__(self) -> None:
        self._go_on = asyncio.Event()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """One message."""
        assert context.message is not None
        text = context.get_user_input()
        task = context.current_task
        if task is None:
            task = new_task_from_user_message(context.message)
            await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work()
        if text == "go on":
            self._go_on.set()
        elif text == "wait":
            await asyncio.wait_for(self._go_on.wait(), 20)
        elif text == "ask":
            await updater.requires_input()
            return
        said = "x" * int(text[4:]) if text.startswith("big ") else f"echo: {text}"
        await updater.add_artifact([new_text_part(said)], name="answer")
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Give a task up."""
        assert context.task_id is not None
        assert context.context_id is not None
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def card(http: int, grpc_port: int, grpc_03: int, name: str = "echo") -> AgentCard:
    """Of both eras, signed by nobody in particular."""
    base = f"http://127.0.0.1:{http}"
    interfaces = [
        ("JSONRPC", "1.0", f"{base}/a2a/jsonrpc"),
        ("HTTP+JSON", "1.0", f"{base}/a2a/rest"),
        ("GRPC", "1.0", f"127.0.0.1:{grpc_port}"),
        ("JSONRPC", "0.3", f"{base}/a2a/jsonrpc"),
        ("HTTP+JSON", "0.3", f"{base}/a2a/rest"),
        ("GRPC", "0.3", f"127.0.0.1:{grpc_03}"),
    ]
    return AgentCard(
        name=name,
        description="says what it hears",
        version="1.2.3",
        supported_interfaces=[
            AgentInterface(protocol_binding=binding, protocol_version=version, url=url)
            for binding, version, url in interfaces
        ],
        capabilities=AgentCapabilities(
            streaming=True, push_notifications=True, extended_agent_card=True
        ),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="echo", name="echo", description="echoes", tags=["echo"])],
        signatures=[AgentCardSignature(protected="e30", signature="c2ln")],
    )


async def serve(http: int, grpc_port: int, grpc_03: int) -> None:
    """Until the process is stopped."""
    public = card(http, grpc_port, grpc_03)
    handler = DefaultRequestHandler(
        Echo(),
        InMemoryTaskStore(),
        public,
        push_config_store=InMemoryPushNotificationConfigStore(),
        extended_agent_card=card(http, grpc_port, grpc_03, "echo for friends"),
    )
    routes = [
        *create_agent_card_routes(public, cache_control="max-age=30"),
        *create_jsonrpc_routes(handler, "/a2a/jsonrpc", enable_v0_3_compat=True),
        *create_rest_routes(handler, enable_v0_3_compat=True, path_prefix="/a2a/rest"),
    ]
    servers = []
    for port, register, servicer in (
        (grpc_port, a2a_pb2_grpc.add_A2AServiceServicer_to_server, GrpcHandler(handler)),
        (
            grpc_03,
            a2a_v0_3_pb2_grpc.add_A2AServiceServicer_to_server,
            CompatGrpcHandler(handler),
        ),
    ):
        server = grpc.aio.server()
        register(servicer, server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        servers.append(server)
    config = uvicorn.Config(
        Starlette(routes=routes), "127.0.0.1", http, log_level="error", ws="none"
    )
    await uvicorn.Server(config).serve()
    for server in servers:
        await server.stop(None)


class A2aAgent:
    """`with A2aAgent(ports) as agent:` answers until the block ends. `ports`: three free ones."""

    def __init__(self, ports: list[int]) -> None:
        self.http, self.grpc, self.grpc_03 = ports
        self._ports = ports
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", __name__, *map(str, self._ports)]
        root = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(command, cwd=root)
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, "the agent ended"
            assert time.monotonic() < until, "the agent did not start"
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            # It listens last on this port.
            socket.create_connection(("127.0.0.1", self.http), timeout=1).close()
        except OSError:
            return False
        return True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:4])))
