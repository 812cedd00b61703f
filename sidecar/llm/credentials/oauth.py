"""Token endpoints of OAuth 2.0 as an exchanger of tokens sees them: forms that go, answers that
come. No I/O.

Source: RFC 6749 section 5; RFC 8693 (token exchange); RFC 7523 section 2.1 (jwt-bearer); RFC 8707
(resource indicators); draft-ietf-oauth-identity-assertion-authz-grant (ID-JAG); spec config section
3.12 (which answer is whose fault).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from sidecar.errors import RequestError, UpstreamError
from sidecar.llm.credentials.client_auth import Form
from sidecar.llm.credentials.signing import MAX_TOKEN_BYTES

TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_TYPE: Final = "urn:ietf:params:oauth:token-type:"
ACCESS_TOKEN: Final = _TYPE + "access_token"
ID_TOKEN: Final = _TYPE + "id_token"
JWT: Final = _TYPE + "jwt"
ID_JAG: Final = _TYPE + "id-jag"
ISSUABLE: Final = frozenset((ACCESS_TOKEN, ID_TOKEN, JWT))
"""Types that a backend may be shown."""
RESERVED: Final = frozenset(
    (
        *("grant_type", "subject_token", "subject_token_type", "actor_token", "actor_token_type"),
        *("assertion", "audience", "resource", "scope", "requested_token_type"),
        *("client_id", "client_secret", "client_assertion", "client_assertion_type"),
    )
)
"""Names of forms that have settings of their own."""
ANSWER_BYTES: Final = 64 * 1024
"""Bound of an answer."""
_MAX_SECONDS: Final = 24 * 3600.0
"""No token is kept longer, whatever its issuer says."""
_MAX_READ_BYTES: Final = 16 * 1024
_ERROR: Final = re.compile(r"[a-z_]{1,40}")
_FAILED: Final = "backend authentication failed"


class Issued(NamedTuple):
    """A token of an answer."""

    token: str
    seconds: float | None
    """How long it is valid from now; None: the answer does not say."""

    def __repr__(self) -> str:
        return f"<token for {self.seconds} s>"


def common_fields(
    audiences: Iterable[str], scopes: Sequence[str], resources: Iterable[str]
) -> Form:
    """What is asked for."""
    form = [("audience", one) for one in audiences]
    if scopes:
        form.append(("scope", " ".join(scopes)))
    form.extend(("resource", one) for one in resources)
    return form


def refused(text: str, status: int = 400) -> RequestError:
    """The client's request is at fault: what it brought cannot be exchanged."""
    return RequestError(status, "InvalidRequest", f"{_FAILED}: {text}")


def unusable(text: str) -> UpstreamError:
    """The token endpoint, or the gateway's standing there, is at fault."""
    return UpstreamError(500, "UpstreamFailure", f"{_FAILED}: {text}", sent=False)


def issued(status: int, body: bytes, expected: str | None, *, is_assertion: bool = False) -> Issued:
    """The token of an answer. `expected`: the type that was asked for; `is_assertion`: it is for
    another token endpoint. Raises: RequestError 400, UpstreamError 500; neither holds a secret.
    """
    if not 200 <= status < 300:
        raise _rejection(status, body)
    answer = _object(body)
    kind = answer.get("token_type")
    kinds = ("n_a", "bearer") if is_assertion else ("bearer",)
    if not isinstance(kind, str) or kind.lower() not in kinds:
        raise unusable("the token endpoint gave no Bearer token")
    _check_type(answer.get("issued_token_type"), expected, is_required=is_assertion)
    token = answer.get("access_token")
    if not isinstance(token, str) or not token or not _is_plain(token):
        raise unusable("the token endpoint gave no token")
    if len(token) > MAX_TOKEN_BYTES:
        raise unusable(f"the token endpoint gave a token of more than {MAX_TOKEN_BYTES} bytes")
    return Issued(token, _seconds(answer.get("expires_in")))


def _rejection(status: int, body: bytes) -> RequestError | UpstreamError:
    if not 400 <= status < 500 or status in (401, 403, 408, 429):
        return unusable(f"the token endpoint answered {status}")
    try:
        code = _object(body).get("error")
    except UpstreamError:
        code = None
    # The code alone (RFC 6749 section 5.2): descriptions may hold anything.
    told = f" ({code})" if isinstance(code, str) and _ERROR.fullmatch(code) else ""
    if code in ("invalid_client", "unauthorized_client"):
        return unusable(f"the token endpoint answered {status}{told}")
    return refused(f"the token was not accepted{told}")


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise unusable("the token endpoint answered with something else than a JSON object")
    return answer


def _check_type(found: object, expected: str | None, *, is_required: bool) -> None:
    if found is None and not is_required:
        return
    wanted = ISSUABLE if expected is None else {expected}
    if not isinstance(found, str) or found not in wanted:
        raise unusable("the token endpoint gave a token of another type")


def _is_plain(token: str) -> bool:
    return token.isascii() and token.isprintable() and " " not in token


def _seconds(given: object) -> float | None:
    """`expires_in`, which some servers send as text; nonsense means that it is over at once."""
    if given is None:
        return None
    try:
        seconds = float(given) if isinstance(given, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _MAX_SECONDS) if math.isfinite(seconds) else 0.0


# --- tokens of clients, which their issuers' token endpoints judge ------------------------------


def claims_of(token: str) -> Mapping[str, Any] | None:
    """What a token in the form of a JWT claims, verified by nobody; None for any other token."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _MAX_READ_BYTES:
        return None
    try:
        octets = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        found = orjson.loads(octets)
    except (binascii.Error, ValueError):
        return None
    return found if isinstance(found, dict) else None


def seconds_left(token: str, now_ns: int) -> float | None:
    """Until a token's own `exp`; None when it tells none. `now_ns`: wall clock."""
    until = (claims_of(token) or {}).get("exp")
    if isinstance(until, bool) or not isinstance(until, int | float) or not math.isfinite(until):
        return None
    return until - now_ns / 1e9


def may_act(subject: str, actor: str) -> bool:
    """Whether the subject's `may_act` (RFC 8693 section 4.4) names the actor: each of its members
    is a claim of the actor's token, or holds it among several."""
    wanted = (claims_of(subject) or {}).get("may_act")
    claims = claims_of(actor)
    if not isinstance(wanted, dict) or not wanted or claims is None:
        return False
    return all(_satisfies(claims.get(name), value) for name, value in wanted.items())


def _satisfies(found: object, wanted: object) -> bool:
    if found is None:
        return False
    if isinstance(wanted, list):
        return found in wanted
    return type(found) is type(wanted) and found == wanted
