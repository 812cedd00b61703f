"""The conformance tests of cel-spec, as far as its language is agentgateway's.

Source: cel.dev/expr 0.25.3, tests/simple/testdata (Apache-2.0; see cel/NOTICE). Left out there:
cases with messages of protocol buffers, containers and type checking, which the language here does
not have. What differs is listed with its reason.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sidecar.cel.engine import CelError, Engine
from sidecar.cel.values import UInt
from sidecar.errors import ConfigError

FOLDER = Path(__file__).parent / "cel"
ENGINE = Engine()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def value_of(given: dict[str, Any]) -> Any:
    """A value of the data as Python."""
    ((kind, held),) = given.items()
    match kind:
        case "int":
            return int(held)
        case "uint":
            return UInt(int(held))
        case "double":
            return float(held)
        case "bytes":
            return bytes.fromhex(held)
        case "list":
            return [value_of(each) for each in held]
        case "map":
            return {value_of(key): value_of(each) for key, each in held}
        case "duration":
            return timedelta(seconds=held[0], microseconds=held[1] // 1000)
        case "timestamp":
            return EPOCH + timedelta(seconds=held[0], microseconds=held[1] // 1000)
        case _:
            return held


def same(left: Any, right: Any) -> bool:
    """Equal, of one kind all through; NaN is NaN."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, int) and isinstance(right, int):
        return left == right and isinstance(left, bool) == isinstance(right, bool)
    return type(left) is type(right) and left == right


def outcome(case: dict[str, Any]) -> str:
    """Empty when it came out as it should, else how it did."""
    bindings = {key: value_of(held) for key, held in case.get("bindings", {}).items()}
    try:
        found = ENGINE.compile(case["expr"]).eval(bindings)
    except (CelError, ConfigError) as error:
        return "" if "error" in case else f"error: {error}"
    if "error" in case:
        return f"no error but {found!r}"
    return "" if same(found, value_of(case["value"])) else f"{found!r}"


CASES = {
    f"{file.stem}/{case['name']}/{index}": case
    for file in sorted(FOLDER.glob("*.json"))
    for index, case in enumerate(json.loads(file.read_text()))
}
COMPILED = "functions are looked up when an expression is compiled"
DOTTED = "a variable's name holds no dot"
PAST = "an index past the end is an error of charAt, and of no other"
MICRO = "time has microseconds"
LACKS = "a function or form that agentgateway does not have"
MESSAGES = "messages of protocol buffers are not supported"
DIFFERENCES = {
    r"bindings_ext/": LACKS,
    r"lists_ext/(range|reverse|sort|sort_by|slice|flatten|distinct|first|last)": LACKS,
    r"macros2/": "comprehensions over two variables are not in the language",
    r"optionals/optionals/\w*opt(Flat)?Map_": LACKS,
    r"string_ext/(quote|format|reverse)/": LACKS,
    r"parse/receiver_function_names/": COMPILED,
    r"parse/(whitespace|comments)/": MESSAGES,
    r"comparisons/eq_wrapper/|comparisons/eq_literal/eq_dyn_json_null": MESSAGES,
    r"basic/functions/unbound": COMPILED,
    r"comparisons/.*lossy|comparisons/.*big_double_int": "int and double compare by exact value",
    r"fields/qualif.*/(qualified_ident|map_field_sel|ident_with)": DOTTED,
    r"namespace/.*lookup": DOTTED,
    r"network_ext/.*(canonical_(valid|non)|/ip_type/12|cidr_type|parse_cidr_ipv4)": LACKS,
    r"network_ext/.*(ipv4_in_ipv6)": "an IPv4 address is one however it is written",
    r"string_ext/char_at/end": PAST,
    r"string_ext/value_errors/(last)?indexof_out": PAST,
    r"string_ext/value_errors/substring_(begin|end)_index_out": PAST,
    r"timestamps/.*([sS]tring_timestamp_nanos|_to_duration_nanos|getMilliseconds)": MICRO,
    r"timestamps/timestamp_range/sub_time": "durations have protobuf's range, not Go's",
}
"""Patterns of names: why what they find may come out otherwise."""


def reason(name: str) -> str:
    """Why a case may differ; empty when it may not."""
    return next((why for pattern, why in DIFFERENCES.items() if re.match(pattern, name)), "")


@pytest.mark.parametrize("name", [name for name in CASES if not reason(name)])
def test_case(name: str) -> None:
    assert outcome(CASES[name]) == ""


def test_every_difference_still_is_one() -> None:
    differing = {name for name, case in CASES.items() if outcome(case)}
    idle = [one for one in DIFFERENCES if not any(re.match(one, name) for name in differing)]
    assert idle == []


def test_most_of_it_is_compared() -> None:
    assert sum(not reason(name) for name in CASES) > 1300
