"""What policies add to a request: `python -m tests.bench.policy_bench [--write] [--count N]`.

In one process, CPU alone: the policy's work on a request with ten headers, and on its response
where it looks at that. Missed bounds are printed, and do not change the exit code.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies.order import make
from tests.bench.options import PAGE
from tests.bench.report import Target, machine, targets_text
from tests.bench.section import targets_table, with_section
from tests.support.gateway import ROOT
from tests.support.issuer import AUDIENCE, ISSUER, claims, jwks, token
from tests.support.messages import request, services

Json = dict[str, Any]
COMMAND: Final = "python -m tests.bench.policy_bench --write"
ROUNDS: Final = 7
RULE: Final = (
    'request.path.startsWith("/v1") && request.method == "POST" && '
    'request.headers["x-team"] in ["red", "blue"] && source.address != "192.0.2.9"'
)
_PLAIN: Final = [(f"x-header-{n}".encode(), b"value") for n in range(8)] + [
    (b"x-team", b"red"),
    (b"content-type", b"application/json"),
]
_KEYS: Final = {"RS256": "rsa", "PS256": "rsa", "ES256": "p256", "EdDSA": "ed25519"}


@dataclass(frozen=True, slots=True)
class Case:
    """One row. `fields`: what is added to the headers of the n-th request; `bound_us`: or None."""

    title: str
    key: str
    payload: Callable[[], Json]
    fields: Callable[[int], list[tuple[bytes, bytes]]]
    bound_us: float | None = None
    is_second: bool = False
    """Whether each request was seen before."""


def _same(*fields: tuple[bytes, bytes]) -> Callable[[int], list[tuple[bytes, bytes]]]:
    return lambda n: list(fields)


def _tokens(alg: str, count: int) -> list[bytes]:
    """Different ones of one issuer, as an identity provider makes them."""
    now = int(time.time())
    return [
        token(
            claims(exp=now + 3600, iat=now, jti=str(n), scope="read write", groups=["a", "b", "c"]),
            key=_KEYS[alg],
            alg=alg,
            head={"typ": "JWT"},
        ).encode()
        for n in range(count)
    ]


def _jwt_cases(count: int) -> list[Case]:
    def payload() -> Json:
        keys = jwks(*set(_KEYS.values()))
        return {"mode": "strict", "issuer": ISSUER, "audiences": [AUDIENCE], "jwks": keys}

    cases = []
    for alg in _KEYS:
        given = _tokens(alg, count)

        def fields(n: int, given: list[bytes] = given) -> list[tuple[bytes, bytes]]:
            return [(b"authorization", b"Bearer " + given[n])]

        is_asked = alg == "RS256"
        title = f"jwtAuth, {alg}"
        first, again = (60.0, 8.0) if is_asked else (None, None)
        cases.append(Case(f"{title}, a new token", "jwtAuth", payload, fields, first))
        cases.append(Case(f"{title}, one seen before", "jwtAuth", payload, fields, again, True))
    return cases


def cases(count: int) -> list[Case]:
    """Every row; `count` requests a round."""
    keys = [{"key": f"sk-{n}", "metadata": {"name": f"user-{n}"}} for n in range(100)]
    cors = {"allowOrigins": ["https://*.example.com"], "exposeHeaders": ["x-a"]}
    modified = {"set": {"x-a": "1"}, "add": {"x-b": "2"}, "remove": ["x-header-1"]}
    transformed = {"set": {"x-a": "request.path", "x-b": "request.headers['x-team'] + '-1'"}}
    transformed["set"]["x-c"] = "string(size(request.method))"
    bearer = (b"authorization", b"Bearer sk-50")
    return [
        Case(
            "apiKey, one of 100 keys",
            "apiKey",
            lambda: {"mode": "strict", "keys": keys},
            _same(bearer),
            5,
        ),
        *_jwt_cases(count),
        Case(
            "authorization, a CEL rule of four terms",
            "authorization",
            lambda: {"rules": [RULE]},
            _same(),
            10,
        ),
        Case("cors", "cors", lambda: cors, _same((b"origin", b"https://a.example.com")), 3),
        Case(
            "requestHeaderModifier, three changes",
            "requestHeaderModifier",
            lambda: modified,
            _same(),
            2,
        ),
        Case(
            "transformations, three headers",
            "transformations",
            lambda: {"request": transformed},
            _same(),
            25,
        ),
    ]


def micros(case: Case, count: int) -> float:
    """CPU of one request; the best of some rounds, since what is slower was disturbed."""
    best = float("inf")
    for _ in range(ROUNDS):
        policy = make(case.key, case.payload(), services())
        if case.is_second:
            _run(policy, _asked(case, count))
        best = min(best, _run(policy, _asked(case, count)))
    return best


def _asked(case: Case, count: int) -> list[tuple[Request, Response]]:
    made = []
    for n in range(count):
        one = request("POST", "/v1/chat/completions")
        one.headers = Headers([*_PLAIN, *case.fields(n)])
        made.append((one, Response(200, Headers([(b"content-length", b"0")]), FixedBody())))
    return made


def _run(policy: Any, asked: list[tuple[Request, Response]]) -> float:
    on_request, on_response = (
        getattr(policy, name, None) for name in ("on_request", "on_response")
    )
    started = time.process_time_ns()
    for one, answer in asked:
        if on_request is not None:
            on_request(one)
        if on_response is not None:
            on_response(one, answer)
    return (time.process_time_ns() - started) / len(asked) / 1000


def to_markdown(rows: Sequence[tuple[Case, float]]) -> str:
    """The section of the page."""
    targets = [Target(c.title, us, c.bound_us, "µs") for c, us in rows if c.bound_us is not None]
    others = [f"* {case.title}: {us:,.2f} µs" for case, us in rows if case.bound_us is None]
    parts = [
        "# Policies",
        "",
        f"Written by `{COMMAND}`; do not edit.",
        "",
        f"Run on {machine()}.",
        "CPU that a policy adds to a request with ten headers, in one process, the best of",
        f"{ROUNDS} rounds: what is slower was disturbed. A route without policies has no hooks,",
        "and pays for none (`tests/sidecar/gateway/test_compile.py`).",
        "",
        *targets_table(targets),
        "",
        *others,
    ]
    return "\n".join(parts) + "\n"


def main(argv: Sequence[str]) -> int:
    """Print the rows, and write them where asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.policy_bench", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="requests a round")
    parser.add_argument("--write", action="store_true", help=f"write its section of {PAGE}")
    options = parser.parse_args(argv)
    rows = [(case, micros(case, options.count)) for case in cases(options.count)]
    for case, us in rows:
        if case.bound_us is None:
            print(f"        {case.title:<52}{us:10.2f} µs")
        else:
            print(targets_text([Target(case.title, us, case.bound_us, "µs")]))
    if options.write:
        page = ROOT / PAGE
        page.write_text(with_section(page.read_text(), to_markdown(rows), COMMAND))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
