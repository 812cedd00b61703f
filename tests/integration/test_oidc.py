"""Logins at a real gateway with a provider in the shape of Keycloak, over TLS, good and bad.

Source: spec/config.md sections 3.2, 3.6 and 11.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.idp import CLIENT, CLIENT_SECRET, Browser, Idp, Realm
from tests.support.issuer import jwks
from tests.support.upstream import Answer, Seen, Upstream

HOST = "shop.test"
SECRET = "0f" * 32
PAGE = {"accept": "text/html", "sec-fetch-mode": "navigate"}
DATA = {"accept": "application/json", "sec-fetch-mode": "cors"}


def not_believed(endpoint: str) -> Answer | None:
    """A provider that answers nothing of use."""
    return Answer(200, [], (b" " * 65536 for _ in range(64)))


REALMS = {
    "demo": Realm(),
    "post": Realm(methods=("client_secret_post",), has_refresh=False),
    "large": Realm(claims={"groups": [f"group-{n:04}" for n in range(500)]}, has_refresh=False),
    "short": Realm(seconds=3),
    "rotated": Realm(),
    "explicit": Realm(),
    "bad": Realm(),
    "late": Realm(answer=lambda endpoint: Answer(drop=True)),
    "huge": Realm(answer=not_believed),
    "stranger": Realm(document={"issuer": "https://other.example"}),
    "lowered": Realm(document={"token_endpoint": "http://127.0.0.1:1/token"}),
    "metadata": Realm(document={"jwks_uri": "https://169.254.169.254/keys"}),
}
FALSE = ("late", "huge", "stranger", "lowered", "metadata")


def upstream_answer(seen: Seen) -> Answer:
    stolen = [("set-cookie", "agw_oidc_s_0=theirs"), ("set-cookie", "theirs=1")]
    return Answer(200, stolen, b"in")


def explicit(idp: Idp) -> dict[str, Any]:
    base = f"{idp.issuer('explicit')}/protocol/openid-connect"
    return {
        "authorizationEndpoint": f"{base}/auth?kc_locale=en",
        "tokenEndpoint": f"{base}/token",
        "tokenEndpointAuth": "clientSecretPost",
        "jwks": jwks("rsa"),
    }


def document(port: int, gated: int, idp: Idp, upstream: str) -> dict[str, Any]:
    def route(name: str, policies: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "matches": [{"path": {"pathPrefix": f"/{name}"}}],
            "policies": policies,
            "backends": [{"host": upstream}],
        }

    seen = {"request": {"set": {"x-user": "jwt.sub", "x-mail": "jwt.email"}}}
    routes = [route("plain", {})]
    for name in idp.realms:
        more: dict[str, Any] = explicit(idp) if name == "explicit" else {"scopes": ["email"]}
        if name == "demo":
            more["logout"] = {"path": "/demo/logout", "redirect": "/plain/bye"}
        policy = idp.policy(name, f"http://{HOST}", **more)
        if name == "post":
            policy["redirectURI"] = policy["redirectURI"].replace("http:", "https:")
        routes.append(route(name, {"oidc": policy, "transformations": seen}))
    rules = {"rules": ["jwt.email == 'ada@example.com'"]}
    before = {"oidc": idp.policy("demo", f"http://{HOST}"), "authorization": rules}
    listener = {"policies": before, "routes": [route("demo", {})]}
    return {
        "binds": [
            {"port": port, "listeners": [{"routes": routes}]},
            {"port": gated, "listeners": [listener]},
        ]
    }


@dataclass
class Running:
    port: int
    gated: int
    idp: Idp
    upstream: Upstream
    gateway: GatewayProcess

    def browser(self, port: int = 0) -> Browser:
        return Browser(port or self.port, self.idp, HOST)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    port, gated = free_ports(2)
    upstream = Upstream(upstream_answer)
    with tempfile.TemporaryDirectory() as name:
        idp = Idp(Path(name), **{key: replace(one) for key, one in REALMS.items()})
        with idp.upstream, upstream:
            config = document(port, gated, idp, upstream.address)
            env = {"SSL_CERT_FILE": idp.root, "OIDC_COOKIE_SECRET": SECRET}
            with GatewayProcess(config, workers=1, env=env) as gateway:
                yield Running(port, gated, idp, upstream, gateway)


def query_of(location: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


# --- a login ------------------------------------------------------------------------------------


def test_a_login_from_the_first_request_to_the_upstream(running: Running) -> None:
    running.upstream.take()
    browser = running.browser()
    location = browser.sent_away("/demo/a?b=c%20d&e")
    assert location.startswith(f"{running.idp.issuer('demo')}/protocol/openid-connect/auth?")
    query = query_of(location)
    assert query["client_id"] == CLIENT
    assert query["redirect_uri"] == f"http://{HOST}/demo/callback"
    assert query["scope"] == "openid email"
    assert query["code_challenge_method"] == "S256"
    assert len(query["code_challenge"]) == 43
    assert len(query["nonce"]) == 32
    (line,) = browser.set
    assert line.startswith("agw_oidc_t_")
    assert "; Max-Age=300; Path=/; HttpOnly; SameSite=Lax" in line
    assert "Secure" not in line
    back = urlsplit(str(running.idp.browse(location).get("location")))
    got = browser.get(f"{back.path}?{back.query}")
    assert (got.status, got.get("location")) == (302, "/demo/a?b=c%20d&e")
    assert got.get("cache-control") == "no-store"
    names = {name.partition("_")[2].rpartition("_")[0] for name in browser.cookies}
    assert names == {"oidc_s", "oidc_r"}
    assert running.upstream.take() == []
    browser.cookies["own"] = "1"
    for headers in (PAGE, DATA, {}):
        got = browser.get("/demo/a?b=c%20d&e", headers)
        assert (got.status, got.body) == (200, b"in")
        assert got.get_all("set-cookie") == ["theirs=1"]
        (seen,) = running.upstream.take()
        assert seen.get("cookie") in ("own=1", "own=1; theirs=1", "theirs=1; own=1")
        assert (seen.get("x-user"), seen.get("x-mail")) == ("ada", "ada@example.com")
        assert seen.get("authorization") is None
    (form,) = running.idp.realms["demo"].exchanges
    assert "client_secret" not in form
    assert len(form["code_verifier"]) == 64
    running.gateway.wait_line("jwt.sub=ada")
    running.gateway.wait_metric(
        "agentgateway_requests_total", 2, status="302", reason="Oidc", route="default/demo"
    )


def test_who_fetches_data_is_refused_and_who_looks_is_sent_away(running: Running) -> None:
    def status(headers: dict[str, str], method: str = "GET") -> int:
        got = fetch(running.port, "/demo/x", method, host=HOST, headers=headers)
        if got.status == 401:
            assert got.text == "oidc failure: authentication required"
            assert got.get_all("set-cookie") == []
        return got.status

    assert status(PAGE) == 302
    assert status({}) == 302
    assert status({"accept": "*/*"}, "HEAD") == 302
    assert status(DATA) == 401
    assert status({"accept": "text/html", "sec-fetch-mode": "same-origin"}) == 401
    assert status({"accept": "application/json"}) == 401
    assert status({"accept": "*/*", "x-requested-with": "XMLHttpRequest"}) == 401
    assert status(PAGE, "POST") == 401
    upgrade = {"connection": "upgrade", "upgrade": "websocket"}
    assert status(upgrade) == 401
    # A question that never carries cookies goes on.
    asked = {"origin": "https://a.example", "access-control-request-method": "PUT"}
    assert status(asked, "OPTIONS") == 200
    assert status({"origin": "https://a.example"}, "OPTIONS") == 401
    running.upstream.take()


def test_before_a_route_is_chosen(running: Running) -> None:
    browser = running.browser(running.gated)
    assert browser.sent_away("/nowhere").startswith(running.idp.issuer("demo"))
    assert browser.log_in("/demo/y").get("location") == "/demo/y"
    assert browser.get("/demo/y", PAGE).body == b"in"
    assert browser.get("/nowhere", PAGE).status == 404
    (seen,) = running.upstream.take()
    assert seen.get("cookie") is None
    # Another policy's session, though of the same provider and client, is none.
    other = running.browser()
    other.cookies = dict(browser.cookies)
    assert other.get("/demo/y", DATA).status == 401


def test_the_secret_in_the_form_and_cookies_for_https_alone(running: Running) -> None:
    browser = running.browser()
    assert browser.log_in("/post/a").status == 302
    assert browser.get("/post/a", DATA).status == 200
    ours = [line for line in browser.set if line.startswith("agw_oidc_")]
    assert all(line.endswith("; Secure") for line in ours)
    (form,) = running.idp.realms["post"].exchanges
    assert (form["client_id"], form["client_secret"]) == (CLIENT, CLIENT_SECRET)
    assert not any(name.startswith("agw_oidc_r") for name in browser.cookies)


def test_explicit_endpoints(running: Running) -> None:
    browser = running.browser()
    location = browser.sent_away("/explicit/a")
    assert "auth?kc_locale=en&response_type=code&" in location
    assert query_of(location)["scope"] == "openid"
    assert browser.log_in("/explicit/a").get("location") == "/explicit/a"
    assert browser.get("/explicit/a", DATA).status == 200
    running.idp.realms["explicit"].exchanges.clear()


def test_a_session_too_long_for_one_cookie(running: Running) -> None:
    browser = running.browser()
    assert browser.log_in("/large/a").status == 302
    parts = [name for name in browser.cookies if name.startswith("agw_oidc_s")]
    assert len(parts) == 4
    assert browser.get("/large/a", DATA).status == 200
    del browser.cookies[parts[1]]
    assert browser.get("/large/a", DATA).status == 401


# --- what comes back ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ("/demo/./a", "/demo/./a"),
        ("/demo//evil.example", "/demo//evil.example"),
        ("/demo/a?next=https://evil.example", "/demo/a?next=https://evil.example"),
        ("/demo/" + "a" * 2100, "/"),
    ],
)
def test_where_a_browser_comes_back_to(running: Running, target: str, kept: str) -> None:
    browser = running.browser()
    got = browser.get(target, PAGE)
    assert got.status == 302
    back = urlsplit(str(running.idp.browse(str(got.get("location"))).get("location")))
    assert browser.get(f"{back.path}?{back.query}").get("location") == kept


def test_callbacks_that_are_not_believed(running: Running) -> None:
    def refused(browser: Browser, target: str, reason: str) -> None:
        got = browser.get(target)
        assert (got.status, got.text) == (400, f"oidc failure: {reason}")

    browser = running.browser()
    target = browser.comes_back("/demo/a")
    other = running.browser()
    # Somebody else's code, without the cookie that the login began with.
    refused(other, target, "missing transaction")
    query = query_of(target)
    path, state = "/demo/callback", query["state"]
    refused(browser, f"{path}?state=x&code=y", "invalid callback")
    refused(browser, f"{path}?state={state}&state={state}&code=y", "invalid callback")
    refused(browser, f"{path}?state={state}&code=y&error=z", "invalid callback")
    assert any(name.startswith("agw_oidc_t") for name in browser.cookies)
    kept = dict(browser.cookies)
    forged = state[:-1] + ("A" if state[-1] != "A" else "B")
    refused(browser, f"{path}?state={forged}&code=y", "csrf mismatch")
    # A login that failed is over.
    refused(browser, target, "missing transaction")
    browser.cookies = dict(kept)
    refused(browser, f"{path}?state={state}&code=y&iss=https://evil", "invalid callback")
    browser.cookies = dict(kept)
    refused(
        browser,
        f"{path}?state={state}&error=access_denied%0d%0aset-cookie:x",
        "oidc provider returned callback error 'access_denied??set-cookie:x'",
    )
    browser.cookies = {name: "AAAA" + value for name, value in kept.items()}
    refused(browser, target, "invalid transaction")
    # None of these spent the code.
    browser.cookies = dict(kept)
    assert browser.get(target).status == 302
    browser.cookies |= kept
    got = browser.get(target)
    assert (got.status, got.text) == (500, "oidc failure: token exchange failed")
    # Without what makes it a callback, the path is one like any other.
    assert running.browser().sent_away(path).startswith("https://")


BAD_TOKENS: dict[str, tuple[dict[str, Any], int, str]] = {
    "another nonce": ({"nonce": "n"}, 400, "nonce mismatch"),
    "no nonce": ({"nonce": None}, 400, "nonce mismatch"),
    "another audience": ({"aud": "other"}, 500, "invalid id token: "),
    "another party": ({"aud": ["web", "x"], "azp": "x"}, 500, "invalid id token: "),
    "another issuer": ({"iss": "https://evil.example"}, 500, "invalid id token: "),
    "expired": ({"exp": 1}, 500, "invalid id token: "),
    "within the leeway": ({"exp": -30}, 500, "invalid id token: "),
    "nobody": ({"sub": None}, 500, "invalid id token: "),
    "too long": (
        {"x": "y" * 9500},
        500,
        "encoded browser session exceeds cookie size budget",
    ),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_tokens_that_are_not_believed(running: Running, name: str) -> None:
    claims, status, reason = BAD_TOKENS[name]
    if name == "within the leeway":
        claims = {"exp": time.time() - 30}
    realm = running.idp.realms["bad"]
    browser = running.browser()
    realm.claims = claims
    try:
        got = browser.log_in("/bad/a")
    finally:
        realm.claims = {}
    assert got.status == status
    assert got.text.startswith(f"oidc failure: {reason}")
    assert browser.cookies == {}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(drop=True),
        Answer(500, [], b"no"),
        Answer(302, [("location", "https://evil.example/")]),
        Answer(200, [("content-type", "text/html")], b"<html>"),
        Answer(200, [], b"[]"),
        Answer(200, [], b'{"id_token": 1}'),
        Answer(200, [("content-encoding", "gzip")], b"{}"),
        Answer(200, [], b" " * 70_000),
    ],
    ids=["gone", "500", "moved", "page", "list", "number", "compressed", "huge"],
)
def test_answers_to_a_code_that_are_not_believed(running: Running, answer: Answer) -> None:
    realm = running.idp.realms["bad"]
    browser = running.browser()
    target = browser.comes_back("/bad/a")
    realm.answer = lambda endpoint: answer if endpoint == "token" else None
    try:
        got = browser.get(target)
    finally:
        realm.answer = lambda endpoint: None
    assert (got.status, got.text) == (500, "oidc failure: token exchange failed")


# --- sessions -----------------------------------------------------------------------------------


def test_a_session_is_renewed_once_and_for_one_browser(running: Running) -> None:
    realm = running.idp.realms["short"]
    browser = running.browser()
    assert browser.log_in("/short/a").status == 302
    first = dict(browser.cookies)
    until = time.monotonic() + 20
    while len(realm.exchanges) < 2:
        assert time.monotonic() < until
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(_with, running, first) for _ in range(4)]
            assert {one.result().status for one in asked} == {200}
    assert realm.exchanges[1]["grant_type"] == "refresh_token"
    # Who still has the old cookies gets the new ones, and the old token is not used again.
    got = browser.get("/short/a", DATA)
    assert got.status == 200
    assert realm.reused == 0
    assert got.get("cache-control") == "no-store"
    assert browser.cookies.keys() >= first.keys()
    assert all(browser.cookies[name] != first[name] for name in first)


def _with(running: Running, cookies: dict[str, str]) -> Got:
    text = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return fetch(running.port, "/short/a", host=HOST, headers={**DATA, "cookie": text})


def test_keys_that_are_rotated_end_sessions_and_begin_others(running: Running) -> None:
    realm = running.idp.realms["rotated"]
    realm.has_refresh = False
    browser = running.browser()
    assert browser.log_in("/rotated/a").status == 302
    assert browser.get("/rotated/a", DATA).status == 200
    realm.key, realm.published = "p256", ("p256",)
    # The new key is asked for by the login that needs it.
    other = running.browser()
    assert other.log_in("/rotated/a").status == 302
    assert other.get("/rotated/a", DATA).status == 200
    assert browser.get("/rotated/a", DATA).status == 401


def test_cookies_that_are_no_session(running: Running) -> None:
    browser = running.browser()
    browser.log_in("/demo/a")
    (name,) = (one for one in browser.cookies if one.startswith("agw_oidc_s"))
    value = browser.cookies[name]

    def status(*cookies: str) -> int:
        headers = [*DATA.items(), *(("cookie", one) for one in cookies)]
        return fetch(running.port, "/demo/a", host=HOST, headers=headers).status

    assert status(f"{name}={value}") == 200
    assert status(f"x=1;{name}={value}", f"{name}={value}") == 200
    for bad in (f"{name}={value[:-1]}", f"{name}=", f"{name.upper()}={value}", f"{name}2={value}"):
        assert status(bad) == 401
    assert status(f"{name}={value}", f"{name}=evil") == 401
    assert status(f'{name}="{value}"') == 401


def test_no_route_shows_a_session_to_its_upstream(running: Running) -> None:
    running.upstream.take()
    browser = running.browser()
    browser.log_in("/demo/a")
    for _ in range(3):
        assert browser.get("/plain/a").status == 200
    assert [one.get("cookie") for one in running.upstream.take()] in (
        [None, "theirs=1", "theirs=1"],
        [None, None, None],
    )


# --- the end ------------------------------------------------------------------------------------


def test_the_end_of_a_session(running: Running) -> None:
    browser = running.browser()
    browser.log_in("/demo/a")
    kept = dict(browser.cookies)
    for headers in ({}, {"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        got = browser.get("/demo/logout", headers)
        assert (got.status, got.text) == (400, "oidc failure: csrf mismatch")
    assert browser.get("/demo/logout", method="PUT").status == 405
    assert browser.cookies == kept
    got = browser.get("/demo/logout", {"origin": f"http://{HOST}"}, method="POST")
    assert got.status == 303
    location = str(got.get("location"))
    assert location.startswith(f"{running.idp.issuer('demo')}/protocol/openid-connect/logout?")
    query = query_of(location)
    assert query["post_logout_redirect_uri"] == f"http://{HOST}/plain/bye"
    assert query["client_id"] == CLIENT
    assert query["id_token_hint"].count(".") == 2
    assert browser.cookies == {}
    assert running.idp.browse(location).status == 200
    assert len(running.idp.realms["demo"].ended) == 1
    assert browser.get("/demo/a", DATA).status == 401
    # Also for who has no session.
    assert browser.get("/demo/logout", {"sec-fetch-site": "same-origin"}).status == 303


# --- providers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FALSE)
def test_providers_that_cannot_be_used(running: Running, name: str) -> None:
    got = running.browser().get(f"/{name}/a", PAGE)
    assert (got.status, got.text) == (503, "oidc failure: the provider cannot be asked now")
    assert got.get("retry-after") == "1"
    # The others are none the worse.
    assert running.browser().get("/demo/a", PAGE).status == 302


def test_a_provider_that_comes_up(running: Running) -> None:
    browser = running.browser()
    assert browser.get("/late/a", PAGE).status == 503
    running.idp.realms["late"].answer = lambda endpoint: None
    until = time.monotonic() + 20
    while browser.get("/late/a", PAGE).status != 302:
        assert time.monotonic() < until
    assert browser.log_in("/late/a").status == 302


def test_no_secret_in_the_log(running: Running) -> None:
    browser = running.browser()
    target = browser.comes_back("/demo/a")
    browser.get(target)
    running.gateway.wait_line("path=/demo/callback")
    text = running.gateway.log()
    ours = [value for name, value in browser.cookies.items() if name.startswith("agw_oidc_")]
    for secret in (SECRET, CLIENT_SECRET, query_of(target)["code"], *ours):
        assert secret not in text
