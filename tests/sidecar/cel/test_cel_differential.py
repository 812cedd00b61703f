"""The same expressions on all engines: they agree, or one of them refuses at compile time."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.cel.engine import VARIABLE, CelError, Engine
from sidecar.errors import ConfigError
from tests.sidecar.cel.test_cel_functions import STANDARD

OURS = Engine(backend="closures")
LIBRARIES = ("cel-expr-python", "cel-python")
DATA: dict[str, Any] = {
    "v": {"s": "abc", "n": 3, "x": None, "f": 2.5, "t": True, "l": [1, "two", 3.0], "m": {"k": 1}},
    "vars": {"foo": "hello", "bar": "world", "nothing": None, "n": 5, "list": [1, "two", None]},
    "metadata": None,
}
REFUSED = "refused"
ERROR = "error"


def engine(name: str) -> Engine:
    try:
        return Engine(backend=name)
    except ConfigError as problem:
        pytest.skip(problem.message)


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Engine:
    return engine(request.param)


def outcome(one: Engine, source: str) -> str:
    """A text in which values of different types differ, and any NaN is one."""
    try:
        program = one.compile(source)
    except ConfigError:
        return REFUSED
    try:
        return shown(program.eval(DATA))
    except CelError:
        return ERROR


def shown(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        pairs = sorted(f"{shown(k)}: {shown(v)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, timedelta):
        return str(value.total_seconds())
    return repr(value)


# What agentgateway answers and CEL does not: see `sidecar.cel.ops` and `sidecar.cel.functions`.
SUPERSET = (
    "'zip'", ".zip", "vars.foo.x", "ell", "contains(2)", "contains(b", "contains(1)", "{'a':1}.con",
    "math.sqrt", "[math.", "timestamp(\"2024-02-01T00:00:00.1234567Z\")", 'duration("1ns")',
    "vars.list[?9]",
)  # fmt: skip


@pytest.mark.parametrize("source", [source for source, _ in STANDARD])
def test_named_cases(library: Engine, source: str) -> None:
    theirs = outcome(library, source)
    if theirs == REFUSED or "map(k, k)" in source:
        return  # CEL leaves the order of a map's keys open, and the library uses that
    ours = outcome(OURS, source)
    if ours == REFUSED:
        # We find at compile time what can only fail.
        ours = ERROR
    if theirs != ours:
        assert ERROR in (theirs, ours), f"{theirs} is not {ours}"
        assert any(part in source for part in SUPERSET)


literals = st.one_of(
    st.sampled_from(["0", "1", "-1", "2", "9223372036854775807", "-9223372036854775808"]),
    st.sampled_from(["0u", "1u", "18446744073709551615u", "0.0", "1.0", "-0.5", "2.5", "1e300"]),
    st.sampled_from(['""', '"a"', '"abc"', '"é"', '"\\U0001F600"', 'b""', 'b"a"', 'b"\\xff"']),
    st.sampled_from(["true", "false", "null", "[]", "{}", "v.s", "v.n", "v.x", "v.f", "v.t"]),
    st.sampled_from(["v.l", "v.m", "v.nope", "v.m.k", "v['s']", "v.l[1]", "v.l[5]", "v"]),
    st.sampled_from(["duration('90s')", "duration('-1.5s')", "timestamp(0)", "int", "type(1)"]),
)


scalars = st.sampled_from(["0", "1", "1u", "1.0", "1.5", "'a'", "true", "v.n", "v.s"])


def extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = st.sampled_from(["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">="])
    logic = st.sampled_from(["&&", "||"])
    loops = st.sampled_from(["all", "exists", "exists_one", "map", "filter"])
    variables = st.sampled_from(["x", "y"])
    bodies = st.one_of(inner, st.sampled_from(["x > 1", "x == y", "y != null", "x", "v.n < x"]))
    return st.one_of(
        st.builds("({} {} {})".format, inner, signs, inner),
        st.builds("({} {} {})".format, inner, logic, inner),
        st.builds("({} ? {} : {})".format, inner, inner, inner),
        st.builds("{}({})".format, st.sampled_from(["!", "-"]), inner),
        st.builds("size({})".format, inner),
        st.builds("type({})".format, inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("{{{}: {}}}".format, inner, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("({} in [{}, {}])".format, inner, inner, inner),
        st.builds("({} in {{{}: 1}})".format, scalars, st.sampled_from(["1", "'a'", "true", "1u"])),
        st.builds("{}.startsWith({})".format, inner, inner),
        st.builds("{}.{}({}, {})".format, inner, loops, variables, bodies),
        st.builds("{}.with({}, {})".format, inner, variables, bodies),
    )


mixed = st.recursive(literals, extend, max_leaves=8)

# By the kind of their value; a blank is filled with an expression of the kind named in it.
FORMS = {
    "int": "0|1|-3|7|v.n|v.m.k|size({text})|size({list})|({int} + {int})|({int} - {int})"
    "|({int} * {int})|({int} / {int})|({int} % {int})|-{int}|({bool} ? {int} : {int})|{list}[0]"
    "|duration('90m').getHours()|timestamp(86400).getDayOfMonth()|math.bitAnd({int}, {int})"
    "|math.greatest({int}, {int})",
    "text": "''|'a'|'Abc'|'é'|v.s|({text} + {text})|{text}.lowerAscii()|{text}.upperAscii()"
    "|({bool} ? {text} : {text})",
    "bool": "true|false|v.t|!{bool}|({bool} && {bool})|({bool} || {bool})|({int} < {int})"
    "|({int} == {float})|({text} == {text})|({text} <= {text})|({list} == {list})|({int} in {list})"
    "|{text}.startsWith({text})|{text}.endsWith({text})|{text}.contains({text})|has(v.m.k)|has(v.z)"
    "|{list}.exists(x, x > {int})|{list}.all(x, x != {int})|{list}.exists_one(x, x == {int})"
    "|(type({int}) == int)|({float} >= {int})|({text} != {int})|({bool} != {bool})"
    "|(1 / {int} == 1)|v.l.exists(x, x == {int})|v.l.all(x, x == {text})|{text}.matches('^[a-z]+')",
    "float": "0.5|-2.0|v.f|({float} + {float})|({float} * {float})|({float} / {float})"
    "|math.ceil({float})|math.round({float})|math.trunc({float})|-{float}",
    "list": "[]|[{int}]|[{int}, {int}, {int}]|({list} + {list})|{list}.map(x, x + {int})"
    "|{list}.filter(x, x > {int})|({bool} ? {list} : {list})|{list}.with(x, x + x)",
}


@st.composite
def typed(draw: st.DrawFn, kind: str, depth: int = 4) -> str:
    forms = FORMS[kind].split("|")
    usable = forms if depth else [form for form in forms if "{" not in form]
    source = draw(st.sampled_from(usable))
    while "{" in source:
        inner = source[source.index("{") + 1 : source.index("}")]
        source = source.replace(f"{{{inner}}}", draw(typed(inner, depth - 1)), 1)
    return source


sources = st.one_of(mixed, *(typed(kind) for kind in FORMS))


@pytest.mark.parametrize("name", LIBRARIES)
def test_generated(name: str) -> None:
    library = engine(name)
    count = 2000 if name == "cel-expr-python" else 300

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(sources)
    def check(source: str) -> None:
        theirs = outcome(library, source)
        ours = outcome(OURS, source)
        if REFUSED not in (theirs, ours):
            assert theirs == ours, source

    check()


LANGUAGE_ONLY_HERE = [
    "default(v.nope, 1)",
    "coalesce(v.nope, 1)",
    "variables()",
    "{'a': 1}.mapValues(x, x)",
    "{'a': 1}.filterKeys(x, true)",
]


@pytest.mark.parametrize("source", LANGUAGE_ONLY_HERE)
def test_what_a_library_cannot_do_is_refused(library: Engine, source: str) -> None:
    assert outcome(OURS, source) not in (REFUSED, ERROR)
    with pytest.raises(ConfigError) as caught:
        library.compile(source)
    assert "not supported" in caught.value.message


def test_errors_that_a_library_lets_escape_are_refused() -> None:
    library = engine("cel-python")
    source = "[0].map(x, 1 / x) == [] || true"
    assert outcome(OURS, source) == "True"
    assert outcome(library, source) == REFUSED


@pytest.mark.parametrize("name", ["", "closures", "cel-python", "cel-expr-python", "cel-js"])
def test_the_environment_chooses(name: str) -> None:
    code = "from sidecar.cel.engine import BACKEND, Engine; Engine(); print(BACKEND)"
    environment = {**os.environ, VARIABLE: name}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    if name == "cel-js":
        assert "unknown engine 'cel-js'" in ran.stderr
    elif "is not installed here" not in ran.stderr:
        assert ran.stdout.strip() == (name or "closures")


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Engine(backend="cel-js")
    assert "closures, cel-expr-python, cel-python" in caught.value.message
