"""urlRewrite: the new target and authority, and what is left to the pipeline."""

from __future__ import annotations

import pytest

from sidecar.errors import RequestError
from tests.support.messages import policy, request

PATHS = {
    # request path, matched prefix, replacement, result: the table of Gateway API
    # HTTPPathModifier.replacePrefixMatch.
    "1": ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
    "2": ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
    "3": ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
    "4": ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
    "5": ("/foo", "/foo", "/xyz", "/xyz"),
    "6": ("/foo/", "/foo", "/xyz", "/xyz/"),
    "7": ("/foo/bar", "/foo", "", "/bar"),
    "8": ("/foo/", "/foo", "", "/"),
    "9": ("/foo", "/foo", "", "/"),
    "10": ("/foo/", "/foo", "/", "/"),
    "11": ("/foo", "/foo", "/", "/"),
    "root prefix": ("/bar", "/", "/xyz", "/xyz/bar"),
    "query stays": ("/foo/bar?a=/foo", "/foo", "/xyz", "/xyz/bar?a=/foo"),
    "encoded rest stays": ("/foo/a%2Fb%20c", "/foo", "/xyz", "/xyz/a%2Fb%20c"),
    "another spelling of the prefix": ("//%66oo/bar", "/foo", "/xyz", "/xyz/bar"),
    "never an authority": ("/foo//evil.example/", "/foo", "/", "/evil.example/"),
}


@pytest.mark.parametrize(("target", "prefix", "new", "result"), PATHS.values(), ids=PATHS.keys())
def test_prefix(target, prefix, new, result):
    made = request(target=target, match=("prefix", prefix))
    policy("urlRewrite", {"path": {"prefix": new}}).on_request(made)
    assert made.target == result


def test_full_path_keeps_the_query():
    made = request(target="/a/b?c=d")
    policy("urlRewrite", {"path": {"full": "/x"}}).on_request(made)
    assert made.target == "/x?c=d"


def test_a_prefix_that_is_gone_is_500():
    made = request(target="/else", match=("prefix", "/foo"))
    with pytest.raises(RequestError) as caught:
        policy("urlRewrite", {"path": {"prefix": "/x"}}).on_request(made)
    assert caught.value.status == 500


@pytest.mark.parametrize(("method", "target"), [("OPTIONS", "*"), ("CONNECT", "a.example:443")])
def test_targets_that_are_no_paths_stay(method, target):
    made = request(method, target)
    policy("urlRewrite", {"path": {"full": "/x"}}).on_request(made)
    assert made.target == target


AUTHORITIES = {
    "absent": (None, "shop.example:81", None, False),
    "none": ("none", "shop.example:81", "none", False),
    "auto": ("auto", "shop.example:81", "auto", False),
    "full": ({"full": "b.example:82"}, "b.example:82", "full", True),
    "host": ({"host": "b.example"}, "b.example:81", "host", True),
    "port": ({"port": 80}, "shop.example:80", "port", True),
}


@pytest.mark.parametrize(
    ("rule", "authority", "mode", "rewrites"), AUTHORITIES.values(), ids=AUTHORITIES.keys()
)
def test_authority(rule, authority, mode, rewrites):
    made = request(authority="shop.example:81")
    rewrite = policy("urlRewrite", {"authority": rule})
    rewrite.on_request(made)
    assert made.authority == authority
    assert rewrite.authority_mode == mode
    assert rewrite.rewrites_authority is rewrites
