"""mcpAuthorization: effects, lists and calls, scopes, arguments, and what must not be named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigError, RequestError
from sidecar.mcp.rules import ALLOWED, DENIED, Rules, Verdict, unknown
from tests.support.messages import ENGINE, request

ECHO = 'mcp.tool.name == "echo"'
A = 'mcp.tool.target == "a"'
MINE = 'jwt.sub == "me"'


def evaluation(rules: list, jwt: object = None, **state: object):
    made = request()
    if jwt is not None:
        made.state["jwt"] = jwt
    made.state.update(state)
    return Rules(rules, ENGINE).evaluation(made)


TOOLS = {
    "allow": ([ECHO], True),
    "no allow true": ([A.replace("a", "b")], False),
    "one allow true": (['mcp.tool.name == "x"', ECHO], True),
    "an error does not allow": ([MINE], False),
    "deny": ([{"deny": ECHO}], False),
    "deny beats allow": ([ECHO, {"deny": A}], False),
    "deny of another": ([{"deny": 'mcp.tool.name == "x"'}], True),
    "an error does not deny": ([{"deny": MINE}], True),
    "require": ([{"require": A}], True),
    "require another": ([{"require": 'mcp.tool.name == "x"'}], False),
    "an error does not satisfy": ([{"require": MINE}], False),
    "require and no allow true": ([{"require": A}, 'mcp.tool.name == "x"'], False),
    "require and allow": ([{"require": A}, ECHO], True),
    "of something else": (['mcp.prompt.name == "echo"'], False),
    "guarded by has": (["has(mcp.tool)"], True),
    "not a boolean": (["mcp.tool.name"], False),
    "the same for all, true": (['request.method == "GET"'], True),
    "the same for all, false": (['request.method == "PUT"'], False),
    "denied for all": ([{"deny": 'request.method == "GET"'}, ECHO], False),
    "not denied for all": ([{"deny": 'request.method == "PUT"'}, ECHO], True),
    "required of all": ([{"require": 'request.method == "PUT"'}, ECHO], False),
    "given to all": ([{"require": 'request.method == "GET"'}, ECHO], True),
    "one allows all": ([A.replace("a", "b"), 'request.method == "GET"'], True),
}


@pytest.mark.parametrize(("rules", "verdict"), TOOLS.values(), ids=TOOLS.keys())
def test_lists_and_calls_agree(rules, verdict):
    made = evaluation(rules)
    assert made.shows("tool", "a", "echo") is verdict
    assert made.check("tool", "a", "echo") == (ALLOWED if verdict else DENIED)


def test_no_rules():
    assert Rules([], ENGINE).evaluation(request()) is None


KINDS = {
    "prompt": ('mcp.prompt.name == "x"', "prompt"),
    "resource": ('mcp.resource.name == "x"', "resource"),
    "template": ('mcp.resource.name == "x"', "template"),
    "task": ('mcp.task.name == "x" && mcp.task.target == "a"', "task"),
}


@pytest.mark.parametrize(("rule", "kind"), KINDS.values(), ids=KINDS.keys())
def test_kinds(rule, kind):
    made = evaluation([rule])
    assert made.shows(kind, "a", "x")
    assert not made.shows(kind, "a", "y")
    assert made.check(kind, "a", "x").is_allowed


def test_what_the_request_brings():
    rules = [f'{MINE} && {ECHO} && mcpGuardrails.ok && request.headers["x"] == "1"']
    made = request(headers={"x": "1"})
    made.state["jwt"] = {"sub": "me"}
    made.state["mcpGuardrails"] = {"ok": True}
    made.state["mcp"] = {"methodName": "tools/call", "tool": {"name": "other"}}
    seen = Rules(rules, ENGINE).evaluation(made)
    assert seen.check("tool", "a", "echo").is_allowed
    assert not seen.check("tool", "a", "other").is_allowed
    assert made.state["mcp"]["tool"] == {"name": "other"}, "the log's facts stay"


def test_an_ambiguous_path():
    with pytest.raises(RequestError):
        Rules(["request.path == '/a'"], ENGINE).evaluation(request(target="/a//b/../c"))


def test_body():
    assert Rules(["request.body != b''"], ENGINE).needs_request_body
    assert not Rules([ECHO], ENGINE).needs_request_body


TOKENS = {
    "text": {"scope": "x write"},
    "list": {"scp": ["write"]},
    "text of scp": {"scp": "write"},
}


class Claims:
    """As authentication may keep them."""

    def cel(self, wanted):
        assert wanted == {"scope", "scp"}
        return {"scope": "write"}


WRITE = {"allow": ECHO, "requiredScope": "write"}


@pytest.mark.parametrize("jwt", [*TOKENS.values(), Claims()], ids=[*TOKENS, "claims"])
def test_scope_held(jwt):
    assert evaluation([WRITE], jwt).check("tool", "a", "echo") == ALLOWED


STEP_UP = {
    "allow": ([WRITE], {"scope": "read"}, ("write",)),
    "without a token": ([WRITE], None, ("write",)),
    "junk in the token": ([WRITE], {"scope": 7, "scp": [1]}, ("write",)),
    "two scopes": ([{**WRITE, "requiredScope": "a write"}], {"scope": "a"}, ("a", "write")),
    "the first that would do": (
        [{**WRITE, "requiredScope": "one"}, {**WRITE, "requiredScope": "two"}],
        {},
        ("one",),
    ),
    "deny": ([{"deny": ECHO, "requiredScope": "write"}], {}, ("write",)),
    "require": ([{"require": ECHO, "requiredScope": "write"}], {}, ("write",)),
    "require that reads the token": (
        [{"require": '"write" in jwt.scope.split(" ")', "requiredScope": "write"}],
        {"scope": "read"},
        ("write",),
    ),
    "several levels": (
        [{"require": "true", "requiredScope": "use"}, WRITE],
        {},
        ("use", "write"),
    ),
}


@pytest.mark.parametrize(("rules", "jwt", "scopes"), STEP_UP.values(), ids=STEP_UP.keys())
def test_step_up(rules, jwt, scopes):
    made = evaluation(rules, jwt)
    assert made.check("tool", "a", "echo") == Verdict(False, scopes)
    assert made.shows("tool", "a", "echo"), "a client that cannot see it would never ask"


NO_STEP_UP = {
    "another tool": ([{"allow": 'mcp.tool.name == "x"', "requiredScope": "write"}], {}),
    "a plain deny too": ([{**WRITE}, {"deny": ECHO}], {}),
    "a plain require too": ([{**WRITE}, {"require": 'mcp.tool.name == "x"'}], {}),
    "a scope does not help": (
        [{"require": 'mcp.tool.name == "x"', "requiredScope": "write"}],
        {"scope": "write"},
    ),
    "deny with a scope, and no allow": (
        [{"deny": ECHO, "requiredScope": "write"}, 'mcp.tool.name == "x"'],
        {},
    ),
}


@pytest.mark.parametrize(("rules", "jwt"), NO_STEP_UP.values(), ids=NO_STEP_UP.keys())
def test_no_step_up(rules, jwt):
    made = evaluation(rules, jwt)
    assert made.check("tool", "a", "echo") == DENIED
    assert not made.shows("tool", "a", "echo")


def test_deny_unless_scope():
    made = evaluation([{"deny": ECHO, "requiredScope": "write"}], {"scope": "write"})
    assert made.check("tool", "a", "echo") == ALLOWED


def test_another_allow_needs_no_scope():
    assert evaluation([WRITE, A], {}).check("tool", "a", "echo") == ALLOWED


TMP = 'mcp.tool.name == "read" && mcp.tool.arguments.path.startsWith("/data/")'
ARGUMENTS = {
    "allowed": ([{"allow": TMP, "readsArguments": True}], {"path": "/data/x"}, True, True),
    "not these": ([{"allow": TMP, "readsArguments": True}], {"path": "/etc/x"}, True, False),
    "none at all": ([{"allow": TMP, "readsArguments": True}], None, True, False),
    "deny": ([{"deny": TMP, "readsArguments": True}], {"path": "/data/x"}, True, False),
    "deny others": ([{"deny": TMP, "readsArguments": True}], {"path": "/etc/x"}, True, True),
    "require": ([{"require": TMP, "readsArguments": True}], {"path": "/etc/x"}, True, False),
    "hidden whatever they are": (
        [{"allow": TMP.replace("read", "write"), "readsArguments": True}],
        {"path": "/data/x"},
        False,
        False,
    ),
}


@pytest.mark.parametrize(
    ("rules", "arguments", "shown", "allowed"), ARGUMENTS.values(), ids=ARGUMENTS.keys()
)
def test_arguments(rules, arguments, shown, allowed):
    made = evaluation(rules)
    assert made.shows("tool", "a", "read") is shown
    assert made.check("tool", "a", "read", arguments).is_allowed is allowed


@pytest.mark.parametrize("arguments", [["/etc"], "x", 7])
def test_arguments_that_are_no_object(arguments):
    rules = [{"deny": 'mcp.tool.arguments.path == "/etc"', "readsArguments": True}]
    assert evaluation(rules).check("tool", "a", "read", arguments) == DENIED


def test_arguments_make_no_resource_visible():
    made = evaluation([{"allow": TMP, "readsArguments": True}])
    assert not made.shows("resource", "a", "read")
    assert not made.check("resource", "a", "read").is_allowed


REFUSED = {
    "syntax": (["("], "rules[0]", ""),
    "of a mapping": ([ECHO, {"deny": "("}], "rules[1].deny", ""),
    "two keys": ([{"allow": "true", "deny": "true"}], "rules[0]", "exactly one of"),
    "unknown key": ([{"allow": "true", "scope": "x"}], "rules[0].scope", ""),
    "a scope that breaks a header": (
        [{"allow": "true", "requiredScope": 'a" b'}],
        "rules[0].requiredScope",
        "",
    ),
    "a deny that never could": ([{"deny": "tool.name == 'x'"}], "rules[0].deny", "`tool`"),
    "misspelt": ([{"deny": "mcp.tools.name == 'x'"}], "rules[0].deny", "`mcp.tools.name`"),
    "misspelt field": ([{"deny": "mcp.tool.nmae == 'x'"}], "rules[0].deny", "`mcp.tool.nmae`"),
    "arguments": (["mcp.tool.arguments.x == 1"], "rules[0]", "readsArguments"),
    "response": (["response.code == 200"], "rules[0]", "`response` is not known"),
}


@pytest.mark.parametrize(("rules", "path", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_configuration(rules, path, text):
    with pytest.raises(ConfigError) as caught:
        Rules(rules, ENGINE)
    assert caught.value.path == path
    assert text in caught.value.message


def test_error_of_a_denied_call():
    error = unknown("tool", "files_read")
    assert (error.code, error.message, error.status) == (-32602, "Unknown tool: files_read", 400)
    assert unknown("template", "x").message == "Unknown resource: x"


PARTS = st.sampled_from(
    [ECHO, A, MINE, "true", "false", 'request.method == "GET"', 'mcp.prompt.name == "echo"']
)
RULES = st.lists(
    st.one_of(PARTS, *(st.fixed_dictionaries({e: PARTS}) for e in ("allow", "deny", "require"))),
    min_size=1,
    max_size=6,
)


@given(RULES, st.sampled_from(["tool", "prompt"]), st.sampled_from(["echo", "x"]))
def test_without_extensions_a_list_shows_what_may_be_called(rules, kind, name):
    made = evaluation(rules, {"sub": "me"})
    assert made.shows(kind, "a", name) is made.check(kind, "a", name).is_allowed
    assert made.shows(kind, "a", name) is made.check(kind, "a", name).is_allowed, "remembered"
