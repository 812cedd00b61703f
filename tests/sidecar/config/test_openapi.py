"""Tests of sidecar.config.openapi, and of how `openapi` targets stand in a snapshot."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config import openapi
from sidecar.config.openapi import parse_document
from sidecar.config.run import Known, Run
from sidecar.config.servers import servers_target
from sidecar.errors import ConfigError


@pytest.mark.parametrize(
    "text",
    [
        '{"openapi": "3.0.0", "a": [1]}',
        b' \n{"openapi": "3.0.0", "a": [1]}',
        "openapi: '3.0.0'\na:\n- 1\n",
        "{openapi: '3.0.0', a: [1]}",
    ],
    ids=["json", "octets", "yaml", "flow"],
)
def test_json_and_yaml(text: str | bytes) -> None:
    assert parse_document(text) == {"openapi": "3.0.0", "a": [1]}


def test_keys_are_text() -> None:
    assert parse_document("200: {}\ntrue: 1") == {"200": {}, "true": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "is not a mapping"),
        ("", "is not a mapping"),
        ("just text", "is not a mapping"),
        ('{"a": 1', "neither JSON"),
        ("a: [\nb: 1", "neither JSON nor YAML"),
        ("a: 1\na: 2", "duplicate key"),
        ("a: !!python/object:os.system x", "unknown tag"),
        (b"a: \xff", "not UTF-8"),
        ('{"a": "\ud800"}', "not UTF-8"),
        ("a: " + "[" * 200, "nested more than 128"),
        ("{" + '"a":{' * 2000, "neither JSON"),
    ],
)
def test_what_is_no_document(text: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_document(text)
    assert said in caught.value.message
    assert caught.value.path == ""


def test_a_document_has_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openapi, "MAX_BYTES", 20)
    with pytest.raises(ConfigError, match="larger than 20 bytes"):
        parse_document("a: " + "x" * 20)


def made(**given: Any) -> tuple[Any, list[str]]:
    problems: list[ConfigError] = []
    run = Run(problems, Known.of({}))
    node = {"targets": [{"name": "api", "openapi": {"schema": {"openapi": "3.0.0"}, **given}}]}
    target: Any = servers_target(node, "mcp", run)
    return target["mcp"]["targets"][0], [f"{one.path}: {one.message}" for one in problems]


@pytest.mark.parametrize(
    ("given", "authority", "path"),
    [
        ({"host": "https://api.example"}, "api.example", ""),
        ({"host": "https://api.example/v2/"}, "api.example", "/v2/"),
        ({"host": "http://api.example:81/v2"}, "api.example:81", "/v2"),
        ({"host": "api.example", "port": 8080}, "api.example:8080", ""),
        ({"host": "api.example", "port": 8080, "path": "v3"}, "api.example:8080", "/v3"),
    ],
)
def test_where_it_is(given: Any, authority: str, path: str) -> None:
    entry, problems = made(**given)
    assert problems == []
    assert (entry["kind"], entry["authority"], entry["path"]) == ("openapi", authority, path)
    assert entry["openapi"]["document"] == '{"openapi":"3.0.0"}'
    assert entry["openapi"]["outputs"] is True


def test_texts_structures_and_urls() -> None:
    host = "http://x.example"
    by_text, _ = made(host=host, schema='{"openapi": "3.0.0"}')
    by_structure, _ = made(host=host)
    assert by_text["openapi"] == by_structure["openapi"]
    by_url, problems = made(host=host, schema={"url": "https://d.example/a"}, outputSchemas=False)
    assert by_url["openapi"] == {"outputs": False, "url": "https://d.example/a"}
    assert problems == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"schema": "]"}, "mcp.targets[0].openapi.schema: the OpenAPI document is neither JSON"),
        ({"host": "http://x.example/a?b=c"}, "mcp.targets[0].openapi: a query is a part of no"),
        ({"host": "http://u:p@x.example"}, "mcp.targets[0].openapi.host: expected a URI"),
    ],
)
def test_what_is_refused(given: Any, said: str) -> None:
    _, problems = made(**{"host": "http://x.example", **given})
    assert len(problems) == 1
    assert problems[0].startswith(said)
