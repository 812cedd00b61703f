"""What regex guards find."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigError
from sidecar.llm.guard.patterns import Patterns

BUILTINS = ["ssn", "creditCard", "phoneNumber", "email", "caSin"]


def masked(text: str, *rules: dict[str, str]) -> str:
    out, at = "", 0
    for start, end, mask in Patterns({"rules": list(rules)}).find(text):
        out += text[at:start] + mask
        at = end
    return out + text[at:]


@pytest.mark.parametrize(
    ("builtin", "text", "wanted"),
    [
        ("ssn", "is 123-45-6789.", "is <SSN>."),
        ("ssn", "123 45 6789, 123.45.6789", "<SSN>, <SSN>"),
        ("ssn", "123456789", "<SSN>"),
        ("ssn", "1234567890", "1234567890"),
        ("email", "mail ann.b+c@mail.example.com now", "mail <EMAIL_ADDRESS> now"),
        ("email", "a@b, @c.de", "a@b, @c.de"),
        ("creditCard", "4111 1111 1111 1111", "<CREDIT_CARD>"),
        ("creditCard", "n 4111-1111-1111-1111!", "n <CREDIT_CARD>!"),
        ("creditCard", "378282246310005", "<CREDIT_CARD>"),
        ("creditCard", "3782 822463 10005", "<CREDIT_CARD>"),
        ("creditCard", "1234 4111 1111 1111 1111", "1234 <CREDIT_CARD>"),
        ("creditCard", "4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("creditCard", "é 5555555555554444 é", "é <CREDIT_CARD> é"),
        ("caSin", "046 454 286", "<CA_SIN>"),
        ("caSin", "123 046-454-286", "123 <CA_SIN>"),
        ("caSin", "046454286", "<CA_SIN>"),
        ("caSin", "046 454 287", "046 454 287"),
        ("caSin", "000000000", "000000000"),
        ("phoneNumber", "call (415) 555-2671", "call <PHONE_NUMBER>"),
        ("phoneNumber", "+44 20 7946 0958", "<PHONE_NUMBER>"),
        ("phoneNumber", "020 7946 0958", "<PHONE_NUMBER>"),
        ("phoneNumber", "+49 30 901820", "<PHONE_NUMBER>"),
        ("phoneNumber", "98765 43210", "<PHONE_NUMBER>"),
        ("phoneNumber", "in 2024, 12345 of them", "in 2024, 12345 of them"),
    ],
)
def test_builtins(builtin: str, text: str, wanted: str) -> None:
    assert masked(text, {"builtin": builtin}) == wanted


def test_own_patterns() -> None:
    assert masked("Secret and secret", {"pattern": "(?i)SECRET"}) == "<masked> and <masked>"
    assert masked("abc", {"pattern": "x*"}) == "abc"


def test_what_overlaps_is_one_mask_of_the_first_rule() -> None:
    rules: list[dict[str, str]] = [{"pattern": "45-6789 x"}, {"builtin": "ssn"}]
    assert masked("123-45-6789 x y", *rules) == "<masked> y"


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(ConfigError) as caught:
        Patterns({"rules": [{"builtin": "ssn"}, {"pattern": "(?<=a)b"}]})
    assert caught.value.path == "rules[1].pattern"


@pytest.mark.parametrize("builtin", ["creditCard", "caSin"])
def test_digits_without_end_are_looked_at_in_steps(builtin: str) -> None:
    text = "4111 " * 20_000 + "4111 1111 1111 1111 046 454 286"
    patterns = Patterns({"rules": [{"builtin": builtin}]})
    steps = patterns.steps(text)
    pauses = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found = done.value
            break
        pauses += 1
    assert pauses > 20
    assert found == patterns.find(text)
    assert found


@pytest.mark.parametrize(
    "text",
    [
        "1" * 50_000,
        "1 " * 25_000,
        "1234 " * 10_000,
        "a" * 50_000 + "@",
        "a.-" * 10_000,
        "+1 " * 9000,
    ],
)
def test_hostile_texts_end(text: str) -> None:
    for builtin in BUILTINS:
        Patterns({"rules": [{"builtin": builtin}]}).find(text)
    assert Patterns({"rules": [{"pattern": "(a*)*(a|aa)+$"}]}).find("a" * 5000 + "b") == []
