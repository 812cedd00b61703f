"""Peers written for Node.js: the TypeScript SDK as client, and two of its servers as children.

Source: npm packages @modelcontextprotocol/{sdk,server-everything,server-filesystem}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import node
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_peer import SdkServer, stdio_target
from tests.support.mcp_server import mcp_config

SCRIPT = node.FOLDER / "client.mjs"
CLIENT_SECONDS = 60.0
EVERYTHING = "@modelcontextprotocol/server-everything/dist/index.js"
FILESYSTEM = "@modelcontextprotocol/server-filesystem/dist/index.js"
pytestmark = pytest.mark.timeout(node.INSTALL_SECONDS + CLIENT_SECONDS)


def target(name: str, script: str, *arguments: str) -> dict[str, Any]:
    """A package's server as a child of the gateway."""
    command, *rest = node.command(script, *arguments)
    return {"name": name, "stdio": {"cmd": command, "args": rest}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the filesystem server may see, and a file in it."""
    made = tmp_path_factory.mktemp("files").resolve()
    (made / "note.txt").write_text("buy milk")
    return made


@pytest.fixture(scope="module")
def ports(folder: Path) -> Iterator[dict[str, int]]:
    ports = dict(zip(("one", "several", "children"), free_ports(3), strict=True))
    with SdkServer() as http:
        shapes = (
            mcp_config(ports["one"], ("only", http.address)),
            mcp_config(ports["several"], ("one", http.address), stdio_target("two")),
            mcp_config(
                ports["children"],
                target("all", EVERYTHING, "stdio"),
                target("files", FILESYSTEM, str(folder)),
            ),
        )
        binds = [bind for shape in shapes for bind in shape["binds"]]
        with GatewayProcess({"binds": binds}, workers=4):
            yield ports


def said(
    port: int, *steps: dict[str, Any], root: str = "file:///mine", path: str = "/mcp"
) -> dict[str, Any]:
    """What the client says of these steps; see client.mjs."""
    url = f"http://127.0.0.1:{port}{path}"
    done = node.run(SCRIPT, url, json.dumps(steps), root, seconds=CLIENT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"act": "call", "name": name, "arguments": arguments}


def text(answer: Any) -> str:
    return str(answer["content"][0]["text"])


@pytest.mark.parametrize(
    ("shape", "prefix", "scheme"),
    [("one", "", ""), ("several", "one_", "one+"), ("several", "two_", "two+")],
    ids=["one", "http-of-two", "stdio-of-two"],
)
def test_typescript_client(ports: dict[str, int], shape: str, prefix: str, scheme: str) -> None:
    found = said(
        ports[shape],
        {"act": "tools"},
        {"act": "prompts"},
        {"act": "read", "uri": f"{scheme}test://template/7/data"},
        {"act": "prompt", "name": f"{prefix}test_simple_prompt"},
        {
            "act": "complete",
            "ref": {"type": "ref/prompt", "name": f"{prefix}test_prompt_with_arguments"},
            "argument": {"name": "arg1", "value": "pari"},
        },
        {"act": "level", "level": "info"},
        call(f"{prefix}test_tool_with_logging"),
        call(f"{prefix}test_tool_with_progress"),
        call(f"{prefix}test_sampling", prompt="tea"),
        call(f"{prefix}test_elicitation", message="who?"),
        call(f"{prefix}list_roots"),
        {"act": "cancel", "name": f"{prefix}wait_cancelled", "arguments": {"word": "node" + shape}},
        {"act": "until", "name": f"{prefix}cancelled_words", "word": "node" + shape},
        call(f"{prefix}test_reconnection"),
        call(f"{prefix}test_trigger_tool_change"),
        {"act": "told", "method": "notifications/tools/list_changed"},
    )
    tools, prompts, read, prompt, words, _, _, _, *asked = found["answers"]
    assert f"{prefix}test_simple_text" in tools
    assert f"{prefix}test_simple_prompt" in prompts
    assert read["uri"] == f"{scheme}test://template/7/data"
    assert "Data for ID: 7" in read["text"]
    assert prompt[0]["content"]["text"] == "This is a simple prompt for testing."
    assert words == ["paris"]
    assert found["told"].count("notifications/message") == 3
    assert [one["progress"] for one in found["progress"]][:3] == [0, 50, 100]
    sampled, elicited, roots, cancelled, _, again, *_ = asked
    assert text(sampled) == "LLM response: model on tea"
    assert "my username" in text(elicited)
    assert text(roots) == "file:///mine"
    assert "enough" in cancelled
    assert text(again) == "Reconnection test completed"


def test_everything_and_filesystem_as_children(ports: dict[str, int], folder: Path) -> None:
    note = str(folder / "note.txt")
    found = said(
        ports["children"],
        {"act": "tools"},
        {"act": "prompts"},
        {"act": "resources"},
        call("all_echo", message="hello"),
        call("all_get-sum", a=2, b=3),
        call("all_get-structured-content", location="Chicago"),
        call("all_trigger-long-running-operation", duration=0.2, steps=4),
        call("all_trigger-sampling-request", prompt="tea", maxTokens=10),
        call("all_get-resource-links", count=2),
        call("files_read_text_file", path=note),
        call("files_write_file", path=str(folder / "new.txt"), content="made"),
        call("files_read_text_file", path="/etc/hostname"),
        root=folder.as_uri(),
    )
    tools, prompts, resources, *answers = found["answers"]
    assert {"all_echo", "files_read_text_file", "files_edit_file"} <= set(tools)
    assert all(name.startswith("all_") for name in prompts)
    assert resources
    assert all(uri.startswith("all+") for uri in resources)
    echoed, added, structured, long, sampled, links, read, _, refused = answers
    assert text(echoed) == "Echo: hello"
    assert "5" in text(added)
    assert structured["structuredContent"]["temperature"]
    assert [one["progress"] for one in found["progress"]][:4] == [1, 2, 3, 4]
    assert "completed" in text(long)
    assert "model on" in text(sampled)
    uris = [one["uri"] for one in links["content"] if one["type"] == "resource_link"]
    assert uris
    assert all(uri.startswith("all+") for uri in uris)
    assert text(read) == "buy milk"
    assert (folder / "new.txt").read_text() == "made"
    assert refused["isError"]
    assert "denied" in text(refused)


def test_typescript_client_of_the_older_transport(ports: dict[str, int]) -> None:
    found = said(
        ports["several"],
        {"act": "tools"},
        call("two_test_tool_with_progress"),
        call("one_test_elicitation", message="who?"),
        path="/sse",
    )
    tools, _, elicited = found["answers"]
    assert {"one_test_simple_text", "two_test_simple_text"} <= set(tools)
    assert [one["progress"] for one in found["progress"]] == [0, 50, 100]
    assert "my username" in text(elicited)


def test_a_resource_that_a_tool_links_to_can_be_read(ports: dict[str, int]) -> None:
    linked = said(ports["children"], call("all_get-resource-links", count=1))
    (uri,) = (
        one["uri"] for one in linked["answers"][0]["content"] if one["type"] == "resource_link"
    )
    read = said(ports["children"], {"act": "read", "uri": uri})
    assert read["answers"][0]["uri"] == uri
