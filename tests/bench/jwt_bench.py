"""What `jwtAuth` costs a request, in microseconds of CPU.

    python -m tests.bench.jwt_bench [repetitions]

"first": a token not seen before, with all of the policy's work on a request that has ten headers.
"again": the same for a token that was verified before. The bounds are those of issue 7.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from sidecar.http.headers import Headers
from sidecar.policies.order import make
from tests.support.issuer import AUDIENCE, ISSUER, claims, jwks, token
from tests.support.messages import request, services

BOUNDS = {"first": 60.0, "again": 8.0}
KEYS = {"RS256": "rsa", "PS256": "rsa", "ES256": "p256", "EdDSA": "ed25519"}


def tokens(alg: str, count: int) -> list[bytes]:
    """Different ones of one issuer, as an identity provider makes them."""
    now = int(time.time())
    return [
        token(
            claims(exp=now + 3600, iat=now, jti=str(n), scope="read write", groups=["a", "b", "c"]),
            key=KEYS[alg],
            alg=alg,
            head={"typ": "JWT"},
        ).encode()
        for n in range(count)
    ]


def micros(policy: Any, given: list[bytes]) -> float:
    """CPU of one request: each token once."""
    fields = [(f"x-header-{n}".encode(), b"value") for n in range(9)]
    asked = [request() for _ in given]
    for one, text in zip(asked, given, strict=True):
        one.headers = Headers([*fields, (b"authorization", b"Bearer " + text)])
    started = time.process_time_ns()
    for one in asked:
        policy.on_request(one)
    return (time.process_time_ns() - started) / len(given) / 1000


def measure(alg: str, count: int) -> dict[str, float]:
    """The best of five rounds: what is slower was disturbed."""
    found: dict[str, list[float]] = {"first": [], "again": []}
    given = tokens(alg, count)
    payload = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": jwks(*set(KEYS.values()))}
    for _ in range(5):
        policy = make("jwtAuth", {**payload, "mode": "strict"}, services())
        found["first"].append(micros(policy, given))
        found["again"].append(micros(policy, given))
    return {name: min(rounds) for name, rounds in found.items()}


def main() -> None:
    """Print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{'algorithm':12}{'first':>10}{'again':>10}   µs; bounds for RS256: {BOUNDS}")
    for alg in KEYS:
        found = measure(alg, count)
        print(f"{alg:12}{found['first']:>10.1f}{found['again']:>10.2f}")


if __name__ == "__main__":
    main()
