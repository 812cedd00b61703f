"""Reading expressions: the grammar, its mistakes and where they are, the variables named."""

from __future__ import annotations

import pytest

from sidecar.cel.engine import Engine
from sidecar.errors import ConfigError

ENGINE = Engine()

LITERALS = [
    ("'a\\n\\x41\\101\\u00e9\\U0001F600\\'\\\"\\`\\?'", "a\nAAé😀'\"`?"),
    ("r'\\d' + R\"\\\"", "\\d\\"),
    ("'''a'b\n'''", "a'b\n"),
    ('"""a""b"""', 'a""b'),
    ("b'\\xff\\377é'", b"\xff\xff\xc3\xa9"),
    ("bR'\\x'", b"\\x"),
    ("0xFf", 255),
    ("0x10u", 16),
    ("1.5e-3", 0.0015),
    (".5", 0.5),
    ("2e3", 2000.0),
    ("- 3", -3),
    ("--3", 3),
    ("!!true", True),
    ("[1, 2,]", [1, 2]),
    ("{'a': 1,}", {"a": 1}),
    ("1 // a comment\n + 2", 3),
    ("'// no comment'", "// no comment"),
    ("true?1:false?2:3", 1),
    ("{'in': {'a-b': 7}}.in.`a-b`", 7),
]


@pytest.mark.parametrize(("source", "expected"), LITERALS)
def test_literal(source: str, expected: object) -> None:
    assert ENGINE.compile(source).eval({}) == expected


MISTAKES = [
    ("", "line 1, column 1", "expected an expression, found the end"),
    ("1 +\n  )", "line 2, column 3", "expected an expression, found ')'"),
    ("foo(1", "line 1, column 6", "expected `,`"),
    ("a b", "line 1, column 3", "expected the end"),
    ("'abc", "line 1, column 1", "does not end"),
    ("'a\nb'", "line 1, column 1", "does not end"),
    ("'\\q'", "line 1, column 1", "bad escape"),
    ("'\\ud800'", "line 1, column 1", "no Unicode character"),
    ("b'\\u0041'", "line 1, column 1", "bad escape"),
    ("1 # 2", "line 1, column 3", "unexpected character '#'"),
    ("a = b", "line 1, column 3", "unexpected character '='"),
    ("9223372036854775808", "line 1, column 1", "64 bits"),
    ("18446744073709551616u", "line 1, column 1", "64 bits"),
    ("for", "line 1, column 1", "reserved word"),
    ("a.b{c: 1}", "line 1, column 4", "messages are not supported"),
    ("a.1", "line 1, column 2", "expected the end"),
    ("mathces('a', 'b')", "line 1, column 1", "did you mean matches()?"),
    ("'a'.lowerAsci()", "line 1, column 5", "did you mean lowerAscii()?"),
    ("math.celi(1.0)", "line 1, column 6", "did you mean math.ceil()?"),
    ("size(1, 2)", "line 1, column 1", "does not take 2 arguments"),
    ("[1].map(x)", "line 1, column 5", "takes a variable name"),
    ("\n  cidr('10.0.0.0/33')", "line 2, column 3", "always fails"),
    ("request.path.matches('(')", "line 1, column 14", "regular expression"),
    ("duration('soon')", "line 1, column 1", "always fails"),
    ("(" * 100 + "1" + ")" * 100, "column 65", "nested deeper"),
    ("a" + ".b" * 100, "line 1", "in a row"),
    ("1" + " - 1" * 100, "line 1", "in a row"),
    ("-" * 100 + "a", "line 1", "in a row"),
    ("'" + "a" * 70_000 + "'", "", "longer than"),
]


@pytest.mark.parametrize(("source", "place", "message"), MISTAKES, ids=lambda v: str(v)[:30])
def test_mistake(source: str, place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ENGINE.compile(source)
    assert caught.value.path == ""
    assert place in caught.value.message
    assert message in caught.value.message


def test_long_chains_of_logic_and_sums_are_no_nesting() -> None:
    assert ENGINE.compile(" && ".join(["true"] * 2000)).truth({})
    assert ENGINE.compile(" + ".join(["1"] * 2000)).eval({}) == 2000


PATHS = [
    ("request.path == 'jwt.sub'", {"request.path"}),
    ('request.headers["x-a"].size()', {"request.headers.x-a"}),
    ("request[jwt.sub]", {"request", "jwt.sub"}),
    ("jwt.groups.exists(request, request.x == llm.model)", {"jwt.groups", "llm.model"}),
    ("jwt.groups.exists(x, x == request.x) && x", {"jwt.groups", "request.x", "x"}),
    ("{'jwt': env.podName, source.port: 1}.jwt", {"env.podName", "source.port"}),
    ("request.body.with(request, request.x)", {"request.body"}),
    ("request.with(r, r.body)", {"request"}),
    ("[jwt].map(jwt, jwt.map(jwt, jwt))", {"jwt"}),
    ("has(jwt.sub) ? default(a.b, c) : coalesce(d[0].e)", {"jwt.sub", "a.b", "c", "d"}),
    ("jwt.?sub.orValue(mcp.tool.name)", {"jwt.sub", "mcp.tool.name"}),
    ("math.ceil(llm.cost.total)", {"llm.cost.total"}),
    ("'request.body'", set()),
    ("/* no */ 1".replace("/* no */", "// jwt.sub\n"), set()),
]


@pytest.mark.parametrize(("source", "expected"), PATHS)
def test_paths(source: str, expected: set[str]) -> None:
    program = ENGINE.compile(source)
    assert {".".join(path) for path in program.paths} == expected
    assert program.variables == {path.partition(".")[0] for path in expected}


def test_body_flags() -> None:
    flags = {
        "request.body.size() > 1": (True, False),
        "request.bodyPrefix": (True, False),
        "json(response.body).x": (False, True),
        "toJson(request)": (True, False),
        "variables()": (True, True),
        "request.headers": (False, False),
        "'request.body'": (False, False),
    }
    for source, expected in flags.items():
        program = ENGINE.compile(source)
        assert (program.needs_request_body, program.needs_response_body) == expected


def test_unknown_variables_are_told() -> None:
    assert ENGINE.compile("requst.path == jwt.sub").unknown_variables == {"requst"}
