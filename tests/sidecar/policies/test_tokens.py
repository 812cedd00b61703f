"""Tokens: what is refused, whatever it looks like, and how what is good is remembered.

Vectors after RFC 7515, RFC 7518, RFC 7519 and RFC 8725.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.policies.jwks import parse
from sidecar.policies.tokens import (
    LEEWAY_SECONDS,
    FixedKeys,
    Issuer,
    TokenError,
    UnknownKeyError,
    Verifier,
)
from tests.support.hostile_tokens import GOOD, HOSTILE
from tests.support.issuer import (
    AUDIENCE,
    ISSUER,
    NOW,
    claims,
    encoded,
    jwk,
    jwks,
    token,
)

NOW_NS = NOW * 1_000_000_000
NAMES = ("rsa", "p256", "p384", "ed25519")
KEYS = FixedKeys(parse(jwks(*NAMES)))


def issuer(
    name: str = ISSUER,
    audiences: tuple[str, ...] = (AUDIENCE,),
    required: tuple[str, ...] = ("exp",),
    keys: Any = KEYS,
) -> Issuer:
    return Issuer(name, audiences, required, keys)


def outcome(text: str | bytes, *issuers: Issuer, now: float = NOW) -> str:
    """Whose token it is, or what is wrong with it."""
    octets = text if isinstance(text, bytes) else text.encode("latin-1")
    try:
        found = Verifier(issuers or (issuer(),)).verify(octets, int(now * 1_000_000_000))
    except TokenError as problem:
        return str(problem)
    return str(found.claims.get("sub"))


@pytest.mark.parametrize(
    ("key", "alg"),
    [
        *(("rsa", alg) for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        ("p256", "ES256"),
        ("p384", "ES384"),
        ("ed25519", "EdDSA"),
    ],
)
def test_every_algorithm(key: str, alg: str) -> None:
    good = token(key=key, alg=alg)
    assert outcome(good) == "ada"
    head, payload, signature = good.split(".")
    octets = bytearray(base64.urlsafe_b64decode(signature + "=="))
    octets[7] ^= 1
    bad = "the token is invalid or malformed: InvalidSignature"
    assert outcome(f"{head}.{payload}.{encoded(bytes(octets))}") == bad
    assert outcome(f"{head}.{encoded(orjson.dumps(claims(sub='eve')))}.{signature}") == bad
    assert outcome(f"{head}.{payload}.{encoded(bytes(octets[:-1]))}") == bad


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name: str) -> None:
    text, reason = HOSTILE[name]
    assert outcome(text).startswith(reason)


ACCEPTED: Mapping[str, str] = {
    "typ JWT": token(head={"typ": "JWT"}),
    "an access token of RFC 9068": token(head={"typ": "application/at+JWT"}),
    "typ JOSE": token(head={"typ": "JOSE"}),
    "unknown parameters of the header": token(head={"x-vendor": {"a": 1}, "jku": "https://x/"}),
    "audiences": token(claims(aud=["other", "api"])),
    "exp in the leeway": token(claims(exp=NOW - LEEWAY_SECONDS + 1)),
    "exp with a fraction": token(claims(exp=NOW + 0.5)),
    "exp far away": token(claims(exp=1e300)),
    "nbf in the leeway": token(claims(nbf=NOW + LEEWAY_SECONDS)),
    "nbf past": token(claims(nbf=NOW - 1)),
    "issued in the future": token(claims(iat=NOW + 3600)),
    "many brackets, not deep": token(claims(a=[[] for _ in range(100)])),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    assert outcome(ACCEPTED[name]) == "ada"


def test_required_claims() -> None:
    asked = issuer(required=("exp", "nbf", "email"))
    missing = "the token is invalid or malformed: Missing required claim: "
    assert outcome(token(), asked) == missing + "nbf"
    assert outcome(token(claims(nbf=NOW)), asked) == missing + "email"
    assert outcome(token(claims(nbf=NOW, email="a@x")), asked) == "ada"
    assert outcome(token(claims(exp=None, aud=None)), issuer(audiences=(), required=())) == "ada"


def test_several_issuers() -> None:
    other = FixedKeys(parse(jwks(jwk("rsa/other", "rsa"), "p256")))
    both = (issuer(), issuer("https://two.example", ("two",), keys=other))
    assert outcome(token(), *both) == "ada"
    theirs = claims(iss="https://two.example", aud="two", sub="bob")
    assert outcome(token(theirs, key="rsa/other", head={"kid": "rsa"}), *both) == "bob"
    # A key of one signs nothing in the name of the other.
    assert outcome(token(theirs), *both).startswith("the token is invalid")
    assert outcome(token(claims(), key="rsa/other", head={"kid": "rsa"}), *both) == (
        "the token is invalid or malformed: InvalidIssuer"
    )
    # One issuer, twice, for two audiences.
    assert outcome(token(claims(aud="b")), issuer(), issuer(audiences=("b",))) == "ada"


def test_keys_of_one_kid_and_restricted_keys() -> None:
    keys = FixedKeys(parse(jwks(jwk("p256", "k"), jwk("rsa", "k", alg="PS256"))))
    assert outcome(token(alg="PS256", head={"kid": "k"}), issuer(keys=keys)) == "ada"
    assert outcome(token(head={"kid": "k"}), issuer(keys=keys)).endswith("InvalidAlgorithm")
    assert outcome(token(key="p256", alg="ES256", head={"kid": "k"}), issuer(keys=keys)) == "ada"


class Changing:
    """Keys that come and go."""

    def __init__(self) -> None:
        self.current: Any = parse(jwks("rsa"))


def test_remembered_while_it_may_be() -> None:
    keys = Changing()
    made = Verifier((issuer(keys=keys),))
    text = token(claims(exp=NOW + 100, nbf=NOW)).encode()
    first = made.verify(text, NOW_NS)
    assert made.verify(text, NOW_NS + 1) is first
    # Time passes, or the clock is set back.
    for now in (NOW + 100 + LEEWAY_SECONDS, NOW - LEEWAY_SECONDS - 1):
        with pytest.raises(TokenError, match="Signature"):
            made.verify(text, now * 1_000_000_000)
    assert made.verify(text, NOW_NS) is not first
    # The key is withdrawn, and comes back.
    keys.current = parse(jwks("p256"))
    with pytest.raises(UnknownKeyError):
        made.verify(text, NOW_NS)
    keys.current = None
    with pytest.raises(UnknownKeyError):
        made.verify(text, NOW_NS)
    keys.current = parse(jwks(jwk("rsa/other", "rsa")))
    with pytest.raises(TokenError, match="InvalidSignature"):
        made.verify(text, NOW_NS)
    keys.current = parse(jwks("rsa"))
    assert made.verify(text, NOW_NS).claims["sub"] == "ada"


def test_memory_is_bounded() -> None:
    made = Verifier((issuer(keys=KEYS),))
    for number in range(450):
        made.verify(
            token(claims(n=number, x="y" * 7500), key="ed25519", alg="EdDSA").encode(), NOW_NS
        )
    assert made._known_bytes <= 4 * 1024 * 1024
    assert 300 < len(made._known) < 450
    assert made._known_bytes == sum(one.size for one in made._known.values())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nothing_but_its_own_error(data: st.DataObject) -> None:
    """A changed token is refused, unless nothing was changed, and never breaks anything."""
    good = GOOD.encode()
    at = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(at, min(at + 8, len(good))))
    changed = good[:at] + data.draw(st.binary(max_size=8)) + good[end:]
    if changed != good:
        assert outcome(changed) != "ada"
    else:
        assert outcome(changed) == "ada"
