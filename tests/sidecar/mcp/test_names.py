"""Names: both directions, every mode, cut names, and what needs a look-up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigError
from sidecar.mcp.names import Names

TWO = ("files", "git-hub.v2")
CONDITIONAL = Names(TWO, "conditional")
ALWAYS = Names(("files",), "always")
NEVER = Names(TWO, "never")
ONE = Names(("files",), "conditional")
ONE_NEVER = Names(("files",), "never")

FORMS = {
    "tool": (CONDITIONAL, "tool", "read", "files_read"),
    "tool with underscores": (CONDITIONAL, "tool", "read_all_now", "files_read_all_now"),
    "tool that begins with one": (CONDITIONAL, "tool", "_x", "files__x"),
    "prompt": (CONDITIONAL, "prompt", "sum", "files_sum"),
    "long prompt is not cut": (CONDITIONAL, "prompt", "p" * 90, "files_" + "p" * 90),
    "resource": (CONDITIONAL, "resource", "file:///a", "files+file:///a"),
    "scheme without slashes": (CONDITIONAL, "resource", "memo:x", "files+memo:x"),
    "scheme with a plus": (CONDITIONAL, "resource", "git+ssh://h/r", "files+git+ssh://h/r"),
    "template": (CONDITIONAL, "template", "t://{+a}/b", "files+t://{+a}/b"),
    "app": (CONDITIONAL, "resource", "ui://view/1", "ui://files+view/1"),
    "app with a plus": (CONDITIONAL, "resource", "ui://a+b", "ui://files+a+b"),
    "task": (CONDITIONAL, "task", "t+1", "files+t+1"),
    "task without a scheme": (CONDITIONAL, "task", "786", "files+786"),
    "always, tool": (ALWAYS, "tool", "read", "files_read"),
    "always, resource": (ALWAYS, "resource", "file:///a", "files+file:///a"),
    "never, resource": (NEVER, "resource", "file:///a", "files+file:///a"),
    "never, task": (NEVER, "task", "1", "files+1"),
    "one, tool": (ONE, "tool", "files_read", "files_read"),
    "one, resource": (ONE, "resource", "files+file:///a", "files+file:///a"),
    "one, no scheme": (ONE, "resource", "a/b", "a/b"),
    "one, task": (ONE, "task", "files+1", "files+1"),
    "one never": (ONE_NEVER, "tool", "read", "read"),
}


@pytest.mark.parametrize(("names", "kind", "own", "client"), FORMS.values(), ids=FORMS.keys())
def test_both_ways(names, kind, own, client):
    assert names.to_client(kind, "files", own) == client
    assert names.to_target(kind, client) == ("files", own)


UNTOLD = {
    "no prefix": (CONDITIONAL, "tool", "read", ()),
    "unknown prefix": (CONDITIONAL, "tool", "other_read", ()),
    "never, tool": (NEVER, "tool", "read", TWO),
    "never, what looks like a prefix": (NEVER, "prompt", "files_read", TWO),
    "no scheme": (CONDITIONAL, "resource", "a/b", TWO),
    "no scheme but a plus": (CONDITIONAL, "resource", "files+b", TWO),
    "unknown target": (CONDITIONAL, "resource", "other+file:///a", ()),
    "no target": (CONDITIONAL, "resource", "file:///a+b", ()),
    "app without target": (CONDITIONAL, "resource", "ui://view", ()),
    "app of an unknown target": (CONDITIONAL, "resource", "ui://other+view", ()),
    "task without target": (CONDITIONAL, "task", "786", ()),
    "task of a look-up": (NEVER, "task", "786", ()),
    "no targets at all": (Names((), "conditional"), "tool", "a_b", ()),
}


@pytest.mark.parametrize(("names", "kind", "name", "where"), UNTOLD.values(), ids=UNTOLD.keys())
def test_what_does_not_tell_its_target(names, kind, name, where):
    assert names.to_target(kind, name) is None
    assert names.candidates(kind, name) == where


def test_names_without_a_scheme_stay():
    assert CONDITIONAL.to_client("resource", "files", "a/b") == "a/b"
    assert CONDITIONAL.to_client("template", "files", "{path}") == "{path}"


def test_long_tool_names_are_cut_and_found_by_look_up():
    own = "list_all_the_things_" + "x" * 60
    client = CONDITIONAL.to_client("tool", "files", own)
    assert len(client) == 64
    assert client.startswith("files_list_all_the_things_xxx")
    assert client == CONDITIONAL.to_client("tool", "files", own), "the same each time"
    assert client != CONDITIONAL.to_client("tool", "files", own + "x")
    assert CONDITIONAL.to_target("tool", client) is None
    assert CONDITIONAL.candidates("tool", client) == ("files",)


def test_the_uncut_name_is_understood():
    assert CONDITIONAL.to_target("tool", "files_" + "x" * 80) == ("files", "x" * 80)


def test_long_target_leaves_all_candidates():
    long = ("a" * 70, "a" * 71, "b")
    names = Names(long, "conditional")
    first, second = (names.to_client("tool", target, "x") for target in long[:2])
    assert len(first) == len(second) == 64
    assert first != second
    assert names.candidates("tool", first) == long[:2]


def test_a_name_that_looks_cut_is_found_by_look_up():
    own = "x" * 45 + "_" + "a" * 12
    client = CONDITIONAL.to_client("tool", "files", own)
    assert client == f"files_{own}"
    assert len(client) == 64
    assert CONDITIONAL.to_target("tool", client) is None
    assert CONDITIONAL.candidates("tool", client) == ("files",)


def test_limits():
    assert Names(TWO, "conditional", max_tool_name=0).to_client("tool", "files", "x" * 90) == (
        "files_" + "x" * 90
    )
    assert len(Names(TWO, "always", max_tool_name=40).to_client("tool", "files", "x" * 90)) == 40
    with pytest.raises(ConfigError, match="at least 32"):
        Names(TWO, "conditional", max_tool_name=31)


def test_unprefixed_names_are_never_cut():
    assert ONE.to_client("tool", "files", "x" * 90) == "x" * 90
    assert NEVER.to_client("tool", "files", "x" * 90) == "x" * 90


@pytest.mark.parametrize("targets", [("a_b",), ("a+b",), ("",), ("a", "a")])
def test_targets_that_cannot_be_told_apart(targets):
    with pytest.raises(ConfigError):
        Names(targets, "conditional")


TARGETS = st.from_regex(r"[a-z0-9]([a-z0-9.\-]{0,70}[a-z0-9])?", fullmatch=True)


@given(
    st.lists(TARGETS, min_size=1, max_size=4, unique=True),
    st.sampled_from(["conditional", "always", "never"]),
    st.sampled_from(["tool", "prompt", "resource", "template", "task"]),
    st.one_of(
        st.text(max_size=120),
        st.from_regex(r"[a-z+]{1,8}:[a-z+/_]{0,20}", fullmatch=True),
        st.from_regex(r"ui://[a-z+/]{0,20}", fullmatch=True),
        st.from_regex(r"[A-Za-z0-9_.-]{40,128}", fullmatch=True),
    ),
    st.integers(0, 3),
)
def test_round_trip(targets, mode, kind, own, which):
    names = Names(tuple(targets), mode)
    target = targets[which % len(targets)]
    client = names.to_client(kind, target, own)
    found = names.to_target(kind, client)
    if found is None:
        assert target in names.candidates(kind, client)
    else:
        assert found == (target, own)
