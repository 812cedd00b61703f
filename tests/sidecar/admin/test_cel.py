"""`POST /api/cel`."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette

from sidecar.admin.cel import MAX_BYTES, cel_routes
from sidecar.cel.engine import Engine


@pytest.fixture
def http() -> httpx.AsyncClient:
    engine = Engine("twice(x) { x + x }", {"x-key"})
    app = Starlette(routes=list(cel_routes(engine)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin")


@pytest.mark.parametrize("path", ["/api/cel", "/cel"])
async def test_result(http: httpx.AsyncClient, path: str) -> None:
    data = {"request": {"headers": {"x-a": "1"}}}
    asked = {"expression": "twice(request.headers['X-A'])", "data": data}
    answer = await http.post(path, json=asked)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    said = answer.json()
    assert (said["result"], said["error"]) == ("11", None)
    assert said["explanation"]["variables"] == ["request.headers.X-A"]


async def test_without_data_there_is_some(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/cel", json={"expression": "request.method"})
    assert answer.json()["result"] == "POST"


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"expression": "1 +"}, "CEL line 1"),
        ({"expression": "jwt.nothing", "data": {}}, "no such key"),
        ({"expression": "1", "data": {"reqest": {}}}, "data.reqest: no such variable"),
        ({"expression": "1", "data": 3}, "expected a map"),
    ],
)
async def test_what_is_wrong_is_the_error(
    http: httpx.AsyncClient, asked: dict[str, object], error: str
) -> None:
    answer = await http.post("/api/cel", json=asked)
    assert answer.status_code == 200
    assert answer.json()["result"] is None
    assert error in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b"[]", 400), (b'{"expression": 1}', 400), (b" " * (MAX_BYTES + 1), 413)],
)
async def test_what_is_no_question_is_refused(
    http: httpx.AsyncClient, content: bytes, status: int
) -> None:
    assert (await http.post("/api/cel", content=content)).status_code == status


async def test_it_answers_to_nothing_but_post(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/cel")).status_code == 405
