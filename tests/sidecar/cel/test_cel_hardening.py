"""Hostile input to expressions (hardening cases 40 and 46)."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from sidecar.cel.engine import CelError, Engine
from sidecar.errors import RequestError

ENGINE = Engine()

DOCUMENTS: list[tuple[str, bytes]] = [
    ("46-depth-10k", b"[" * 10_000 + b"]" * 10_000),
    ("46-depth-200", b"[" * 200 + b"]" * 200),
    ("46-unclosed-depth", b'{"a":' * 50_000),
    ("46-1e400", b"[1e400]"),
    ("46-integer-of-5000-digits", b"9" * 5000),
    ("46-duplicate-keys", b'{"role":"user","role":"admin"}'),
    ("46-duplicate-keys-escaped", b'{"role":"user","r\\u006fle":"admin"}'),
    ("46-duplicate-keys-deep", b'[{"a":{"b":1,"b":2}}]'),
    ("46-lone-surrogate", b'"\\ud800"'),
    ("46-lone-surrogate-key", b'{"\\udc00":1}'),
    ("46-raw-surrogate", b'"\xed\xa0\x80"'),
    ("46-nan", b"[NaN]"),
    ("46-infinity", b"-Infinity"),
    ("46-not-utf-8", b'"\xff"'),
    ("46-utf-16", '"a"'.encode("utf-16")),
    ("46-bom", b'\xef\xbb\xbf{"a":1}'),
    ("46-trailing", b"{} {}"),
    ("46-raw-control", b'"a\nb"'),
    ("46-raw-nul", b'"a\x00b"'),
    ("46-empty", b""),
]


@pytest.mark.parametrize("document", [d for _, d in DOCUMENTS], ids=[name for name, _ in DOCUMENTS])
def test_json_that_is_refused(document: bytes) -> None:
    data: dict[str, Any] = {"request": {"body": document}}
    with pytest.raises(CelError) as caught:
        ENGINE.compile("default(json(request.body), 'absent')").eval(data)
    assert not caught.value.missing
    assert not ENGINE.compile("json(request.body).role != 'admin'").truth(data)


def test_46_escaped_nul_and_pairs_are_text() -> None:
    data = {"request": {"body": b'["\\u0000","\\ud83d\\ude00"]'}}
    assert ENGINE.compile("json(request.body)").eval(data) == ["\x00", "😀"]


def test_46_large_integers_keep_their_value_or_become_doubles() -> None:
    data = {"request": {"body": b"[9223372036854775808, 36893488147419103232]"}}
    program = ENGINE.compile("json(request.body)[0] == 9223372036854775808u")
    assert program.truth(data)
    assert ENGINE.compile("type(json(request.body)[1]) == double").truth(data)


def test_deep_values_fail_rather_than_exhaust_the_stack() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    data = {"jwt": {"a": deep, "b": [deep]}}
    for source in ("jwt", "jwt.a == jwt.b", "toJson(jwt)", "string(jwt.a)"):
        program = ENGINE.compile(source)
        assert program.truth(data) is False
        with pytest.raises(CelError):
            program.eval(data)
    while deep:
        deep = deep.pop()


def test_40_patterns_from_requests_are_bounded_and_silent(
    capfd: pytest.CaptureFixture[str],
) -> None:
    program = ENGINE.compile("'aaaa'.matches(request.pattern)")
    for source in ("(", "a{1000}{1000}", "(a+)+$" * 50_000):
        assert program.truth({"request": {"pattern": source}}) is False
    assert capfd.readouterr().err == ""


def test_failing_rules_leave_no_cycles_to_collect() -> None:
    programs = [
        ENGINE.compile(source)
        for source in (
            "jwt.x == 1 || jwt.y == 2 || true",
            "jwt.x == 1 && jwt.y == 2",
            "[1].exists(a, jwt.x)",
            "coalesce(jwt.x, jwt.y)",
            "default(jwt.x, 1) == 1",
        )
    ]
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            for program in programs:
                program.truth({"jwt": {}})
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_claim_cannot_pass_for_the_token() -> None:
    program = ENGINE.compile("jwt.rawToken.unredacted()")
    with pytest.raises(CelError):
        program.eval({"jwt": {"rawToken": "forged"}})


# --- 40: expressions that cost too much ------------------------------------------------------

LONG: dict[str, Any] = {
    "request": {
        "body": b"[" + b",".join([b"1"] * 20_000) + b"]",
        "headers": {},
        "path": "/" + "a" * 1000,
    }
}
BOMBS = {
    "loops in a loop": "json(request.body).all(a, json(request.body).all(b, a == b))",
    "in another order": "[1, 2, 3].exists(x, json(request.body).map(a, [a, a, a]).size() < 0)"
    " || json(request.body).all(a, json(request.body).exists_one(b, b == a))",
    "long texts in a loop": "json(request.body).all(a, request.path.contains('b') == false)",
    "text in text in a loop": "json(request.body).all(a, !(string(a) in request.path + 'x'))",
    "a pattern in a loop": "json(request.body).all(a, !request.path.matches('b$'))",
    "a pattern that is not constant": "json(request.body).all(a, !request.path.matches(string(a)))",
    "filter": "json(request.body).filter(a, json(request.body).filter(b, b == a) == []) == []",
    "through a custom function": "json(request.body).all(a, all_of(json(request.body)))",
    "coalesce forgives it not": "coalesce(json(request.body).all(a, all_of(json(request.body))),"
    " false)",
    "default forgives it not": "default(json(request.body).all(a, all_of(json(request.body))),"
    " true)",
}


@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS)
def test_40_what_a_client_can_make_long_is_given_up(source: str) -> None:
    engine = Engine("all_of(items) { items.all(x, x == 1) }")
    program = engine.compile(source)
    with pytest.raises(CelError, match="steps"):
        program.eval(LONG)
    # A deny rule that took this for "not true" would let the client in.
    with pytest.raises(RequestError) as caught:
        program.truth(LONG)
    assert caught.value.status == 500


def test_40_steps_are_of_one_evaluation() -> None:
    program = ENGINE.compile("json(request.body).all(a, a == 1)")
    for _ in range(20):
        assert program.truth(LONG)


def test_40_the_other_side_of_an_and_still_decides() -> None:
    source = f"{BOMBS['loops in a loop']} && request.path == '/b'"
    assert ENGINE.compile(source).truth(LONG) is False


@pytest.mark.parametrize(
    "source",
    [
        "text.replace('', text)",
        "text.replace('a', text).size() > 0",
        "text.split('').join(text)",
        "text.matches(text)",
        "text.regexReplace(text, 'b')",
        "text.with(a, (a + a).with(b, (b + b).with(c, (c + c).with(d, (d + d).with(e,"
        " (e + e) + e)))))",
    ],
)
def test_40_small_texts_do_not_become_huge_ones(source: str) -> None:
    source = source.replace("text", "metadata.text")
    with pytest.raises(CelError):
        ENGINE.compile(source).eval({"metadata": {"text": "a" * 400_000}})
