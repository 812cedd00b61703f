"""The policies `cors` and `csrf` against origins that look like one that is allowed.

Source: Fetch standard, section "CORS protocol"; RFC 6454; Fetch Metadata Request Headers.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.errors import RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import Request
from sidecar.policies.order import make
from tests.support.messages import request, services

Fields = list[tuple[bytes, bytes]]

SITE: Final = b"https://example.com"
LOOK_ALIKES: dict[str, bytes] = {
    "null": b"null",
    "empty": b"",
    "blank": b" ",
    "star": b"*",
    "name before": b"https://evil-example.com",
    "name before, no dash": b"https://evilexample.com",
    "name behind": b"https://example.com.evil",
    "name behind, no dot": b"https://example.community",
    "name behind, a dash": b"https://example.com-evil.test",
    "name as a label": b"https://example.com.evil.test",
    "part of the name": b"https://example.co",
    "label below": b"https://www.example.com",
    "user": b"https://example.com@evil.test",
    "user and password": b"https://example.com:443@evil.test",
    "user before it": b"https://evil.test@example.com",
    "user empty": b"https://@example.com",
    "port": b"https://example.com:8443",
    "port of the other scheme": b"https://example.com:80",
    "port empty": b"https://example.com:",
    "port with noughts": b"https://example.com:0443",
    "port twice": b"https://example.com:443:443",
    "port that is no number": b"https://example.com:evil",
    "scheme not secure": b"http://example.com",
    "scheme of another kind": b"chrome-extension://example.com",
    "scheme longer": b"xhttps://example.com",
    "scheme missing": b"example.com",
    "scheme empty": b"//example.com",
    "scheme with one slash": b"https:/example.com",
    "scheme with three slashes": b"https:///example.com",
    "dot behind": b"https://example.com.",
    "dot before": b"https://.example.com",
    "two dots": b"https://example..com",
    "dot is a dot": b"https://exampleXcom",
    "slash behind": b"https://example.com/",
    "path": b"https://example.com/evil",
    "query": b"https://evil.test?https://example.com",
    "fragment": b"https://evil.test#https://example.com",
    "fragment behind": b"https://example.com#",
    "path of another": b"https://evil.test/https://example.com",
    "backslash": b"https://evil.test\\.example.com",
    "escaped dot": b"https://example%2ecom",
    "escaped letter": b"https://%65xample.com",
    "punycode": b"https://xn--exmple-4nf.com",
    "letter that looks alike": "https://ex\u0430mple.com".encode(),
    "letter of full width": "https://\uff45xample.com".encode(),
    "dot of full width": "https://example\uff0ecom".encode(),
    "soft hyphen": "https://exam\u00adple.com".encode(),
    "octets that are no text": b"https://example.com\xff",
    "no-break space behind": b"https://example.com\xa0",
    "blank before": b" https://example.com",
    "blank behind": b"https://example.com ",
    "tab behind": b"https://example.com\t",
    "nul behind": b"https://example.com\0",
    "nul and a name behind": b"https://example.com\0.evil.test",
    "line feed behind": b"https://example.com\n",
    "line end and a name": b"https://evil.test\r\nhttps://example.com",
    "delete behind": b"https://example.com\x7f",
    "two with a blank": b"https://example.com https://evil.test",
    "two with a comma": b"https://example.com, https://example.com",
    "quoted": b'"https://example.com"',
    "address": b"https://[::ffff:192.0.2.1]",
    "long": b"https://" + b"a" * 70_000 + b".example.com",
    "the same again and again": SITE * 1000,
}
"""Other origins than SITE, and none at all."""


def origins(*values: bytes) -> Fields:
    return [(b"origin", value) for value in values]


def asked(method: str, fields: Fields, **more: Any) -> Request:
    made = request(method, **more)
    made.headers = Headers(fields)
    return made


# --- cors -------------------------------------------------------------------------------------

ASKS: Final = (b"access-control-request-method", b"PUT")


def shared(*allowed: str, **more: Any) -> Any:
    payload = {"allowOrigins": list(allowed), "allowMethods": ["*"], "exposeHeaders": ["x-a"]}
    return make("cors", {**payload, "allowCredentials": True, **more}, services())


def reader(made: Any, fields: Fields) -> bytes | None:
    """The origin that may read what comes back, with credentials; None when nobody may."""
    actual = asked("GET", fields)
    assert made.on_request(actual) is None
    told = [actual.response_headers]
    answer = made.on_request(asked("OPTIONS", [*fields, ASKS]))
    told.append([] if answer is None else list(answer.headers))
    named = [
        [value for name, value in one if name == b"access-control-allow-origin"] for one in told
    ]
    assert named[0] == named[1]
    if not named[0]:
        # Nothing else is told either.
        assert told == [[], []]
        return None
    assert all((b"access-control-allow-credentials", b"true") in one for one in told)
    (origin,) = named[0]
    return bytes(origin)


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_nobody_reads_but_the_site(name: str) -> None:
    made = shared(SITE.decode(), "https://localhost:*")
    assert reader(made, origins(LOOK_ALIKES[name])) is None
    assert reader(made, origins(SITE)) == SITE
    # Without patterns the way is another one.
    assert reader(shared(SITE.decode()), origins(LOOK_ALIKES[name])) is None


BELOW: Final = {"label below"}
"""Look-alikes that a pattern for what is below the site does mean."""


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_nobody_reads_but_what_is_below_the_site(name: str) -> None:
    made = shared("https://*.example.com")
    allowed = LOOK_ALIKES[name] if name in BELOW else None
    assert reader(made, origins(LOOK_ALIKES[name])) == allowed


PATTERNS: dict[str, tuple[str, Fields, bool]] = {
    "below": ("https://*.example.com", origins(b"https://a.b.example.com"), True),
    "below, punycode": ("https://*.example.com", origins(b"https://xn--4ca.example.com"), True),
    "below, port": ("https://*.example.com", origins(b"https://a.example.com:8443"), False),
    "below, scheme": ("https://*.example.com", origins(b"http://a.example.com"), False),
    "below, user": ("https://*.example.com", origins(b"https://evil.test@a.example.com"), False),
    "below, dot behind": ("https://*.example.com", origins(b"https://a.example.com."), False),
    "below, blank": ("https://*.example.com", origins(b"https://evil.test .example.com"), False),
    "below, nul": ("https://*.example.com", origins(b"https://evil.test\0.example.com"), False),
    "below, line feed": ("https://*.example.com", origins(b"https://a.example.com\n"), False),
    "below, query": ("https://*.example.com", origins(b"https://evil.test?.example.com"), False),
    "below, fragment": ("https://*.example.com", origins(b"https://evil.test#.example.com"), False),
    "below, backslash": (
        *("https://*.example.com", origins(b"https://evil.test\\.example.com"), False),
    ),
    "below, escaped": ("https://*.example.com", origins(b"https://evil%2f.example.com"), False),
    "below, no ASCII": ("https://*.example.com", origins(b"https://\xe9.example.com"), False),
    "below, in capitals": ("https://*.example.com", origins(b"HTTPS://A.EXAMPLE.COM"), False),
    "below, 512 octets": (
        *("https://*.example.com", origins(b"https://" + b"a" * 492 + b".example.com"), True),
    ),
    "below, 513 octets": (
        *("https://*.example.com", origins(b"https://" + b"a" * 493 + b".example.com"), False),
    ),
    "any port": ("https://example.com:*", origins(b"https://example.com:1"), True),
    "any port, user": ("https://example.com:*", origins(b"https://example.com:1@evil.test"), False),
    "any port, name": ("https://example.com:*", origins(b"https://example.com:1.evil"), False),
    "any port, none": ("https://example.com:*", origins(b"https://example.com:"), False),
    "any port, sign": ("https://example.com:*", origins(b"https://example.com:+1"), False),
    "any port, other digits": (
        *("https://example.com:*", origins("https://example.com:\u0661".encode()), False),
    ),
    "any port, star": ("https://example.com:*", origins(b"https://example.com:*"), False),
    "two stars": ("https://*.example.com:*", origins(b"https://a.example.com:1"), True),
    "two stars, name": ("https://*.example.com:*", origins(b"https://evil:1.example.com:1"), False),
    "exact, capitals": ("https://example.com", origins(b"https://EXAMPLE.com"), False),
    "exact, the port that goes without saying": (
        *("https://example.com", origins(b"https://example.com:443"), False),
    ),
    "exact, twice": ("https://example.com", origins(SITE, SITE), False),
    "exact, and another": ("https://example.com", origins(SITE, b"https://evil.test"), False),
    "exact, behind another": ("https://example.com", origins(b"https://evil.test", SITE), False),
    "exact, and an empty one": ("https://example.com", origins(SITE, b""), False),
    "null where it is listed": ("null", origins(b"null"), True),
    "null in capitals": ("null", origins(b"NULL"), False),
    # Documented: with credentials, too, `*` is every site.
    "star with credentials": ("*", origins(b"https://evil.test"), True),
    "star with credentials, null": ("*", origins(b"null"), True),
    "star with credentials, twice": ("*", origins(SITE, SITE), False),
    "referer only": ("*", [(b"referer", b"https://example.com/")], False),
    "host only": ("*", [(b"host", b"example.com")], False),
    "forwarded origin": ("*", [(b"x-forwarded-origin", SITE)], False),
    "sec-fetch-site says it is the own": (
        *("https://a.test", [(b"sec-fetch-site", b"same-origin"), *origins(SITE)], False),
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str) -> None:
    pattern, fields, is_allowed = PATTERNS[name]
    allowed = fields[0][1] if is_allowed else None
    assert reader(shared(pattern), fields) == allowed


def test_a_flood_of_origins_changes_nothing() -> None:
    """What is remembered of origins is bounded, and right afterwards."""
    made = shared("https://*.example.com")
    for number in range(600):
        assert reader(made, origins(b"https://%d.evil.test" % number)) is None
    assert reader(made, origins(b"https://a.example.com")) == b"https://a.example.com"
    assert reader(made, origins(b"https://0.evil.test")) is None


PREFLIGHTS: dict[str, tuple[str, Fields]] = {
    "another origin": ("OPTIONS", [*origins(b"https://evil.test"), ASKS]),
    "two origins": ("OPTIONS", [*origins(SITE, SITE), ASKS]),
    "null": ("OPTIONS", [*origins(b"null"), ASKS]),
}


@pytest.mark.parametrize("name", PREFLIGHTS)
def test_a_preflight_of_others_gets_no_further(name: str) -> None:
    method, fields = PREFLIGHTS[name]
    answer = shared(SITE.decode()).on_request(asked(method, fields))
    assert (answer.status, list(answer.headers)) == (200, [])


OTHER_METHODS: dict[str, tuple[str, Fields]] = {
    "lower case": ("options", []),
    "override": ("POST", [(b"x-http-method-override", b"OPTIONS")]),
    "get": ("GET", []),
}


@pytest.mark.parametrize("name", OTHER_METHODS)
def test_what_is_no_preflight_is_not_answered_as_one(name: str) -> None:
    method, more = OTHER_METHODS[name]
    made = shared(SITE.decode())
    for origin in (SITE, b"https://evil.test"):
        assert made.on_request(asked(method, [*origins(origin), ASKS, *more])) is None
    assert made.on_request(asked("OPTIONS", [*origins(SITE), ASKS])) is not None


# --- csrf -------------------------------------------------------------------------------------


def passes(made: Any, one: Request) -> bool:
    try:
        assert made.on_request(one) is None
    except RequestError as refusal:
        reason = f"{refusal.status} {refusal.message}"
    else:
        return True
    assert reason == "403 CSRF validation failed"
    return False


@pytest.mark.parametrize("place", ["own", "listed"])
@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_nobody_sends_but_the_site(name: str, place: str) -> None:
    listed = [SITE.decode()] if place == "listed" else []
    made = make("csrf", {"additionalOrigins": listed}, services())
    own = "example.com" if place == "own" else "other.test"
    for more in ([], [(b"sec-fetch-site", b"cross-site")]):
        fields = [*origins(LOOK_ALIKES[name]), *more]
        assert not passes(made, asked("POST", fields, authority=own, scheme="https"))
    assert passes(made, asked("POST", origins(SITE), authority=own, scheme="https"))


def site(*values: bytes) -> Fields:
    return [(b"sec-fetch-site", value) for value in values]


OWN: Final = b"http://shop.example"
APP: Final = b"https://app.example"
EVIL: Final = b"https://evil.test"

SENT: dict[str, tuple[str, Fields, bool]] = {
    "own": ("POST", origins(OWN), True),
    "own, port that goes without saying": ("POST", origins(OWN + b":80"), True),
    "own, capitals": ("POST", origins(b"http://SHOP.example"), True),
    "own, secure": ("POST", origins(b"https://shop.example"), False),
    "own, dot behind": ("POST", origins(OWN + b"."), False),
    "own, twice": ("POST", origins(OWN, OWN), False),
    "own, an empty one behind": ("POST", origins(OWN, b""), False),
    "own, null behind": ("POST", origins(OWN, b"null"), False),
    "listed, twice": ("POST", origins(APP, APP), False),
    "listed, another before": ("POST", origins(EVIL, APP), False),
    "listed, two of sec-fetch-site": (
        *("POST", [*origins(APP), *site(b"same-site", b"same-site")], False),
    ),
    "listed, cross-site": ("POST", [*origins(APP), *site(b"cross-site")], True),
    "own, cross-site": ("POST", [*origins(OWN), *site(b"cross-site")], False),
    "own, same-site": ("POST", [*origins(OWN), *site(b"same-site")], False),
    "own, a site that is not known": ("POST", [*origins(OWN), *site(b"future")], False),
    "own, an empty site": ("POST", [*origins(OWN), *site(b"")], False),
    "another, same-origin": ("POST", [*origins(EVIL), *site(b"same-origin")], True),
    "another, same-origin in capitals": ("POST", [*origins(EVIL), *site(b"SAME-ORIGIN")], False),
    "another, same-origin and a blank": ("POST", [*origins(EVIL), *site(b"same-origin ")], False),
    "another, same-origin and a nul": ("POST", [*origins(EVIL), *site(b"same-origin\0")], False),
    "another, same-origin quoted": ("POST", [*origins(EVIL), *site(b'"same-origin"')], False),
    "another, same-origin with parameters": (
        *("POST", [*origins(EVIL), *site(b"same-origin;a=b")], False),
    ),
    "another, same-origin and cross-site": (
        *("POST", [*origins(EVIL), *site(b"same-origin, cross-site")], False),
    ),
    "same-origin, then cross-site": ("POST", site(b"same-origin", b"cross-site"), False),
    "cross-site, then same-origin": ("POST", site(b"cross-site", b"same-origin"), False),
    "same-origin twice": ("POST", site(b"same-origin", b"same-origin"), False),
    "same-origin and none": ("POST", site(b"same-origin", b"none"), False),
    "same-origin and an empty one": ("POST", site(b"same-origin", b""), False),
    "same-site alone": ("POST", site(b"same-site"), False),
    "null, none": ("POST", [*origins(b"null"), *site(b"none")], True),
    "null, same-site": ("POST", [*origins(b"null"), *site(b"same-site")], False),
    # Browsers send Origin with whatever changes something: what has none comes from no page.
    "referer only": ("POST", [(b"referer", b"https://evil.test/")], True),
    "own referer, another origin": (*("POST", [(b"referer", OWN + b"/"), *origins(EVIL)], False),),
    "own referer, cross-site": (
        *("POST", [(b"referer", OWN + b"/"), *site(b"cross-site")], False),
    ),
    "own referer, null": ("POST", [(b"referer", OWN + b"/"), *origins(b"null")], False),
    "other fetch metadata": (
        *("POST", [(b"sec-fetch-mode", b"same-origin"), *site(b"cross-site")], False),
    ),
    "asked for as a script does": (
        *("POST", [(b"x-requested-with", b"XMLHttpRequest"), *origins(EVIL)], False),
    ),
    "forwarded host": ("POST", [(b"x-forwarded-host", b"evil.test"), *origins(EVIL)], False),
    "host field": ("POST", [(b"host", b"evil.test"), *origins(EVIL)], False),
    "override to GET": ("POST", [(b"x-http-method-override", b"GET"), *origins(EVIL)], False),
    "another override to GET": ("POST", [(b"x-method-override", b"GET"), *origins(EVIL)], False),
    "get in lower case": ("get", origins(EVIL), False),
    "options in mixed case": ("Options", origins(EVIL), False),
    "trace": ("TRACE", origins(EVIL), False),
    "connect": ("CONNECT", origins(EVIL), False),
    "a method of one's own": ("GETX", origins(EVIL), False),
    "a method that begins with nothing": (" GET", origins(EVIL), False),
    "get": ("GET", origins(EVIL), True),
}


@pytest.mark.parametrize("name", SENT)
def test_requests_of_pages(name: str) -> None:
    method, fields, expected = SENT[name]
    made = make("csrf", {"additionalOrigins": [APP.decode()]}, services())
    assert passes(made, asked(method, fields)) is expected


LISTED: dict[str, tuple[str, bytes, bool]] = {
    "null": ("null", b"null", True),
    "null, and a host of that name": ("null", b"https://null", False),
    "null, blank behind": ("null", b"null ", False),
    "capitals": ("https://APP.example", APP, True),
    "port that goes without saying": ("https://app.example:443", APP, True),
    "that port asked with": ("https://app.example", APP + b":443", True),
    "that port twice": ("https://app.example", APP + b":443:443", False),
    "port of the other scheme": ("https://app.example:80", APP, False),
    "dot behind": ("https://app.example.", APP, False),
    "port": ("https://app.example:8443", APP + b":84430", False),
    "star in it": ("https://*.example", APP, False),
    "punycode": ("https://xn--4ca.example", "https://ä.example".encode(), False),
    "punycode, Latin-1": ("https://xn--4ca.example", b"https://\xe4.example", False),
}


@pytest.mark.parametrize("name", LISTED)
def test_listed_origins(name: str) -> None:
    text, origin, expected = LISTED[name]
    made = make("csrf", {"additionalOrigins": [text]}, services())
    assert passes(made, asked("POST", origins(origin))) is expected


def test_a_rewritten_authority_is_not_the_own_site() -> None:
    """A policy that names another host makes no other origin the own one."""
    made = make("csrf", {}, services())
    for origin, expected in ((EVIL, False), (b"https://shop.example", True)):
        one = asked("POST", origins(origin), scheme="https")
        one.authority = "evil.test"
        assert passes(made, one) is expected
