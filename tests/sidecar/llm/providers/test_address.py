"""Where providers are: overrides, prefixes and queries."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError, RequestError
from sidecar.llm.providers.address import Site, base_url_site, segment, site
from sidecar.llm.providers.base import Authority, Call

DEFAULT = Authority("api.example.com", 443, tls=True)


def call(path: str = "/v1/messages", query: str = "", format: str = "completions") -> Call:
    return Call("messages", format, "m", is_streaming=False, path=path, query=query)


@pytest.mark.parametrize(
    ("where", "query", "format", "expected"),
    [
        pytest.param(Site(), "", "completions", b"/v1/chat/completions", id="own path"),
        pytest.param(Site(), "beta=true", "completions", b"/v1/chat/completions?beta=true", id="q"),
        pytest.param(
            site("h:1"), "a=b", "completions", b"/v1/messages?a=b", id="host alone keeps the path"
        ),
        pytest.param(
            site("h:1", "/own?x=1"), "a=b", "completions", b"/own?x=1", id="override is all"
        ),
        pytest.param(
            site("h:1", None, "/api/v9/"),
            "a=b",
            "completions",
            b"/api/v9/chat/completions?a=b",
            id="prefix takes the base's place",
        ),
        pytest.param(
            site(None, None, "/"), "", "completions", b"/chat/completions", id="empty prefix"
        ),
        pytest.param(
            base_url_site("https://h/openai/v1"),
            "",
            "completions",
            b"/openai/v1/chat/completions",
            id="base URL with a path",
        ),
        pytest.param(
            base_url_site("http://h:8080/"),
            "",
            "completions",
            b"/v1/chat/completions",
            id="base URL without a path",
        ),
        pytest.param(Site(), "a=b", "passthrough", b"/v1/messages?a=b", id="untouched"),
        pytest.param(
            base_url_site("https://h/openai/v1"),
            "",
            "detect",
            b"/openai/v1/messages",
            id="untouched below a prefix",
        ),
    ],
)
def test_paths_whose_base_is_replaced(
    where: Site, query: str, format: str, expected: bytes
) -> None:
    assert where.replaced(call(query=query, format=format), "/v1", "/chat/completions") == expected


def test_a_client_path_that_only_begins_like_the_base_is_not_cut() -> None:
    where = base_url_site("https://h/x")
    assert where.replaced(call("/v1beta/y", format="detect"), "/v1", "") == b"/x/v1beta/y"


@pytest.mark.parametrize(
    ("where", "format", "client", "expected"),
    [
        pytest.param(Site(), "converse", "messages", b"/model/m/converse", id="own path"),
        pytest.param(
            site("h:1", None, "/p"), "converse", "messages", b"/p/model/m/converse", id="prefix"
        ),
        pytest.param(
            site("h:1"), "converse", "messages", b"/model/m/converse", id="host, converted"
        ),
        pytest.param(site("h:1"), "messages", "messages", b"/v1/messages", id="host, same format"),
        pytest.param(site("h:1", "/o"), "converse", "messages", b"/o", id="override"),
        pytest.param(
            site("h:1", None, "/p"), "passthrough", "passthrough", b"/p/v1/messages", id="untouched"
        ),
    ],
)
def test_paths_that_a_prefix_stands_before(
    where: Site, format: str, client: str, expected: bytes
) -> None:
    made = Call(client, format, "m", is_streaming=False, path="/v1/messages")
    assert where.prepended(made, "/model/m/converse") == expected


def test_own_parameters_come_first_and_the_clients_of_that_name_go() -> None:
    made = call("/x", "alt=json&%61lt=x&key=1&")
    assert Site().replaced(made, "", "/g", "alt=sse", frozenset(("alt",))) == b"/g?alt=sse&key=1"


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://h/v1", Authority("h", 443, tls=True)),
        ("http://h", Authority("h", 80, tls=False)),
        ("http://[::1]:81/v1", Authority("::1", 81, tls=False)),
    ],
)
def test_base_urls(url: str, authority: Authority) -> None:
    assert base_url_site(url).authority == authority


@pytest.mark.parametrize(
    "url",
    ["ftp://h", "h:80", "https://", "https://u:p@h", "https://h?q=1", "https://h#f", "http://h:x"],
)
def test_base_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        base_url_site(url, place="params.baseUrl")
    assert caught.value.path == "params.baseUrl"
    assert "p@" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"host_override": "nowhere"}, "x.hostOverride"),
        ({"host_override": "unix:/s"}, "x.hostOverride"),
        ({"path_override": "relative"}, "x.pathOverride"),
        ({"path_prefix": "/with space"}, "x.pathPrefix"),
    ],
)
def test_overrides_that_are_refused(keys: dict[str, str], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        site(**keys, place="x")
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gpt-4o", "gpt-4o"), ("a/b", "a%2Fb"), ("a?b#c d", "a%3Fb%23c%20d"), ("a%2f", "a%252f")],
)
def test_a_model_is_one_segment(name: str, expected: str) -> None:
    assert segment(name) == expected


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_names_that_no_segment_can_hold(name: str) -> None:
    with pytest.raises(RequestError):
        segment(name)


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        (Authority("h", 443, tls=True), "h"),
        (Authority("h", 443, tls=False), "h:443"),
        (Authority("h", 80, tls=False), "h"),
        (Authority("::1", 8080, tls=False), "[::1]:8080"),
    ],
)
def test_host_fields(authority: Authority, host: str) -> None:
    assert authority.host_header == host
