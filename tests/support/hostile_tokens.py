"""Tokens that must be refused, each with the beginning of the reason.

After RFC 7515, RFC 7517, RFC 7518, RFC 7519, RFC 7797 and RFC 8725.
"""

from __future__ import annotations

import base64
from typing import Any

import orjson
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.policies.tokens import MAX_BYTES
from tests.support.issuer import (
    ISSUER,
    NOW,
    claims,
    encoded,
    jwk,
    private_key,
    token,
    with_hmac,
)

GOOD = token()
HEAD, PAYLOAD, SIGNATURE = GOOD.split(".")
PEM = private_key("rsa").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = private_key("rsa").public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
ALGORITHM = "the token is invalid or malformed: InvalidAlgorithm"
FORGED = "the token is invalid or malformed: InvalidSignature"
ANY_REFUSAL = "the token"


def unsigned(**head: Any) -> str:
    return f"{encoded(orjson.dumps(head))}.{PAYLOAD}."


def signed_by_stranger(**head: Any) -> str:
    return token(key="rsa/stranger", head={"kid": "rsa", **head})


HOSTILE = {
    # RFC 8725 section 2.1: algorithm confusion.
    "alg none, no signature": (unsigned(alg="none", kid="rsa"), ANY_REFUSAL),
    "alg none, a signature": (token(head={"alg": "none"}), ALGORITHM),
    "alg nOnE": (token(head={"alg": "nOnE"}), ALGORITHM),
    "alg empty": (token(head={"alg": ""}), ALGORITHM),
    "alg missing": (token(head={"alg": None}), "the token header is malformed: no alg"),
    "alg a number": (token(head={"alg": 256}), "the token header is malformed: no alg"),
    "alg a list": (token(head={"alg": ["RS256"]}), "the token header is malformed: no alg"),
    "HS256 with the public key's PEM": (with_hmac(PEM, {"alg": "HS256", "kid": "rsa"}), ALGORITHM),
    "HS256 with its DER": (with_hmac(DER, {"alg": "HS256", "kid": "rsa"}), ALGORITHM),
    "HS256 with its modulus": (
        with_hmac(jwk("rsa")["n"].encode(), {"alg": "HS256", "kid": "rsa"}),
        ALGORITHM,
    ),
    "HS256 with nothing": (with_hmac(b"", {"alg": "HS256", "kid": "p256"}), ALGORITHM),
    "RS256 named, PS256 signed": (token(alg="PS256", head={"alg": "RS256"}), FORGED),
    "RS256 named for a key of EC": (token(head={"kid": "p256"}), ALGORITHM),
    "ES256 of the wrong curve": (token(key="p384", alg="ES384", head={"alg": "ES256"}), ALGORITHM),
    "another key under a known kid": (signed_by_stranger(), FORGED),
    # RFC 8725 section 3.10: what the header says of keys is the sender's.
    "jwk in the header": (signed_by_stranger(jwk=jwk("rsa/stranger")), FORGED),
    "jku in the header": (signed_by_stranger(jku="https://evil.example/jwks"), FORGED),
    "x5u in the header": (signed_by_stranger(x5u="https://evil.example/pem"), FORGED),
    "x5c in the header": (signed_by_stranger(x5c=[base64.b64encode(DER).decode()]), FORGED),
    "kid is a path": (token(head={"kid": "../../dev/null"}), 'token uses the unknown key "../'),
    "kid is SQL": (token(head={"kid": "x' OR '1'='1"}), "token uses the unknown key"),
    "kid with a line break": (token(head={"kid": "a\r\nset-cookie: x"}), "the token header is"),
    "kid a number": (token(head={"kid": 1}), "the token header is malformed: bad kid"),
    "kid an object": (token(head={"kid": {"a": 1}}), "the token header is malformed: bad kid"),
    "kid too long": (token(head={"kid": "k" * 257}), "the token header is malformed: bad kid"),
    "kid empty": (token(head={"kid": ""}), "the token header is malformed: bad kid"),
    "kid missing": (token(head={"kid": None}), "the token header does not specify a `kid`"),
    "kid in other letters": (token(head={"kid": "RSA"}), 'token uses the unknown key "RSA"'),
    # RFC 7515 section 4.1.11, RFC 7797.
    "crit": (token(head={"crit": ["exp"], "exp": 1}), "the token header is malformed: unsup"),
    "crit empty": (token(head={"crit": []}), "the token header is malformed: unsupported"),
    "b64 false": (token(head={"b64": False, "crit": ["b64"]}), "the token header is malformed"),
    "b64 without crit": (token(head={"b64": False}), "the token header is malformed"),
    "zip": (token(head={"zip": "DEF"}), "the token header is malformed"),
    # Kinds of tokens (RFC 8725 section 3.11).
    "a logout token": (token(head={"typ": "logout+jwt"}), "the token header is malformed: unexp"),
    "a proof of possession": (token(head={"typ": "dpop+jwt"}), "the token header is malformed"),
    "a security event": (token(head={"typ": "application/secevent+jwt"}), "the token header is"),
    "typ a number": (token(head={"typ": 1}), "the token header is malformed"),
    "nested": (token(GOOD.encode(), head={"cty": "JWT"}), "the token header is malformed: nested"),
    "nested, in other letters": (token(GOOD.encode(), head={"cty": "application/jWt"}), "the tok"),
    "nested without saying so": (token(GOOD.encode()), "the token is invalid or malformed: not JS"),
    "encrypted": (".".join((HEAD, "", "AAAA", PAYLOAD, SIGNATURE)), "the token is invalid or malf"),
    "enc in the header": (token(head={"enc": "A256GCM"}), "the token header is malformed"),
    # The form (RFC 7515 sections 2, 4 and 7.1).
    "empty": ("", "the token is invalid or malformed: not three parts"),
    "dots": ("..", "the token is invalid or malformed: the header"),
    "one part": ("abc", "the token is invalid or malformed: not three parts"),
    "two parts": (f"{HEAD}.{PAYLOAD}", "the token is invalid or malformed: not three parts"),
    "no signature": (f"{HEAD}.{PAYLOAD}.", "the token is invalid or malformed: the signature"),
    "four parts": (f"{GOOD}.x", "the token is invalid or malformed: not three parts"),
    "padding": (f"{GOOD}==", "the token is invalid or malformed: the signature is not base64url"),
    "base64 of the other alphabet": (f"{HEAD}.{PAYLOAD}.{SIGNATURE[:-1]}+", "the token is inv"),
    "blank inside": (f"{HEAD}.{PAYLOAD}.{SIGNATURE[:9]} {SIGNATURE[9:]}", "the token is invalid"),
    "line break behind": (f"{GOOD}\n", "the token is invalid or malformed: the signature"),
    "octets": (b"\xff\xfe.\x00.\x80", "the token is invalid or malformed"),
    "JSON serialisation": (
        orjson.dumps({"payload": PAYLOAD, "protected": HEAD, "signature": SIGNATURE}),
        "the token is invalid or malformed: not three parts",
    ),
    "duplicate alg": (
        token(raw_head=b'{"alg":"none","kid":"rsa","alg":"RS256"}'),
        "the token header is malformed: not JSON",
    ),
    "duplicate kid": (
        token(raw_head=b'{"alg":"RS256","kid":"p256","kid":"rsa"}'),
        "the token header is malformed: not JSON",
    ),
    "header a list": (token(raw_head=b'["RS256"]'), "the token header is malformed: not an obj"),
    "header no JSON": (token(raw_head=b"{alg:RS256}"), "the token header is malformed: not JSON"),
    "header not UTF-8": (token(raw_head=b'{"alg":"RS256","kid":"\xff"}'), "the token header is"),
    "header with a BOM": (token(raw_head=b'\xef\xbb\xbf{"alg":"RS256","kid":"rsa"}'), "the token"),
    "header huge": (token(head={"x": "y" * 5000}), "the token header is malformed: longer"),
    "longer than the bound": (
        token(claims(x="y" * MAX_BYTES)),
        "the token is invalid or malformed:",
    ),
    # Claims (RFC 7519 section 4).
    "duplicate claim": (
        token(b'{"iss":"https://evil.example","exp":1900000000,"iss":"https://idp.example"}'),
        "the token is invalid or malformed: not JSON",
    ),
    "duplicate claim further in": (
        token(orjson.dumps(claims())[:-1] + b',"a":{"b":1,"b":2}}'),
        "the token is invalid or malformed: not JSON",
    ),
    "claims a list": (token(b"[1]"), "the token is invalid or malformed: not an object"),
    "claims a text": (token(b'"ada"'), "the token is invalid or malformed: not an object"),
    "claims no JSON": (token(b"{"), "the token is invalid or malformed: not JSON"),
    "claims not UTF-8": (token(b'{"iss":"\xff"}'), "the token is invalid or malformed: not JSON"),
    "NaN": (token(b'{"exp":NaN}'), "the token is invalid or malformed: not JSON"),
    "half a character": (token(b'{"sub":"\\ud800"}'), "the token is invalid or malformed: not JS"),
    "deep": (token(claims(a=orjson.loads("[" * 33 + "]" * 33))), "the token is invalid or malf"),
    "deeper": (token(b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"), "the token is invalid or malf"),
    "another issuer": (
        token(claims(iss="https://evil.example")),
        "the token is invalid or malforme",
    ),
    "issuer with a slash more": (
        token(claims(iss=ISSUER + "/")),
        "the token is invalid or malformed",
    ),
    "issuer a list": (token(claims(iss=[ISSUER])), "the token is invalid or malformed: InvalidIss"),
    "issuer missing": (token(claims(iss=None)), "the token is invalid or malformed: Missing requ"),
    "audience missing": (token(claims(aud=None)), "the token is invalid or malformed: Missing req"),
    "another audience": (
        token(claims(aud="other")),
        "the token is invalid or malformed: InvalidAud",
    ),
    "audience part of ours": (
        token(claims(aud="ap")),
        "the token is invalid or malformed: InvalidA",
    ),
    "audience a mapping": (token(claims(aud={"api": 1})), "the token is invalid or malformed: aud"),
    "audience with a number": (
        token(claims(aud=["api", 1])),
        "the token is invalid or malformed: aud",
    ),
    "audience empty": (token(claims(aud=[])), "the token is invalid or malformed: InvalidAudience"),
    "audience nested": (token(claims(aud=[["api"]])), "the token is invalid or malformed: aud"),
    "subject a number": (
        token(claims(sub=7)),
        "the token is invalid or malformed: sub is not text",
    ),
    "subject an object": (token(claims(sub={"a": 1})), "the token is invalid or malformed: sub"),
    "jti a number": (token(claims(jti=7)), "the token is invalid or malformed: jti is not text"),
    "exp missing": (token(claims(exp=None)), "the token is invalid or malformed: Missing required"),
    "exp text": (token(claims(exp="1900000000")), "the token is invalid or malformed: exp is not"),
    "exp true": (token(claims(exp=True)), "the token is invalid or malformed: exp is not"),
    "exp null": (
        token(orjson.dumps(claims(exp=None))[:-1] + b',"exp":null}'),
        "the token is invalid or malformed: Missing",
    ),
    "exp past": (token(claims(exp=NOW - 61)), "the token is invalid or malformed: ExpiredSignatu"),
    "exp below zero": (
        token(claims(exp=-1)),
        "the token is invalid or malformed: ExpiredSignature",
    ),
    "exp far below zero": (
        token(claims(exp=-1e300)),
        "the token is invalid or malformed: ExpiredS",
    ),
    "nbf to come": (token(claims(nbf=NOW + 61)), "the token is invalid or malformed: ImmatureSig"),
    "nbf text": (
        token(claims(nbf="now")),
        "the token is invalid or malformed: nbf is not a number",
    ),
    "nbf null": (
        token(orjson.dumps(claims())[:-1] + b',"nbf":null}'),
        "the token is invalid or malformed: nbf is not",
    ),
    "iat text": (token(claims(iat="x")), "the token is invalid or malformed: iat is not a number"),
}
