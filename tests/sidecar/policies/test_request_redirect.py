"""requestRedirect: where the client is sent, and that nothing can be injected into it."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError, RequestError
from tests.support.messages import policy, request, text_of

PREFIX = ("prefix", "/old")

LOCATIONS = {
    "nothing configured": ({}, {}, "http://shop.example/old/a?q=1"),
    "scheme": ({"scheme": "https"}, {}, "https://shop.example/old/a?q=1"),
    "new scheme drops the old scheme's port": (
        {"scheme": "https"},
        {"authority": "shop.example:8080"},
        "https://shop.example/old/a?q=1",
    ),
    "same scheme keeps the port": (
        {"scheme": "http"},
        {"authority": "shop.example:8080"},
        "http://shop.example:8080/old/a?q=1",
    ),
    "full authority": (
        {"authority": {"full": "b.example:8443"}},
        {"authority": "shop.example:1"},
        "http://b.example:8443/old/a?q=1",
    ),
    "the scheme's port is left out": (
        {"scheme": "https", "authority": {"full": "b.example:443"}},
        {},
        "https://b.example/old/a?q=1",
    ),
    "the other scheme's port is not": (
        {"scheme": "https", "authority": {"full": "b.example:80"}},
        {},
        "https://b.example:80/old/a?q=1",
    ),
    "host keeps the port": (
        {"authority": {"host": "b.example"}},
        {"authority": "shop.example:8080"},
        "http://b.example:8080/old/a?q=1",
    ),
    "port keeps the host": (
        {"authority": {"port": 8443}},
        {"authority": "[::1]:80"},
        "http://[::1]:8443/old/a?q=1",
    ),
    "port 80 is left out": (
        {"authority": {"port": 80}},
        {"authority": "shop.example:8080"},
        "http://shop.example/old/a?q=1",
    ),
    "none": ({"authority": "none"}, {}, "http://shop.example/old/a?q=1"),
    "auto": ({"authority": "auto"}, {}, "http://shop.example/old/a?q=1"),
    "full path": ({"path": {"full": "/x"}}, {}, "http://shop.example/x?q=1"),
    "prefix": ({"path": {"prefix": "/new"}}, {}, "http://shop.example/new/a?q=1"),
    "prefix with a slash": ({"path": {"prefix": "/new/"}}, {}, "http://shop.example/new/a?q=1"),
    "prefix removed": ({"path": {"prefix": "/"}}, {}, "http://shop.example/a?q=1"),
    "the path was the prefix": (
        {"path": {"prefix": "/new"}},
        {"target": "/old"},
        "http://shop.example/new",
    ),
    "asterisk form": ({}, {"target": "*", "method": "OPTIONS"}, "http://shop.example/"),
    "octets that are no URL characters": (
        {},
        {"target": '/a"<\xe9\\?x=`'},
        "http://shop.example/a%22%3C%E9%5C?x=%60",
    ),
    "encoded line ends stay encoded": (
        {"path": {"prefix": "/new"}},
        {"target": "/old/%0d%0aset-cookie:a"},
        "http://shop.example/new/%0d%0aset-cookie:a",
    ),
    "no authority, and a path that looks like one": (
        {},
        {"authority": "", "target": "//evil.example/"},
        "/evil.example/",
    ),
}


@pytest.mark.parametrize(
    ("config", "message", "location"), LOCATIONS.values(), ids=LOCATIONS.keys()
)
def test_location(config, message, location):
    made = request(**{"target": "/old/a?q=1", "match": PREFIX, **message})
    answer = policy("requestRedirect", config).on_request(made)
    assert answer.status == 302
    assert text_of(answer.headers) == [f"location: {location}"]
    assert answer.body.length == 0
    assert answer.reason == "DirectResponse"


def test_status():
    assert policy("requestRedirect", {"status": 308}).on_request(request()).status == 308


@pytest.mark.parametrize("match", [None, ("exact", "/old"), ("regex", "/o.*")])
def test_prefix_without_a_prefix_match_is_500(match):
    made = request(target="/old", match=match)
    with pytest.raises(RequestError, match="failed to apply filters") as caught:
        policy("requestRedirect", {"path": {"prefix": "/new"}}).on_request(made)
    assert caught.value.status == 500


REFUSED = {
    "status that is no redirect": ({"status": 200}, "requestRedirect.status"),
    "line end in the path": ({"path": {"full": "/a\r\nx"}}, "requestRedirect.path.full"),
    "relative path": ({"path": {"prefix": "a"}}, "requestRedirect.path.prefix"),
    "query in the path": ({"path": {"full": "/a?b"}}, "requestRedirect.path.full"),
    "broken encoding": ({"path": {"full": "/%zz"}}, "requestRedirect.path.full"),
    "dot segments": ({"path": {"full": "/a/../b"}}, "requestRedirect.path.full"),
    "two path forms": ({"path": {"full": "/a", "prefix": "/b"}}, "requestRedirect.path"),
    "no path form": ({"path": {}}, "requestRedirect.path"),
    "authority with a path": ({"authority": {"full": "a/b"}}, "requestRedirect.authority.full"),
    "host with a port": ({"authority": {"host": "a:1"}}, "requestRedirect.authority.host"),
    "port 0": ({"authority": {"port": 0}}, "requestRedirect.authority.port"),
    "unknown keyword": ({"authority": "maybe"}, "requestRedirect.authority"),
    "scheme with a colon": ({"scheme": "http:"}, "requestRedirect.scheme"),
}


@pytest.mark.parametrize(("config", "path"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(config, path):
    with pytest.raises(ConfigError) as caught:
        policy("requestRedirect", config)
    assert caught.value.path == path
