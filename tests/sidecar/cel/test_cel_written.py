"""Trees as text again."""

from __future__ import annotations

import pytest

from sidecar.cel.engine import Engine
from sidecar.cel.parser import parse
from sidecar.cel.written import written

ENGINE = Engine()
SAME = [
    "jwt.sub",
    'request.headers["x-team"]',
    "request.?headers[?0]",
    "metadata.`a-b`",
    '(a == "b") && (c in d)',
    "(a || b) ? -1 : 2u",
    "!(a && b)",
    "-(a + b)",
    "(a + b).size()",
    "math.ceil(1.5)",
    "[1, ?a, null]",
    '{"k": v, ?"o": w}',
    "items.map(x, x * 2)",
    'x.with(y, y + "é\\n\\u0007")',
    r'b"\x00\xff a\x22"',
    "1e+30",
]


@pytest.mark.parametrize("source", SAME)
def test_one_spelling(source: str) -> None:
    text = written(parse(source))
    assert written(parse(text)) == text


@pytest.mark.parametrize("source", SAME)
def test_what_is_so_spelled_stays(source: str) -> None:
    assert written(parse(source)) == source


@pytest.mark.parametrize(
    "source",
    [
        "1 - 2 - 3",
        "2 * (3 + 4) % 5",
        "true ? 1 : false ? 2 : 3",
        "(true ? false : true) ? 1 : 2",
        "'a' + 'b' + 'c' == 'abc' || false",
        "[1, 2].exists(x, x > 1 && x < 3)",
        "1 + 2 * 3 - 4",
        "!(1 == 2)",
        r"b'\xff\x00' == b'\377\000'",
        "-9223372036854775808",
        r"'\U0001f600'",
    ],
)
def test_it_means_the_same(source: str) -> None:
    text = written(parse(source))
    assert ENGINE.compile(text).eval({}) == ENGINE.compile(source).eval({})
