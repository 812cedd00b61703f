"""An MCP server over standard streams, of both eras, which misbehaves as its tools are told.

Run as a script: `mcp_stdio.py [flag…]`. Flags: `ignore-term` (SIGTERM does nothing), `ignore-eof`
(goes on when its input ends), `legacy` (knows no server/discover), `silent-greeting` (never answers
initialize), `die` (ends at once), `spawn` (starts a grandchild and a detached one, and tells their
pids), `refuse-greeting`.

Tools: see TOOLS. `slow` answers when `release` is called, `mute` reads no more.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

FLAGS = sys.argv[1:]
held: list[Any] = []
asked: dict[Any, Any] = {}
cancelled: list[Any] = []
greetings = 0


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def tell(method: str, **params: Any) -> None:
    say({"method": method, "params": params})


def answer(identity: Any, **result: Any) -> None:
    say({"id": identity, "result": result})


def text(identity: Any, value: Any) -> None:
    said = value if isinstance(value, str) else json.dumps(value)
    answer(identity, content=[{"type": "text", "text": said}], resultType="complete")


def slow(identity: Any, given: Any) -> None:
    held.append(identity)
    tell("notifications/message", level="info", data="held")


def release(identity: Any, given: Any) -> None:
    for waiting in held:
        text(waiting, f"released {waiting}")
    held.clear()
    text(identity, "done")


def twice(identity: Any, given: Any) -> None:
    text(identity, "first")
    text(identity, "second")


def garbage(identity: Any, given: Any) -> None:
    sys.stdout.write('not json\n[]\n{"jsonrpc": "1.0"}\n\n{"jsonrpc": "2.0", "id": {}}\n')
    text(identity, "after")


def wrong_id(identity: Any, given: Any) -> None:
    text(f"x{identity}", "lost")
    text(identity, "right")


def flood_stderr(identity: Any, given: Any) -> None:
    for number in range(given["lines"]):
        sys.stderr.write(f"line {number}\n")
    sys.stderr.write("x" * 100_000 + "\n")
    sys.stderr.flush()
    text(identity, "flooded")


def long_line(identity: Any, given: Any) -> None:
    tell("notifications/message", level="info", data="y" * given["bytes"])
    text(identity, "after")


def progress(identity: Any, given: Any) -> None:
    for done in range(3):
        token = given["_meta"]["progressToken"]
        tell("notifications/progress", progressToken=token, progress=done, total=2)
    text(identity, "done")


def log(identity: Any, given: Any) -> None:
    tell("notifications/message", level="info", data="a line")
    tell("notifications/tools/list_changed")
    text(identity, "logged")


def ask(identity: Any, given: Any) -> None:
    asked["q1"] = identity
    say({"id": "q1", "method": "elicitation/create", "params": {"message": "name?"}})


def ping(identity: Any, given: Any) -> None:
    asked["p1"] = identity
    say({"id": "p1", "method": "ping"})


def mute(identity: Any, given: Any) -> None:
    text(identity, "reads no more")
    signal.pause()


def burst(identity: Any, given: Any) -> None:
    for number in range(given["count"]):
        tell("notifications/message", level="info", data=str(number % 10) * given["size"])
    text(identity, "burst over")


def hush(identity: Any, given: Any) -> None:
    text(identity, os.getpid())
    os.close(1)
    signal.pause()


def env(identity: Any, given: Any) -> None:
    text(identity, {name: os.environ.get(name) for name in given["names"]})


TOOLS: dict[str, Callable[[Any, Any], None]] = {
    "ask": ask,
    "burst": burst,
    "cancelled": lambda identity, given: text(identity, cancelled),
    "cwd": lambda identity, given: text(identity, os.getcwd()),
    "die": lambda identity, given: os._exit(3),
    "echo": lambda identity, given: text(identity, given["text"]),
    "env": env,
    "flood_stderr": flood_stderr,
    "garbage": garbage,
    "greetings": lambda identity, given: text(identity, greetings),
    "hush": hush,
    "log": log,
    "long_line": long_line,
    "meta": lambda identity, given: text(identity, given["_meta"]),
    "mute": mute,
    "never": lambda identity, given: None,
    "pid": lambda identity, given: text(identity, os.getpid()),
    "ping": ping,
    "progress": progress,
    "release": release,
    "slow": slow,
    "twice": twice,
    "wrong_id": wrong_id,
}


def call(identity: Any, params: dict[str, Any]) -> None:
    name = params["name"]
    if name in TOOLS:
        given = {**params.get("arguments", {}), "_meta": params.get("_meta", {})}
        TOOLS[name](identity, given)
    else:
        say({"id": identity, "error": {"code": -32602, "message": f"Unknown tool: {name}"}})


def greet(identity: Any, params: dict[str, Any]) -> None:
    global greetings
    greetings += 1
    if "silent-greeting" in FLAGS:
        return
    if "refuse-greeting" in FLAGS:
        say({"id": identity, "error": {"code": -32602, "message": "not you"}})
        return
    answer(
        identity,
        protocolVersion=params["protocolVersion"],
        capabilities={"tools": {}, "logging": {}},
        serverInfo={"name": "fixture", "version": "1"},
    )


def handle(message: dict[str, Any]) -> None:
    method, identity = message.get("method"), message.get("id")
    params = message.get("params", {})
    if method is None:
        text(asked.pop(identity), message.get("result"))
    elif method == "initialize":
        greet(identity, params)
    elif method == "tools/call":
        call(identity, params)
    elif method == "notifications/cancelled":
        cancelled.append(params["requestId"])
    elif method == "server/discover" and "legacy" not in FLAGS:
        answer(identity, supportedVersions=["2026-07-28"], capabilities={}, resultType="complete")
    elif method == "subscriptions/listen":
        tag = {"io.modelcontextprotocol/subscriptionId": identity}
        tell("notifications/subscriptions/acknowledged", notifications=params, _meta=tag)
        tell("notifications/tools/list_changed", _meta=tag)
    elif identity is not None:
        say({"id": identity, "error": {"code": -32601, "message": "Method not found"}})


def main() -> None:
    if "die" in FLAGS:
        sys.exit(7)
    if "ignore-term" in FLAGS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "spawn" in FLAGS:
        # As `npx` does: the real work is done by others. One of them even leaves the group.
        sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
        near = subprocess.Popen(sleeper, stdin=subprocess.DEVNULL)
        far = subprocess.Popen(sleeper, stdin=subprocess.DEVNULL, start_new_session=True)
        sys.stderr.write(f"pids {near.pid} {far.pid}\n")
        sys.stderr.flush()
    for line in sys.stdin:
        handle(json.loads(line))
    while "ignore-eof" in FLAGS:
        signal.pause()


main()
