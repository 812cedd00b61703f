"""Custom functions of the operator."""

from __future__ import annotations

import pytest

from sidecar.cel.engine import Engine
from sidecar.errors import ConfigError

FUNCTIONS = """
# comment
isInternal() { request.headers["x-env"] == "internal" }
this.joined(prefix, parts...) { prefix + this + parts.join("") }
  # another
both(a, b) { [a, b] }
twice(a) { both(a, a) }
braces() { {"end": "}"}.end + '}' }
late() { x * 2 }
pick(list, i) { list.filter(x, x == i).map(i, i + 1) }
triple() { \"\"\"a"}\"\"\" }
"""
ENGINE = Engine(FUNCTIONS)

CASES = [
    ("isInternal()", True),
    ("'b'.joined('a')", "ab"),
    ("'b'.joined('a', 'c', 'd')", "abcd"),
    ("both(1, 2)", [1, 2]),
    ("twice(3)", [3, 3]),
    ("braces()", "}}"),
    ("triple()", 'a"}'),
    # Arguments are computed where the call stands, whatever the parameters are called.
    ("[1].map(b, both(2, b))", [[2, 1]]),
    ("[5].map(a, both(a + 1, a))", [[6, 5]]),
    # Names that are no parameters mean what they mean where the call stands.
    ("[4].map(x, late())", [8]),
    ("pick([1, 2], 2)", [3]),
    ("default(both(missing, 1), 'none')", "none"),
]


@pytest.mark.parametrize(("source", "expected"), CASES)
def test_call(source: str, expected: object) -> None:
    data = {"request": {"headers": {"x-env": "internal"}}}
    assert ENGINE.compile(source).eval(data) == expected


def test_variables_of_a_body_are_those_of_the_caller() -> None:
    program = ENGINE.compile("isInternal() || twice(jwt.sub) == []")
    assert program.paths == {("request", "headers", "x-env"), ("jwt", "sub")}


MISTAKES = [
    ("a() { a() }", "calls itself"),
    ("a() { b() }\nb() { [1].map(x, a()) }", "calls itself"),
    ("a() { 1 }\na() { 2 }", "defined twice"),
    ("size() { 1 }", "hides a built-in"),
    ("default() { 1 }", "hides a built-in"),
    ("math() { 1 }", "hides a built-in"),
    ("this.map() { 1 }", "hides a built-in"),
    ("a(x, x) { 1 }", "one name"),
    ("a(x..., y) { 1 }", "no name"),
    ("a(this) { 1 }", "no name"),
    ("a(1) { 1 }", "no name"),
    ("a { 1 }", "expected a function"),
    ("a() 1", "expected a function"),
    ("a() { 1", "does not end"),
    ("a() { }", "expected an expression"),
    ("\na() {\n  1 + }", "line 3"),
    ("a() { nope() }", "unknown function nope()"),
]


@pytest.mark.parametrize(("source", "message"), MISTAKES)
def test_mistake(source: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Engine(source)
    assert message in caught.value.message


@pytest.mark.parametrize("source", ["both(1)", "both(1, 2, 3)", "1.both(2)", "joined('a')"])
def test_wrong_call(source: str) -> None:
    with pytest.raises(ConfigError):
        ENGINE.compile(source)


def test_growth_is_bounded() -> None:
    layers = ["f0(a) { a + a }"]
    layers += [f"f{i}(a) {{ f{i - 1}(a) + f{i - 1}(a) }}" for i in range(1, 30)]
    with pytest.raises(ConfigError):
        Engine("\n".join(layers[:20]))
