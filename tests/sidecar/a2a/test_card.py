"""Agent cards: every URL form of both eras, and what is no card."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.types import a2a_pb2 as new
from hypothesis import given
from hypothesis import strategies as st

from sidecar.a2a import card
from sidecar.a2a.card import BadCard, Public

PUBLIC = Public("https://gw.test", "gw.test:443")
BELOW = Public("https://gw.test", "gw.test:443", "/agents/a", "/v2")

URLS = {
    "root": ("http://10.0.0.1:9999", "JSONRPC", "https://gw.test"),
    "slash": ("http://10.0.0.1:9999/", "JSONRPC", "https://gw.test/"),
    "path": ("http://10.0.0.1:9999/a2a/rpc", "JSONRPC", "https://gw.test/a2a/rpc"),
    "query": ("http://x/a?b=1#c", "HTTP+JSON", "https://gw.test/a?b=1"),
    "credentials are not kept": ("http://u:p@x/a", "JSONRPC", "https://gw.test/a"),
    "path alone": ("/a2a/rpc", "JSONRPC", "https://gw.test/a2a/rpc"),
    "relative": ("rpc", "JSONRPC", "https://gw.test/rpc"),
    "no scheme": ("//x/a", "JSONRPC", "https://gw.test/a"),
    "unknown binding": ("https://x/a", "urn:own", "https://gw.test/a"),
    "grpc": ("10.0.0.1:50051", "GRPC", "gw.test:443"),
    "grpc in lower case": ("agent:50051", "grpc", "gw.test:443"),
    "grpc with its scheme": ("grpc://agent:50051", "GRPC", "gw.test:443"),
    "grpc by name": ("dns:///agent:50051", "GRPC", "gw.test:443"),
    "grpc by name, short": ("dns:agent:50051", "GRPC", "gw.test:443"),
    "grpc as http": ("http://agent:50051", "GRPC", "https://gw.test:443"),
    "grpc as http, slash": ("http://agent:50051/", "GRPC", "https://gw.test:443/"),
    "grpc as http, mounted": ("http://agent:50051/m", "GRPC", "https://gw.test/m"),
}


@pytest.mark.parametrize("case", URLS.values(), ids=URLS)
def test_url(case: tuple[str, str, str]) -> None:
    given_url, binding, expected = case
    assert PUBLIC.url(given_url, binding) == expected


def test_another_protocol_leads_nowhere() -> None:
    assert PUBLIC.url("mqtt://broker/a", "urn:mqtt") is None


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("/v2", "/agents/a"),
        ("/v2/rpc", "/agents/a/rpc"),
        ("/v2x", "/v2x"),
        ("/other", "/other"),
        ("", ""),
    ],
)
def test_paths_that_a_rewrite_replaced(inner: str, outer: str) -> None:
    assert BELOW.path(inner) == outer


WELL_KNOWN = "/.well-known/agent-card.json"


@pytest.mark.parametrize(
    ("received", "forwarded", "expected"),
    [
        (WELL_KNOWN, WELL_KNOWN, ("", "")),
        ("/agents/a" + WELL_KNOWN, WELL_KNOWN, ("/agents/a", "")),
        (WELL_KNOWN, "/v2" + WELL_KNOWN, ("", "/v2")),
        ("/gw/t/x" + WELL_KNOWN, "/t/x" + WELL_KNOWN, ("/gw", "")),
        ("/agent", "/api/rpc", ("/agent", "/api/rpc")),
        ("/agents/", "/", ("/agents", "")),
    ],
)
def test_prefixes(received: str, forwarded: str, expected: tuple[str, str]) -> None:
    assert card.prefixes(received, forwarded) == expected


def test_both_eras_at_once() -> None:
    given_card: dict[str, Any] = {
        "name": "a",
        "url": "http://a:1/rpc",
        "preferredTransport": "JSONRPC",
        "additionalInterfaces": [
            {"transport": "GRPC", "url": "a:2"},
            {"transport": "HTTP+JSON", "url": "http://a:1/v1"},
        ],
        "supportedInterfaces": [
            {"protocolBinding": "JSONRPC", "url": "http://a:1/rpc", "tenant": "t"},
            {"protocolBinding": "urn:mqtt", "url": "mqtt://a/x"},
        ],
        "documentationUrl": "http://docs.test/",
        "signatures": [{"protected": "x", "signature": "y"}],
    }
    assert card.rewritten(given_card, PUBLIC) == {
        "name": "a",
        "url": "https://gw.test/rpc",
        "preferredTransport": "JSONRPC",
        "additionalInterfaces": [
            {"transport": "GRPC", "url": "gw.test:443"},
            {"transport": "HTTP+JSON", "url": "https://gw.test/v1"},
        ],
        "supportedInterfaces": [
            {"protocolBinding": "JSONRPC", "url": "https://gw.test/rpc", "tenant": "t"}
        ],
        "documentationUrl": "http://docs.test/",
    }


def test_names_as_protocol_buffers_have_them() -> None:
    made = card.rewritten(
        {"supported_interfaces": [{"protocol_binding": "GRPC", "url": "a:1"}]}, PUBLIC
    )
    assert made["supported_interfaces"][0]["url"] == "gw.test:443"


NO_CARDS: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"<html>",
    "text": b'"card"',
    "list": b"[{}]",
    "no url": b'{"name":"a"}',
    "null url": b'{"url":null}',
    "number": b'{"url":7}',
    "no URL": b'{"url":"http://[::1"}',
    "object": b'{"url":{}}',
    "interfaces of text": b'{"supportedInterfaces":"x"}',
    "interfaces of numbers": b'{"supportedInterfaces":[1]}',
    "interface without url": b'{"url":"http://a/","additionalInterfaces":[{}]}',
    "interface with null": b'{"supportedInterfaces":[{"url":null}]}',
    "none left": b'{"supportedInterfaces":[{"url":"mqtt://a"}]}',
    "none": b'{"supportedInterfaces":[]}',
    "deep": b'{"url":"http://a/","x":' + b"[" * 500 + b"]" * 500 + b"}",
    "surrogate": b'{"url":"http://a/","name":"\\ud800"}',
}


@pytest.mark.parametrize("raw", NO_CARDS.values(), ids=NO_CARDS)
def test_no_card(raw: bytes) -> None:
    with pytest.raises(BadCard):
        card.document(raw, PUBLIC)


def test_answers() -> None:
    raw = orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": {"url": "http://a/x"}})
    assert orjson.loads(card.answer(raw, PUBLIC))["result"]["url"] == "https://gw.test/x"
    error = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32007,"message":"no"}}'
    assert card.answer(error, PUBLIC) == error
    for bad in (b"[]", b'{"id":1}', b'{"result":{}}', b'{"result":{},"error":{}}'):
        with pytest.raises(BadCard):
            card.answer(bad, PUBLIC)


def test_protocol_buffers_of_1_0() -> None:
    given_card = new.AgentCard(
        name="a",
        supported_interfaces=[
            new.AgentInterface(url="a:1", protocol_binding="GRPC", tenant="t"),
            new.AgentInterface(url="http://a/x", protocol_binding="JSONRPC"),
            new.AgentInterface(url="mqtt://a", protocol_binding="urn:mqtt"),
        ],
        signatures=[new.AgentCardSignature(protected="x", signature="y")],
        icon_url="http://icons.test/",
    )
    made = new.AgentCard.FromString(card.message(given_card.SerializeToString(), "1.0", PUBLIC))
    assert [(one.url, one.tenant) for one in made.supported_interfaces] == [
        ("gw.test:443", "t"),
        ("https://gw.test/x", ""),
    ]
    assert (made.name, made.icon_url, len(made.signatures)) == ("a", "http://icons.test/", 0)


def test_protocol_buffers_of_0_3() -> None:
    given_card = old.AgentCard(
        url="a:1",
        preferred_transport="GRPC",
        additional_interfaces=[old.AgentInterface(url="http://a/x", transport="JSONRPC")],
        signatures=[old.AgentCardSignature(protected="x")],
    )
    made = old.AgentCard.FromString(card.message(given_card.SerializeToString(), "0.3", PUBLIC))
    assert (made.url, made.additional_interfaces[0].url) == ("gw.test:443", "https://gw.test/x")
    assert not made.signatures
    with pytest.raises(BadCard):
        card.message(b"\x0a\xff", "0.3", PUBLIC)


def test_validators() -> None:
    tag = card.etag(b"card")
    assert tag == card.etag(b"card") != card.etag(b"another")
    assert card.is_known([b'"x", ' + tag], tag)
    assert card.is_known([b'"x"', b"W/" + tag], tag)
    assert card.is_known([b"*"], tag)
    assert not card.is_known([b'"x"'], tag)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["url", "supportedInterfaces", "additionalInterfaces", "preferredTransport"])


@given(st.dictionaries(KEYS, JSON | st.lists(st.dictionaries(KEYS, JSON))))
def test_any_object_is_a_card_or_refused(given_card: dict[str, Any]) -> None:
    try:
        made = card.rewritten(given_card, PUBLIC)
    except BadCard:
        return
    urls = [made.get("url") or "https://gw.test"]
    urls += [one["url"] for name in ("supportedInterfaces",) for one in made.get(name) or []]
    assert all(url.startswith(("https://gw.test", "gw.test:443")) for url in urls)
