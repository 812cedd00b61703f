"""Tests of sidecar.mcp.openapi: calls as requests, answers as results."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.http.headers import Headers
from sidecar.mcp.openapi import bodies
from sidecar.mcp.openapi.answers import BLOB_BYTES, result
from sidecar.mcp.openapi.bodies import BodySpec, Encoding, kind_of
from sidecar.mcp.openapi.calls import Call, call
from sidecar.mcp.openapi.parameters import BadArgumentsError
from sidecar.mcp.openapi.toolbox import Tool, toolbox
from tests.support.openapi_documents import Node, modern, pets

TOOLS = toolbox(pets()).tools
LIST = [3, 4, "5 "]
OBJECT = {"R": 100, "G": "a&b"}


def one(name: str, place: str, **more: Any) -> Tool:
    """A tool with one parameter."""
    path = "/x/{p}" if place == "path" else "/x"
    parameter: Node = {"name": name, "in": place, "schema": True, **more}
    node = {"operationId": "t", "parameters": [parameter]}
    return toolbox({"openapi": "3.1.0", "paths": {path: {"get": node}}}).tools["t"]


def headers(made: Call) -> dict[bytes, bytes]:
    return dict(made.headers)


@pytest.mark.parametrize(
    ("style", "explode", "value", "target"),
    [
        ("simple", False, "blue", "/x/blue"),
        ("simple", False, LIST, "/x/3,4,5%20"),
        ("simple", True, LIST, "/x/3,4,5%20"),
        ("simple", False, OBJECT, "/x/R,100,G,a%26b"),
        ("simple", True, OBJECT, "/x/R=100,G=a%26b"),
        ("label", False, "blue", "/x/.blue"),
        ("label", False, LIST, "/x/.3,4,5%20"),
        ("label", True, LIST, "/x/.3.4.5%20"),
        ("label", True, OBJECT, "/x/.R=100.G=a%26b"),
        ("matrix", False, "blue", "/x/;p=blue"),
        ("matrix", False, LIST, "/x/;p=3,4,5%20"),
        ("matrix", True, LIST, "/x/;p=3;p=4;p=5%20"),
        ("matrix", False, OBJECT, "/x/;p=R,100,G,a%26b"),
        ("matrix", True, OBJECT, "/x/;R=100;G=a%26b"),
        ("simple", False, True, "/x/true"),
        ("simple", False, "a/b?c#d", "/x/a%2Fb%3Fc%23d"),
        ("simple", False, "%2e%2e", "/x/%252e%252e"),
        ("simple", False, "é", "/x/%C3%A9"),
        ("simple", False, [1, {"a": 2}], "/x/1,%7B%22a%22%3A2%7D"),
    ],
)
def test_path_styles(style: str, explode: bool, value: Any, target: str) -> None:
    tool = one("p", "path", style=style, explode=explode, required=True)
    assert call(tool, {"path": {"p": value}}).target == target


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "../..",
        "a/../b",
        "..\\x",
        "..;a",
        "a/.;b/c",
        "\x00",
        "a\nb",
        [],
        ["..", 1],
        None,
    ],
)
def test_paths_that_lead_elsewhere_are_refused(value: Any) -> None:
    with pytest.raises(BadArgumentsError, match="path parameter"):
        call(one("p", "path", required=True), {"path": {"p": value}})


def test_segments_that_become_dots_together_are_refused() -> None:
    parameters = [{"name": n, "in": "path", "style": "label", "schema": {}} for n in "ab"]
    node = {"operationId": "t", "parameters": parameters}
    tool = toolbox({"openapi": "3.1.0", "paths": {"/{a}{b}/x": {"get": node}}}).tools["t"]
    with pytest.raises(BadArgumentsError, match="segment"):
        call(tool, {"path": {"a": "", "b": ""}})


@pytest.mark.parametrize(
    ("more", "value", "query"),
    [
        ({}, "a b&c=d", "?q=a%20b%26c%3Dd"),
        ({}, LIST, "?q=3&q=4&q=5%20"),
        ({}, OBJECT, "?R=100&G=a%26b"),
        ({"explode": False}, LIST, "?q=3,4,5%20"),
        ({"explode": False}, OBJECT, "?q=R,100,G,a%26b"),
        ({"style": "spaceDelimited", "explode": False}, LIST, "?q=3%204%205%20"),
        ({"style": "pipeDelimited", "explode": False}, LIST, "?q=3%7C4%7C5%20"),
        ({"style": "deepObject"}, {"a": 1, "b": {"c": [2, 3]}, "d": None},
         "?q%5Ba%5D=1&q%5Bb%5D%5Bc%5D=2&q%5Bb%5D%5Bc%5D=3"),
        ({"allowReserved": True}, "a/b:c?d&e#f=g+h", "?q=a/b:c?d%26e%23f%3Dg%2Bh"),
        ({"content": {"application/json": {}}}, {"a": [1]}, "?q=%7B%22a%22%3A%5B1%5D%7D"),
        ({}, False, "?q=false"),
        ({}, 1.5, "?q=1.5"),
        ({}, "", "?q="),
        ({}, None, ""),
        ({}, [], ""),
        ({}, {}, ""),
    ],
)  # fmt: skip
def test_query_styles(more: Node, value: Any, query: str) -> None:
    assert call(one("q", "query", **more), {"query": {"q": value}}).target == f"/x{query}"


def test_a_name_is_encoded_too() -> None:
    made = call(one("q[]&x", "query"), {"query": {"q[]&x": ["a"]}})
    assert made.target == "/x?q%5B%5D%26x=a"


@pytest.mark.parametrize(
    ("more", "value", "sent"),
    [
        ({}, "a b", b"a b"),
        ({}, LIST, b"3,4,5"),
        ({}, OBJECT, b"R,100,G,a&b"),
        ({"explode": True}, OBJECT, b"R=100,G=a&b"),
        ({"content": {"application/json": {}}}, {"a": 1}, b'{"a":1}'),
        ({}, "é", "é".encode()),
        ({}, "\tx\t", b"x"),
    ],
)
def test_headers(more: Node, value: Any, sent: bytes) -> None:
    made = call(one("X-Thing", "header", **more), {"header": {"X-Thing": value}})
    assert headers(made)[b"x-thing"] == sent


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\x00b", ["a", "\r"], {"a\n": 1}])
def test_headers_cannot_be_broken_out_of(value: Any) -> None:
    with pytest.raises(BadArgumentsError, match="control character"):
        call(one("X-Thing", "header"), {"header": {"X-Thing": value}})


def test_cookies() -> None:
    made = call(TOOLS["listPets"], {"cookie": {"theme": 'a b;c="d",é'}})
    assert headers(made)[b"cookie"] == b"theme=a%20b%3Bc=%22d%22%2C%C3%A9"


def test_nothing_that_is_not_declared_is_sent() -> None:
    with pytest.raises(BadArgumentsError, match="unknown property `host`"):
        call(TOOLS["listPets"], {"header": {"host": "evil"}})
    with pytest.raises(BadArgumentsError, match="unknown property `x-api-key`"):
        call(TOOLS["listPets"], {"header": {"x-api-key": "mine"}})
    for name in ("Host", "content-length", "Transfer-Encoding", "Content-Type", "connection"):
        assert "header" not in one(name, "header").input_schema["properties"]


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("listPets", {"query": {"limit": 0}}, "`query/limit` is below 1"),
        ("listPets", {"query": {"limit": "5"}}, "`query/limit` is not of type integer"),
        ("post_pets", {}, "the value lacks `body`"),
        ("post_pets", {"body": {"name": ""}}, "`body/name` has fewer than 1 characters"),
        ("get_pets_by_id", {"path": {}}, "`path` lacks `id`"),
        ("get_pets_by_id", [], "the value is not of type object"),
        ("get_pets_by_id", {"path": 1}, "`path` is not of type object"),
        ("upload", {"path": {"id": "1"}, "body": {"file": "?"}}, "`file` is not base64"),
        ("uploadRaw", {"path": {"id": "1"}, "body": "?"}, "`body` is not base64"),
    ],
)
def test_arguments_are_checked(name: str, arguments: Any, text: str) -> None:
    with pytest.raises(BadArgumentsError) as caught:
        call(TOOLS[name], arguments)
    assert str(caught.value) == text


def test_urls_and_headers_have_bounds() -> None:
    with pytest.raises(BadArgumentsError, match="the URL is longer"):
        call(one("q", "query"), {"query": {"q": "a" * 9000}})
    with pytest.raises(BadArgumentsError, match="headers are larger"):
        call(one("h", "header"), {"header": {"h": "a" * 20_000}})


def test_json_body() -> None:
    made = call(TOOLS["post_pets"], {"body": {"name": "Rex", "tag": None}, "query": {"limit": 2}})
    assert (made.method, made.target) == ("POST", "/v1/pets?limit=2")
    assert headers(made)[b"content-type"] == b"application/json"
    assert orjson.loads(made.body) == {"name": "Rex", "tag": None}


def test_a_json_type_of_its_own_is_kept() -> None:
    tool = toolbox(modern()).tools["addThing"]
    made = call(tool, {"path": {"kind": "x"}, "body": {"size": 1}})
    assert headers(made)[b"content-type"] == b"application/vnd.things+json"


def test_no_body_when_none_is_given() -> None:
    made = call(TOOLS["note"], {})
    assert made.body == b""
    assert b"content-type" not in headers(made)


def test_form_body() -> None:
    made = call(TOOLS["login"], {"body": {"user": "a b&é", "scopes": ["x", "y"]}})
    assert headers(made)[b"content-type"] == b"application/x-www-form-urlencoded"
    assert made.body == b"user=a+b%26%C3%A9&scopes=x&scopes=y"


@pytest.mark.parametrize(
    ("how", "value", "body"),
    [
        (Encoding(explode=False), ["a", "b"], b"f=a%2Cb"),
        (Encoding(style="pipeDelimited", explode=False), ["a", "b"], b"f=a%7Cb"),
        (Encoding(style="deepObject"), {"a": 1}, b"f%5Ba%5D=1"),
        (Encoding(), {"a": 1}, b"f=%7B%22a%22%3A1%7D"),
        (Encoding(), None, b""),
    ],
)
def test_form_encodings(how: Encoding, value: Any, body: bytes) -> None:
    spec = BodySpec("application/x-www-form-urlencoded", "form", encodings={"f": how})
    assert bodies.encode(spec, {"f": value}) == (spec.media_type, body)


def test_multipart_body() -> None:
    tool = TOOLS["upload"]
    assert tool.body is not None
    png = b"\x89PNG\r\n--x"
    value = {
        "file": b64encode(png).decode(),
        "more": [b64encode(b"1").decode(), b64encode(b"2").decode()],
        "note": "n",
        "meta": {"value": "v"},
        'e"vil\r\nx: y': "z",
    }
    media_type, body = bodies.encode(tool.body, value, lambda: "mark")
    assert media_type == "multipart/form-data; boundary=mark"
    form = b'--mark\r\nContent-Disposition: form-data; name="'
    parts = [
        b'file"; filename="file"\r\nContent-Type: image/png\r\n\r\n' + png,
        b'more"; filename="more"\r\nContent-Type: application/octet-stream\r\n\r\n1',
        b'more"; filename="more"\r\nContent-Type: application/octet-stream\r\n\r\n2',
        b'note"\r\n\r\nn',
        b'meta"\r\nContent-Type: application/json\r\n\r\n{"value":"v"}',
        b'e%22vil%0D%0Ax: y"\r\n\r\nz',
    ]
    assert body == b"".join(form + part + b"\r\n" for part in parts) + b"--mark--\r\n"


def test_multipart_boundaries_differ() -> None:
    tool = TOOLS["upload"]
    assert tool.body is not None
    assert bodies.encode(tool.body, {})[0] != bodies.encode(tool.body, {})[0]


def test_text_and_binary_bodies() -> None:
    made = call(TOOLS["note"], {"body": "é"})
    assert (headers(made)[b"content-type"], made.body) == (b"text/plain", "é".encode())
    made = call(TOOLS["uploadRaw"], {"path": {"id": "1"}, "body": "AAH/"})
    assert made.body == b"\x00\x01\xff"
    assert headers(made)[b"content-type"] == b"application/octet-stream"
    assert headers(made)[b"accept"] == b"image/png"


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        ("application/json; charset=utf-8", "json"),
        ("application/problem+json", "json"),
        ("APPLICATION/JSON", "json"),
        ("multipart/mixed", "multipart"),
        ("application/xml", "text"),
        ("image/svg+xml", "text"),
        ("application/jsonp", "binary"),
        ("*/*", "binary"),
    ],
)
def test_kinds_of_bodies(media_type: str, kind: str) -> None:
    assert kind_of(media_type) == kind


_ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=8)),
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(st.text(max_size=5), below, max_size=3)
    ),
    max_leaves=6,
)
_STYLES = {
    "path": ["simple", "label", "matrix"],
    "query": ["form", "spaceDelimited", "pipeDelimited", "deepObject"],
    "header": ["simple"],
    "cookie": ["form"],
}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_value_breaks_out(data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(sorted(_STYLES)))
    style = data.draw(st.sampled_from(_STYLES[place]))
    tool = one("p", place, style=style, explode=data.draw(st.booleans()), required=True)
    try:
        made = call(tool, {place: {"p": data.draw(_ANY)}})
    except BadArgumentsError:
        return
    path, _, query = made.target.partition("?")
    assert path.count("/") == (2 if place == "path" else 1)
    assert made.target.isascii()
    assert made.target.isprintable()
    assert not {" ", "#", "\\"} & set(made.target)
    assert not query or place == "query"
    for name, value in made.headers:
        assert name in (b"accept", b"p", b"cookie")
        assert not {0, 10, 13} & set(value)
        assert name != b"cookie" or b";" not in value


# --- answers ------------------------------------------------------------------------------------

GET = TOOLS["listPets"]


def answered(tool: Tool, status: int, content_type: str, raw: bytes, **more: str) -> Node:
    fields = {"content-type": content_type, **more}
    headers = Headers((name.encode(), value.encode()) for name, value in fields.items())
    return result(tool, "api", status, headers, raw)


TREE = TOOLS["addAnimal"]
JSON = "application/json"


@pytest.mark.parametrize(
    ("content_type", "raw", "expected"),
    [
        (JSON, b'{"a":1}', {"structuredContent": {"a": 1}, "text": '{"a":1}'}),
        (JSON, b"[1, 2]", {"structuredContent": {"data": [1, 2]}, "text": "[1, 2]"}),
        (JSON, b'"x"', {"structuredContent": {"data": "x"}, "text": '"x"'}),
        (JSON, b"null", {"text": "null"}),
        ("application/hal+json", b"{}", {"structuredContent": {}, "text": "{}"}),
        ("text/html; charset=latin-1", b"\xe9", {"text": "é"}),
        ("text/plain; charset=nope", "é".encode(), {"text": "é"}),
        ("", b"", {"text": "HTTP 200 OK"}),
        (JSON, b"[" * 200 + b"]" * 200, {"text": "[" * 200 + "]" * 200}),
    ],
)
def test_answers(content_type: str, raw: bytes, expected: Node) -> None:
    made = answered(GET, 200, content_type, raw)
    assert "isError" not in made
    assert made["content"] == [{"type": "text", "text": expected["text"]}]
    assert made.get("structuredContent") == expected.get("structuredContent")


def test_answers_that_are_no_text() -> None:
    assert answered(GET, 200, "image/png", b"\x89")["content"] == [
        {"type": "image", "data": "iQ==", "mimeType": "image/png"}
    ]
    assert answered(GET, 200, "application/pdf", b"\x89")["content"] == [
        {
            "type": "resource",
            "resource": {
                "uri": "openapi://api/listPets",
                "mimeType": "application/pdf",
                "blob": "iQ==",
            },
        }
    ]
    made = answered(GET, 200, "", b"\x89" * (BLOB_BYTES + 1))
    assert made["isError"] is True
    assert "do not call again" in made["content"][0]["text"]


@pytest.mark.parametrize(
    ("status", "content_type", "raw", "texts"),
    [
        (404, JSON, b'{"error":"no"}', ["HTTP 404 Not Found", '{"error":"no"}']),
        (503, "text/plain", b"later", ["HTTP 503 Service Unavailable", "later"]),
        (401, "", b"", ["HTTP 401 Unauthorized"]),
        (799, "image/png", b"abc", ["HTTP 799", "(3 bytes of image/png)"]),
        (302, "", b"", ["HTTP 302 Found: the API redirects, which is not followed"]),
    ],
)
def test_refusals_are_errors_in_the_apis_words(
    status: int, content_type: str, raw: bytes, texts: list[str]
) -> None:
    made = answered(TREE, status, content_type, raw)
    assert made["isError"] is True
    assert [one["text"] for one in made["content"]] == texts
    assert "structuredContent" not in made


def test_what_headers_say() -> None:
    made = answered(GET, 201, "", b"", location="/pets/7")
    assert made["content"][0]["text"] == "HTTP 201 Created, at /pets/7"
    made = answered(GET, 429, "", b"", **{"retry-after": "7"})
    assert made["content"][0]["text"] == "HTTP 429 Too Many Requests, try again after 7"


@pytest.mark.parametrize("raw", [b"<html>", b'{"a":', b"\xff", b"NaN"])
def test_garbage_is_an_error(raw: bytes) -> None:
    made = answered(GET, 200, JSON, raw)
    assert made["isError"] is True
    assert "no JSON" in made["content"][0]["text"]
    assert made["content"][1]["text"] == raw.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("content_type", "raw", "why"),
    [
        (JSON, b'{"value": 1}', "`value` is not of type string"),
        (JSON, b"[]", "the value lacks"),
        (JSON, b"null", "there is no JSON object in it"),
        ("text/plain", b"x", "there is no JSON object in it"),
        ("", b"", "there is no JSON object in it"),
    ],
)
def test_an_answer_that_breaks_the_promise(content_type: str, raw: bytes, why: str) -> None:
    tool = TREE
    if why == "the value lacks":
        tool = TOOLS["get_pets_by_id"]
    made = answered(tool, 200, content_type, raw)
    assert made["isError"] is True
    assert "structuredContent" not in made
    assert why in made["content"][0]["text"]
    assert "do not call again" in made["content"][0]["text"]


def test_a_large_answer_is_not_checked_to_its_end() -> None:
    raw = b'{"children": [' + b'{"value": "a"},' * 30_000 + b'{"value": 1}]}'
    assert "isError" not in answered(TREE, 200, JSON, raw)


def test_arguments_too_deep_to_be_checked() -> None:
    value: Any = {}
    for _ in range(100):
        value = {"children": [value]}
    with pytest.raises(BadArgumentsError, match="too large or too deep"):
        call(TOOLS["listPets"], {"query": {"where": value}})


def test_an_answer_that_keeps_it() -> None:
    made = answered(TREE, 200, JSON, b'{"value": "a", "children": [{}]}')
    assert made["structuredContent"] == {"value": "a", "children": [{}]}
    assert "isError" not in made
