"""`openapi` targets: an HTTP API as tools, alone and beside an MCP server, over two workers."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from mcp.client.client import Client

from sidecar.config.local import Source
from sidecar.config.problems import InvalidConfigError
from sidecar.gateway.loading import Loader
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_server import MODERN, Events, McpClient, McpServer, messages
from tests.support.openapi_documents import pets
from tests.support.pet_api import PNG, PetApi
from tests.support.processes import wait_until
from tests.support.upstream import Answer, Seen, Upstream

KEY = {"backendAuth": {"key": {"value": "s3cret", "location": {"header": {"name": "x-api-key"}}}}}


@dataclass
class Running:
    """The gateway before its peers."""

    port: int
    api: PetApi
    up: Upstream
    gateway: GatewayProcess
    changing: Path
    """The document of one of the targets."""

    def client(self, path: str, **headers: str) -> McpClient:
        made = McpClient(self.port, path, headers=headers)
        made.initialize()
        return made

    def last(self) -> Seen:
        return self.up.seen[-1]


def route(path: str, *targets: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "matches": [{"path": {"pathPrefix": path}}],
        "backends": [{"mcp": {"targets": list(targets), **more}}],
    }


def inline(document: Any) -> Any:
    """As a configuration holds it, in which `$` begins a variable of the environment."""
    return json.loads(json.dumps(document).replace("$", "$$"))


def openapi(name: str, address: str, schema: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "openapi": {"host": f"http://{address}", "schema": schema}, **more}


def write_api(path: Path, name: str) -> None:
    """A document with one operation, at once."""
    document = {"openapi": "3.1.0", "paths": {f"/{name}": {"get": {"operationId": name}}}}
    fresh = path.with_suffix(".fresh")
    fresh.write_text(yaml.safe_dump(document))
    fresh.replace(path)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    (port,) = free_ports(1)
    file = tmp_path_factory.mktemp("openapi") / "pets.yaml"
    file.write_text(yaml.safe_dump(pets(), sort_keys=False))
    changing = file.with_name("changing.yaml")
    write_api(changing, "before")
    api = PetApi()
    with Upstream(api) as up, Upstream(McpServer("other")) as server:
        address = up.address
        other = {"name": "other", "mcp": {"host": f"http://{server.address}/mcp"}}
        hurried = {"http": {"requestTimeout": "300ms"}}
        routes = [
            route("/mcp", openapi("api", address, {"file": str(file)}, policies=KEY)),
            route("/both", openapi("api", address, inline(pets())), other),
            route(
                "/remote",
                openapi("api", f"{address}/elsewhere", {"url": f"http://{address}/openapi.json"}),
            ),
            route("/hurried", openapi("api", address, inline(pets()), policies=hurried)),
            route("/changing", openapi("api", address, {"file": str(changing)})),
            route("/lost", openapi("api", address, {"url": f"http://{address}/nothing"})),
            route(
                "/ruled",
                openapi(
                    "api",
                    address,
                    json.dumps(inline(pets())),
                    tools={
                        "allow": ["get_*", "listPets"],
                        "override": {"listPets": {"arguments": {"header": {"x-trace": 9}}}},
                    },
                ),
            ),
        ]
        named = {"name": "api", "openapi": {"backend": "shop", "schema": inline(pets())}}
        routes.append(route("/named", named))
        key = {"value": "s3cret", "location": {"queryParameter": {"name": "api_key"}}}
        config = {
            "binds": [{"port": port, "listeners": [{"routes": routes}]}],
            "backends": [
                {"name": "shop", "host": address, "policies": {"backendAuth": {"key": key}}}
            ],
        }
        with GatewayProcess(config, workers=2) as gateway:
            yield Running(port, api, up, gateway, changing)
        api.released.set()


@pytest.fixture
def client(running: Running) -> McpClient:
    return running.client("/mcp")


def called(client: McpClient, name: str, **arguments: Any) -> dict[str, Any]:
    return client.result("tools/call", name=name, arguments=arguments)


def texts(result: dict[str, Any]) -> list[str]:
    return [one["text"] for one in result["content"]]


def test_it_is_a_server_with_tools_alone(running: Running) -> None:
    client = McpClient(running.port, "/mcp")
    greeting = client.initialize("2025-06-18")
    assert greeting["protocolVersion"] == "2025-06-18"
    assert greeting["serverInfo"] == {"name": "api", "title": "Pets", "version": "1.2"}
    assert greeting["instructions"] == "A shop."
    assert greeting["capabilities"] == {"tools": {}}
    assert client.result("ping") == {}
    assert client.result("prompts/list") == {"prompts": []}
    assert client.result("resources/list") == {"resources": []}
    for method in ("resources/read", "prompts/get"):
        assert messages(client.request(method, uri="x:y", name="x"))[0]["error"]["code"] == -32602
    assert messages(client.request("logging/setLevel", level="info"))[0]["error"]["code"] == -32601
    assert client.end().status == 200


def test_tools_are_listed(client: McpClient) -> None:
    tools = {tool["name"]: tool for tool in client.result("tools/list")["tools"]}
    assert list(tools)[:3] == ["listPets", "post_pets", "get_pets_by_id"]
    assert tools["get_pets_by_id"]["inputSchema"]["required"] == ["path"]
    assert "x-api-key" not in json.dumps(tools).lower()


def test_a_call(client: McpClient, running: Running) -> None:
    result = called(client, "listPets", query={"limit": 2, "tags": ["a", "b c"]})
    query = {"limit": ["2"], "tags": ["a", "b c"]}
    assert result["structuredContent"] == {"data": [{"name": "Rex", "id": 1, "query": query}]}
    seen = running.last()
    assert (seen.method, seen.target) == ("GET", "/v1/pets?limit=2&tags=a&tags=b%20c")
    assert seen.get_all("host") == [running.up.address]
    assert seen.get_all("x-api-key") == ["s3cret"]
    assert seen.get("accept") == "application/json"
    assert seen.get("mcp-session-id") is None
    assert seen.get("content-type") is None


def test_clients_headers_go_on_but_not_the_apis_own(running: Running) -> None:
    client = running.client(
        "/mcp",
        **{"x-team": "blue", "authorization": "Bearer mine", "x-api-key": "mine", "x-trace": "7"},
    )
    called(client, "listPets", header={"x-trace": 3})
    seen = running.last()
    assert seen.get("x-team") == "blue"
    assert seen.get("authorization") is None
    assert seen.get_all("x-api-key") == ["s3cret"]
    assert seen.get_all("x-trace") == ["3"]
    called(client, "listPets")
    assert running.last().get("x-trace") is None


def test_a_named_backend_and_its_key_in_the_query(running: Running) -> None:
    called(running.client("/named"), "listPets", query={"limit": 3})
    seen = running.last()
    assert seen.target == "/v1/pets?limit=3&api_key=s3cret"
    assert seen.get("host") == running.up.address


def test_bodies_of_all_kinds(client: McpClient, running: Running) -> None:
    made = called(client, "post_pets", body={"name": "Rex"})
    assert made["structuredContent"] == {"name": "Rex", "id": 7}
    assert running.last().get("content-type") == "application/json"
    assert texts(called(client, "login", body={"user": "a&b", "scopes": ["x"]})) == [
        "user=a%26b&scopes=x"
    ]
    assert texts(called(client, "note", body="é")) == ["é"]
    image = {"type": "image", "mimeType": "image/png", "data": b64encode(PNG).decode()}
    raw = b64encode(b"\x00\xff").decode()
    assert called(client, "uploadRaw", path={"id": "1"}, body=raw)["content"] == [image]
    assert running.last().body == b"\x00\xff"
    called(client, "upload", path={"id": "1"}, body={"file": raw, "note": "n"})
    seen = running.last()
    kind = seen.get("content-type") or ""
    assert kind.startswith("multipart/form-data; boundary=")
    assert seen.body.startswith(b"--" + kind.partition("=")[2].encode() + b"\r\n")
    assert b"Content-Type: image/png\r\n\r\n\x00\xff\r\n" in seen.body
    assert texts(called(client, "delete_pets_by_id", path={"id": "1"})) == ["HTTP 204 No Content"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody", ["HTTP 404 Not Found", '{"error": "no pet nobody"}']),
        ("broken", ["HTTP 500 Internal Server Error", '{"error": "it broke"}']),
        ("moved", ["HTTP 302 Found: the API redirects, which is not followed"]),
        ("garbage", ["HTTP 200 OK, but the body is no JSON as its type says:", "<html>"]),
        ("huge", ["HTTP 200, but the answer is larger than 4194304 bytes"]),
    ],
)
def test_what_the_api_refuses_is_an_error_of_the_tool(
    client: McpClient, running: Running, name: str, said: list[str]
) -> None:
    count = len(running.up.seen)
    result = called(client, "get_pets_by_id", path={"id": name})
    assert result["isError"] is True
    assert texts(result) == said
    assert len(running.up.seen) == count + 1


def test_an_answer_that_is_not_as_promised(client: McpClient) -> None:
    result = called(client, "get_pets_by_id", path={"id": "lies"})
    assert result["isError"] is True
    assert "`name` is not of type string" in texts(result)[0]
    assert texts(result)[1] == '{"name": 5}'


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"path": {"id": "../admin"}}, "path parameter `id` holds what no segment may be"),
        ({"path": {"id": 5}}, "`path/id` is not of type string"),
        ({}, "the value lacks `path`"),
        ({"path": {"id": "1"}, "host": "evil"}, "the value has an unknown property `host`"),
    ],
)
def test_arguments_that_do_not_fit_reach_nobody(
    client: McpClient, running: Running, arguments: Any, why: str
) -> None:
    count = len(running.up.seen)
    result = called(client, "get_pets_by_id", **arguments)
    assert (result["isError"], texts(result)) == (True, [f"The API was not called: {why}"])
    assert len(running.up.seen) == count


def test_a_slash_stays_in_its_segment(client: McpClient, running: Running) -> None:
    called(client, "get_pets_by_id", path={"id": "a/b?c"})
    assert running.last().target == "/v1/pets/a%2Fb%3Fc"


def test_unknown_tools_and_arguments_that_are_none(client: McpClient) -> None:
    error = messages(client.request("tools/call", name="nope", arguments={}))[0]["error"]
    assert error == {"code": -32602, "message": "Unknown tool: nope"}
    result = client.result("tools/call", name="listPets")
    assert "structuredContent" in result


def test_an_api_that_breaks_off_is_a_failed_server(client: McpClient) -> None:
    got = client.request("tools/call", name="get_pets_by_id", arguments={"path": {"id": "cut"}})
    assert got.status in (502, 503)
    assert messages(got)[0]["error"]["code"] == -32603


def test_rules_and_changes_hold_as_for_any_server(running: Running) -> None:
    client = running.client("/ruled")
    tools = {tool["name"]: tool for tool in client.result("tools/list")["tools"]}
    assert list(tools) == ["listPets", "get_pets_by_id"]
    assert "header" not in tools["listPets"]["inputSchema"]["properties"]
    called(client, "listPets")
    assert running.last().get("x-trace") == "9"


def test_an_api_that_does_not_answer_in_time(running: Running) -> None:
    client = running.client("/hurried")
    got = client.request("tools/call", name="get_pets_by_id", arguments={"path": {"id": "hang"}})
    assert got.status == 504
    assert "did not answer within 0.3 s" in messages(got)[0]["error"]["message"]


def test_beside_another_server(running: Running) -> None:
    client = running.client("/both")
    names = [tool["name"] for tool in client.result("tools/list")["tools"]]
    assert {"api_listPets", "other_echo"} <= set(names)
    assert called(client, "api_get_pets_by_id", path={"id": "3"})["structuredContent"]["id"] == 3
    assert client.text("other_echo", a=1) == 'other: echo {"a": 1}'
    assert client.result("ping") == {}
    assert client.end().status == 200


def test_a_client_of_the_newest_revision(running: Running) -> None:
    client = McpClient(running.port, "/mcp")
    found = messages(client.modern("server/discover"))[0]["result"]
    assert (found["supportedVersions"], found["capabilities"]) == (["2026-07-28"], {"tools": {}})
    assert (found["resultType"], found["cacheScope"]) == ("complete", "public")
    found = messages(client.modern("tools/list"))[0]["result"]
    assert (found["resultType"], found["ttlMs"], len(found["tools"])) == ("complete", 300_000, 10)
    arguments = {"path": {"id": "4"}}
    got = client.modern("tools/call", "get_pets_by_id", name="get_pets_by_id", arguments=arguments)
    found = messages(got)[0]["result"]
    assert (found["resultType"], found["structuredContent"]["id"]) == ("complete", 4)


def test_the_newest_revision_may_wait_for_what_never_comes(running: Running) -> None:
    client = McpClient(running.port, "/mcp")
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"notifications": {"toolsListChanged": True}, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
    with Events(client, message, modern="subscriptions/listen") as events:
        told = events.next()
    assert told["method"] == "notifications/subscriptions/acknowledged"
    assert told["params"]["notifications"] == {}


def test_there_is_no_stream_of_its_own(client: McpClient) -> None:
    with Events(client) as events:
        assert events.status == 405


async def test_the_official_client_takes_it(running: Running) -> None:
    """It checks results by their output schemas."""
    async with Client(f"http://127.0.0.1:{running.port}/mcp") as sdk:
        tools = (await sdk.list_tools()).tools
        assert len(tools) == 10
        pet = await sdk.call_tool("get_pets_by_id", {"path": {"id": "5"}})
        assert (pet.is_error, pet.structured_content) == (False, {"name": "Rex", "id": 5})
        lies = await sdk.call_tool("get_pets_by_id", {"path": {"id": "lies"}})
        assert lies.is_error is True


def test_a_changed_file_changes_the_tools(running: Running) -> None:
    gateway = running.gateway
    client = running.client("/changing")
    revision = gateway.dump()["revision"]
    assert [one["name"] for one in client.result("tools/list")["tools"]] == ["before"]
    write_api(running.changing, "after")
    wait_until(lambda: gateway.dump()["revision"] > revision)
    gateway.wait_applied(revision + 1)
    assert [one["name"] for one in client.result("tools/list")["tools"]] == ["after"]
    running.changing.write_text("openapi: 2")
    gateway.wait_line("expected a version 3.0, 3.1 or 3.2")
    assert [one["name"] for one in client.result("tools/list")["tools"]] == ["after"]
    write_api(running.changing, "before")
    wait_until(lambda: gateway.dump()["revision"] > revision + 1)


def test_a_document_behind_a_url(running: Running) -> None:
    client = running.client("/remote")
    assert len(client.result("tools/list")["tools"]) == 10
    called(client, "delete_pets_by_id", path={"id": "1"})
    # The operator's path takes the place of the document's.
    assert running.last().target == "/elsewhere/pets/1"
    assert 1 <= running.api.fetched <= 2


def test_a_document_that_cannot_be_had(running: Running) -> None:
    client = McpClient(running.port, "/lost")
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    got = client.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
    assert got.status == 503
    text = messages(got)[0]["error"]["message"]
    assert "/nothing cannot be had: status 404" in text


def test_the_example() -> None:
    path = Path(__file__).resolve().parents[2] / "deploy/examples/mcp-openapi.yaml"
    config = yaml.safe_load(path.read_text())
    (port,) = free_ports(1)
    config["gateways"]["default"]["port"] = port
    order = {"items": [{"sku": "AB1234", "count": 2}]}

    def shop(seen: Seen) -> Answer:
        body = {**json.loads(seen.body or b"{}"), "id": 1} if seen.method == "POST" else []
        status = 201 if seen.method == "POST" else 200
        return Answer(status, [("content-type", "application/json")], json.dumps(body).encode())

    with Upstream(shop) as up:
        (target,) = config["mcp"]["targets"]
        target["openapi"]["host"] = f"http://{up.address}"
        with GatewayProcess(config, env={"SHOP_API_KEY": "sesame"}):
            client = McpClient(port)
            client.initialize()
            tools = [tool["name"] for tool in client.result("tools/list")["tools"]]
            assert tools == ["listOrders", "placeOrder"]
            assert called(client, "listOrders", query={"open": True})["structuredContent"] == {
                "data": []
            }
            made = called(client, "placeOrder", body=order)
            assert made["structuredContent"] == {**order, "id": 1}
            assert called(client, "placeOrder", body={"items": [{}]})["isError"] is True
            denied = client.request("tools/call", name="delete_orders_by_id", arguments={})
            assert denied.status == 400
        assert [one.target for one in up.seen] == ["/v1/orders?open=true", "/v1/orders"]
        assert {one.get("x-api-key") for one in up.seen} == {"sesame"}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"swagger": "2.0"}, "#/swagger: Swagger 2.0 is not supported"),
        ("{", "neither JSON"),
        ("a: [", "neither JSON nor YAML"),
        ({"file": "/nowhere/pets.json"}, "cannot read `/nowhere/pets.json`"),
        ({"openapi": "3.0.0", "paths": {"/a": {"get": {"operationId": 1}}}}, "expected text"),
        ({"url": "https://u:p@x.example/a"}, "user info and fragments"),
    ],
)
def test_what_is_wrong_is_said_at_load(tmp_path: Path, schema: Any, said: str) -> None:
    config = {
        "binds": [
            {"port": 1, "listeners": [{"routes": [route("/", openapi("api", "x:1", schema))]}]}
        ]
    }
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(config))
    with pytest.raises(InvalidConfigError) as caught:
        Loader(Source(str(file), file), {}).load()
    (problem,) = caught.value.problems
    assert said in problem.message
    assert "targets[0].openapi" in str(problem.path)
