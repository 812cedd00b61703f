"""A login under way: where the browser is sent, what comes back with it, and where it goes then.

Source: OpenID Connect Core 1.0 section 3.1.2; RFC 7636 (PKCE); RFC 9207 (mix-up); RFC 9700; Fetch
Metadata Request Headers section 2; spec/config.md section 3.6 (oidc).
"""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, final
from urllib.parse import parse_qsl, urlencode, urlsplit

from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request
from sidecar.policies.oidc_provider import endpoint_problem
from sidecar.routing import canonical

REASON: Final = "Oidc"
LOGIN_SECONDS: Final = 300
"""A login that takes longer begins anew."""
_ID_BYTES: Final = 9
_ID: Final = re.compile(r"([A-Za-z0-9_-]{12})\.([A-Za-z0-9_-]{32})")
_MAX_PATH: Final = 2048
_MAX_CODE: Final = 4096
_LOCAL: Final = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""Of one origin: no authority (`//`, and `/\\`, which browsers take for it), nothing that a header
could not carry, and no backslash anywhere."""
_SHOWN: Final = re.compile(r"[^ !#-\[\]-~]")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_MODES: Final = frozenset((b"cors", b"no-cors", b"same-origin", b"websocket"))
_PAGES: Final = (b"text/html", b"application/xhtml+xml", b"*/*", b"text/*")


def failure(status: int, reason: str, *headers: tuple[bytes, bytes]) -> RequestError:
    """A refusal as spec/config.md section 11 words it."""
    return RequestError(status, REASON, f"oidc failure: {reason}", headers=headers)


def is_navigation(request: Request) -> bool:
    """Whether a person would see where a redirect leads: a page that is opened, not data that is
    fetched. Clients that tell nothing are taken for the former, as the reference does."""
    if request.method not in ("GET", "HEAD") or request.upgrade:
        return False
    headers = request.headers
    mode = headers.get(b"sec-fetch-mode")
    if mode is not None:
        return mode not in _MODES
    if headers.has(b"x-requested-with"):
        return False
    accepts = headers.get_all(b"accept")
    return not accepts or any(page in one.lower() for one in accepts for page in _PAGES)


def is_preflight(request: Request) -> bool:
    """A browser's question that never carries cookies (Fetch section 3.2.2)."""
    headers = request.headers
    return (
        request.method == "OPTIONS"
        and headers.has(b"origin")
        and bool(headers.get(b"access-control-request-method"))
    )


def local_target(target: str) -> str:
    """A target to come back to: of this origin, or the root."""
    return target if len(target) <= _MAX_PATH and _LOCAL.fullmatch(target) else "/"


@final
@dataclass(frozen=True, slots=True)
class Transaction:
    """A login under way. All but `expires` and `target` are random."""

    id: str
    csrf: str
    nonce: str
    verifier: str
    target: str
    expires: int
    """Seconds since 1970."""

    @classmethod
    def begun(cls, target: str, now: int) -> Transaction:
        """A new one, to come back to `target`."""
        return cls(
            secrets.token_urlsafe(_ID_BYTES),
            secrets.token_urlsafe(24),
            secrets.token_urlsafe(24),
            secrets.token_urlsafe(48),
            local_target(target),
            now + LOGIN_SECONDS,
        )

    @classmethod
    def kept(cls, found: dict[str, object], now: int) -> Transaction | None:
        """What a cookie held; None when its time has passed."""
        names = ("i", "c", "n", "v", "u")
        texts = [one for one in map(found.get, names) if isinstance(one, str)]
        expires = found.get("e")
        if len(texts) != len(names) or not isinstance(expires, int) or expires <= now:
            return None
        of, csrf, nonce, verifier, target = texts
        return cls(of, csrf, nonce, verifier, target, expires)

    @property
    def fields(self) -> dict[str, object]:
        """For a cookie."""
        return {
            "i": self.id,
            "c": self.csrf,
            "n": self.nonce,
            "v": self.verifier,
            "u": self.target,
            "e": self.expires,
        }

    def location(self, endpoint: str, client_id: str, redirect_uri: str, scope: str) -> str:
        """Where the browser is sent."""
        digest = sha256(self.verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "scope": scope,
            "state": f"{self.id}.{self.csrf}",
            "nonce": self.nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        return with_query(endpoint, query)


def with_query(url: str, query: dict[str, str]) -> str:
    """The URL with more of a query."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"


@final
@dataclass(frozen=True, slots=True)
class Callback:
    """What the provider sent the browser back with. Exactly one of `code` and `error`."""

    id: str
    csrf: str
    code: str
    error: str
    issuer: str

    @classmethod
    def of(cls, query: str) -> Callback | None:
        """What a query says; None when it is no callback. Raises: RequestError 400."""
        try:
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=64)
        except ValueError:
            raise failure(400, "invalid callback") from None
        names = [name for name, _ in pairs]
        if "state" not in names or not {"code", "error"} & set(names):
            return None
        found = dict(pairs)
        known = [name for name in names if name in ("state", "code", "error", "iss")]
        match = _ID.fullmatch(found["state"])
        code, error = found.get("code", ""), found.get("error", "")
        is_one = bool(code) != bool(error) and len(code) <= _MAX_CODE
        if match is None or len(known) != len(set(known)) or not is_one:
            raise failure(400, "invalid callback")
        return cls(match[1], match[2], code, error, found.get("iss", ""))

    @property
    def shown_error(self) -> str:
        """The provider's word for what went wrong, fit to be shown."""
        return _SHOWN.sub("?", self.error[:100])


# --- configuration ------------------------------------------------------------------------------


def callback_of(uri: str) -> tuple[str, str]:
    """Path and origin of a redirect URI. Raises: ConfigError."""
    problem = endpoint_problem(uri)
    if problem:
        raise ConfigError("redirectURI", problem)
    parts = urlsplit(uri)
    if parts.query or "?" in uri or "#" in uri:
        raise ConfigError("redirectURI", "a query or fragment is not supported")
    check_path(parts.path, "redirectURI")
    if parts.path in ("", "/"):
        raise ConfigError("redirectURI", "must not be the root path")
    return parts.path, f"{parts.scheme}://{parts.netloc}"


def check_path(path: str, where: str) -> None:
    """Raises: ConfigError for what no request's path would be equal to, or several would."""
    try:
        is_plain = not path or (canonical.path(path) == path and "//" not in path)
    except RequestError:
        is_plain = False
    if not is_plain or ";" in path or "%" in path or "?" in path:
        raise ConfigError(where, "expected a path without dots, escapes, `;` and `//`")


def scope_of(scopes: list[str]) -> str:
    """`openid` and these, each once. Raises: ConfigError."""
    for number, scope in enumerate(scopes):
        if not _SCOPE.fullmatch(scope):
            raise ConfigError(f"scopes[{number}]", "not a scope")
    return " ".join(dict.fromkeys(("openid", *scopes)))
