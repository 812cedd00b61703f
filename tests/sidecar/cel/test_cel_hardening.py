"""Hostile input to expressions (hardening cases 40 and 46)."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from sidecar.cel.engine import CelError, Engine

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
