"""An OpenID provider in the shape of Keycloak, over TLS, and a browser that logs in there.

Each realm is a provider of its own; what one does wrong is set by `Realm` fields.
"""

from __future__ import annotations

import base64
import http.client
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import orjson

from tests.support.authority import Authority
from tests.support.client import Got, fetch
from tests.support.issuer import jwks, token
from tests.support.upstream import Answer, Seen, Upstream

CLIENT = "web"
CLIENT_SECRET = "s3cr3t & more"
Claims = dict[str, Any]


@dataclass
class Realm:
    """One provider, and its faults."""

    key: str = "rsa"
    """What it signs by."""
    published: tuple[str, ...] = ("rsa",)
    """The keys that it shows."""
    seconds: int = 300
    """Validity of an ID token."""
    methods: tuple[str, ...] = ("client_secret_basic", "client_secret_post")
    has_refresh: bool = True
    claims: Claims = field(default_factory=dict)
    """Changes of ID tokens; None takes one away."""
    document: dict[str, Any] = field(default_factory=dict)
    """Changes of the discovery document."""
    answer: Callable[[str], Answer | None] = lambda endpoint: None
    """Another answer of `certs`, `token` or `configuration`."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    tickets: dict[str, str] = field(default_factory=dict)
    """Refresh tokens that are worth something, and whose they are."""
    exchanges: list[dict[str, str]] = field(default_factory=list)
    """Forms that the token endpoint got."""
    reused: int = 0
    """Refresh tokens that came twice: Keycloak would end the sessions."""
    ended: list[dict[str, str]] = field(default_factory=list)
    """Queries of the end of sessions."""


class Idp:
    """Realms at `https://127.0.0.1:port/realms/<name>`; `root` is the file of their authority."""

    def __init__(self, folder: Path, **realms: Realm) -> None:
        authority = Authority()
        (folder / "idp.pem").write_bytes(authority.issue(["127.0.0.1"]).any())
        (folder / "root.pem").write_text(authority.root)
        self.root = str(folder / "root.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "idp.pem")
        self.realms = realms
        self.upstream = Upstream(self._answer, tls=context)
        self.context = ssl.create_default_context(cafile=self.root)

    def issuer(self, realm: str) -> str:
        return f"https://{self.upstream.address}/realms/{realm}"

    def policy(self, realm: str, origin: str, **more: Any) -> dict[str, Any]:
        """The gateway's policy for a realm; its callback is `/<realm>/callback`."""
        return {
            "issuer": self.issuer(realm),
            "clientId": CLIENT,
            "clientSecret": CLIENT_SECRET,
            "redirectURI": f"{origin}/{realm}/callback",
            **more,
        }

    def browse(self, location: str) -> Got:
        """What a browser gets from the provider."""
        parts = urlsplit(location)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=20, context=self.context
        )
        try:
            connection.request("GET", f"{parts.path}?{parts.query}")
            answer = connection.getresponse()
            fields = [(name.lower(), value) for name, value in answer.getheaders()]
            return Got(answer.status, fields, answer.read())
        finally:
            connection.close()

    def _answer(self, seen: Seen) -> Answer:
        path, _, query = seen.target.partition("?")
        _, _, name, rest = path.split("/", 3)
        realm = self.realms[name]
        endpoint = rest.rpartition("/")[2].removeprefix("openid-")
        other = realm.answer(endpoint)
        if other is not None:
            return other
        if endpoint == "configuration":
            return _json(self._document(name, realm))
        if endpoint == "certs":
            return _json(orjson.loads(jwks(*realm.published)))
        if endpoint == "auth":
            return self._authorized(name, realm, _form(query))
        if endpoint == "logout":
            realm.ended.append(_form(query))
            return Answer(200)
        return self._token(name, realm, seen)

    def _document(self, name: str, realm: Realm) -> dict[str, Any]:
        base = f"{self.issuer(name)}/protocol/openid-connect"
        return {
            "issuer": self.issuer(name),
            "authorization_endpoint": f"{base}/auth",
            "token_endpoint": f"{base}/token",
            "jwks_uri": f"{base}/certs",
            "end_session_endpoint": f"{base}/logout",
            "token_endpoint_auth_methods_supported": list(realm.methods),
            "code_challenge_methods_supported": ["plain", "S256"],
            **realm.document,
        }

    def _authorized(self, name: str, realm: Realm, asked: dict[str, str]) -> Answer:
        """Somebody logged in, with success."""
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        realm.codes[code] = asked
        back = {"state": asked["state"], "iss": self.issuer(name), "code": code}
        return Answer(302, [("location", f"{asked['redirect_uri']}?{urlencode(back)}")])

    def _token(self, name: str, realm: Realm, seen: Seen) -> Answer:
        form = _form(seen.body.decode())
        realm.exchanges.append(form)
        if not _is_client(realm, seen, form):
            return _json({"error": "invalid_client"}, 401)
        if form["grant_type"] == "refresh_token":
            return self._renewed(name, realm, form["refresh_token"])
        asked = realm.codes.pop(form["code"], None)
        digest = sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            asked is None
            or asked["redirect_uri"] != form["redirect_uri"]
            or asked["code_challenge"] != challenge
        ):
            return _json({"error": "invalid_grant"}, 400)
        return self._tokens(name, realm, {"nonce": asked["nonce"]})

    def _renewed(self, name: str, realm: Realm, ticket: str) -> Answer:
        if realm.tickets.pop(ticket, None) is None:
            realm.reused += 1
            return _json({"error": "invalid_grant"}, 400)
        return self._tokens(name, realm, {})

    def _tokens(self, name: str, realm: Realm, more: Claims) -> Answer:
        now = int(time.time())
        claims = {
            "iss": self.issuer(name),
            "sub": "ada",
            "aud": CLIENT,
            "azp": CLIENT,
            "exp": now + realm.seconds,
            "iat": now,
            "typ": "ID",
            "email": "ada@example.com",
            **more,
            **realm.claims,
        }
        alg = {"rsa": "RS256", "p256": "ES256"}[realm.key.partition("/")[0]]
        kept = {key: value for key, value in claims.items() if value is not None}
        made = {"token_type": "Bearer", "expires_in": 300, "access_token": "a"}
        made["id_token"] = token(kept, key=realm.key, alg=alg)
        if realm.has_refresh:
            made["refresh_token"] = ticket = secrets.token_urlsafe(24)
            realm.tickets[ticket] = "ada"
        return _json(made)


def _json(value: object, status: int = 200) -> Answer:
    return Answer(status, [("content-type", "application/json")], orjson.dumps(value))


def _form(text: str) -> dict[str, str]:
    found = parse_qs(text, keep_blank_values=True, strict_parsing=bool(text))
    assert all(len(values) == 1 for values in found.values()), "a parameter came twice"
    return {name: values[0] for name, values in found.items()}


def _is_client(realm: Realm, seen: Seen, form: dict[str, str]) -> bool:
    given = seen.get("authorization")
    if given is not None and "client_secret_basic" in realm.methods:
        name, _, secret = base64.b64decode(given.removeprefix("Basic ")).decode().partition(":")
        pair = (unquote(name), unquote(secret.replace("+", " ")))
        return pair == (CLIENT, CLIENT_SECRET) and "client_secret" not in form
    return (form.get("client_id"), form.get("client_secret")) == (CLIENT, CLIENT_SECRET)


class Browser:
    """Keeps cookies, as far as a test needs it. `host`: what it calls the gateway."""

    def __init__(self, port: int, idp: Idp, host: str) -> None:
        self.port = port
        self.idp = idp
        self.host = host
        self.cookies: dict[str, str] = {}
        self.set: list[str] = []
        """`set-cookie` fields as they came."""

    def get(self, target: str, headers: Mapping[str, str] | None = None, **more: Any) -> Got:
        fields = dict(headers or {})
        if self.cookies:
            fields["cookie"] = "; ".join(f"{name}={one}" for name, one in self.cookies.items())
        got = fetch(self.port, target, headers=fields, host=self.host, **more)
        for line in got.get_all("set-cookie"):
            self.set.append(line)
            name, _, value = line.partition(";")[0].partition("=")
            if "Max-Age=0;" in line:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return got

    def sent_away(self, target: str) -> str:
        """Where the gateway sends somebody who is not logged in."""
        got = self.get(target, {"accept": "text/html", "sec-fetch-mode": "navigate"})
        assert got.status == 302, got.text
        return str(got.get("location"))

    def comes_back(self, target: str) -> str:
        """The callback that a login ends with, as a target."""
        location = str(self.idp.browse(self.sent_away(target)).get("location"))
        parts = urlsplit(location)
        return f"{parts.path}?{parts.query}"

    def log_in(self, target: str) -> Got:
        """The gateway's answer to the callback."""
        return self.get(self.comes_back(target))
