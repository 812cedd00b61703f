"""The policies `apiKey` and `basicAuth` against credentials nearly right, or right elsewhere.

Source: RFC 7617; RFC 4648 section 3; RFC 6265 section 5.4.
"""

from __future__ import annotations

import inspect
from base64 import b64encode
from typing import Any, Final

import bcrypt
import pytest

from sidecar.errors import RequestError
from sidecar.http.headers import Headers
from sidecar.policies.order import make
from tests.support.messages import request, services

MISSING: Final = "none found"
INVALID: Final = "invalid"
REFUSALS: Final = {
    "401 api key authentication failure: no API Key found": MISSING,
    "401 api key authentication failure: invalid credentials": INVALID,
    "401 basic authentication failure: no basic authentication credentials found": MISSING,
    "401 basic authentication failure: invalid credentials": INVALID,
}
Fields = list[tuple[bytes, bytes]]


async def outcome(made: Any, fields: Fields, target: str = "/") -> str:
    """Whose credential it is, or why it is refused."""
    asked = request("POST", target)
    asked.headers = Headers(fields)
    try:
        answer = made.on_request(asked)
        assert (await answer if inspect.isawaitable(answer) else answer) is None
    except RequestError as refusal:
        reason = f"{refusal.status} {refusal.message}"
    else:
        known = asked.state.get("apiKey") or asked.state["basicAuth"]
        assert isinstance(known, dict)
        return str(known.get("name") or known.get("username"))
    # Nobody is known, and nothing is taken away.
    assert not asked.state
    assert (list(asked.headers), asked.target) == (fields, target)
    return REFUSALS[reason]


def authorization(*values: bytes) -> Fields:
    return [(b"authorization", value) for value in values]


# --- apiKey -----------------------------------------------------------------------------------

KEY: Final = "sk-Ada.7+/=%41"
RAW: Final = KEY.encode()
HEADER: Final[dict[str, Any]] = {"header": {"name": "x-api-key"}}
QUERY: Final[dict[str, Any]] = {"queryParameter": {"name": "key"}}
COOKIE: Final[dict[str, Any]] = {"cookie": {"name": "key"}}


def keyed(**more: Any) -> Any:
    keys = [{"key": KEY, "metadata": {"name": "ada"}}, {"key": "k2", "metadata": {"name": "bob"}}]
    return make("apiKey", {"keys": keys, "mode": "strict", **more}, services())


BEARER: dict[str, tuple[bytes, str]] = {
    "right": (b"Bearer " + RAW, "ada"),
    "scheme in capitals": (b"BEARER " + RAW, "ada"),
    "scheme in mixed case": (b"bEaReR k2", "bob"),
    "tab behind the scheme": (b"Bearer\t" + RAW, MISSING),
    "no blank behind the scheme": (b"Bearer" + RAW, MISSING),
    "blank before the scheme": (b" Bearer " + RAW, MISSING),
    "no-break space behind the scheme": (b"Bearer\xa0" + RAW, MISSING),
    "colon behind the scheme": (b"Bearer: " + RAW, MISSING),
    "longer scheme": (b"XBearer " + RAW, MISSING),
    "another scheme": (b"Token " + RAW, MISSING),
    "scheme twice": (b"Bearer Bearer " + RAW, INVALID),
    "base64 of it as a user": (b"Basic " + b64encode(b"ada:" + RAW), MISSING),
    "first octet missing": (b"Bearer " + RAW[1:], INVALID),
    "last octet missing": (b"Bearer " + RAW[:-1], INVALID),
    "one octet alone": (b"Bearer " + RAW[:1], INVALID),
    "octet behind": (b"Bearer " + RAW + b"0", INVALID),
    "octet before": (b"Bearer 0" + RAW, INVALID),
    "nul behind": (b"Bearer " + RAW + b"\0", INVALID),
    "nul and more behind": (b"Bearer " + RAW + b"\0x", INVALID),
    "nul before": (b"Bearer \0" + RAW, INVALID),
    "nul alone": (b"Bearer \0", INVALID),
    "tab behind": (b"Bearer " + RAW + b"\t", INVALID),
    "line end behind": (b"Bearer " + RAW + b"\r\n", INVALID),
    "delete behind": (b"Bearer " + RAW + b"\x7f", INVALID),
    "no-break space behind": (b"Bearer " + RAW + b"\xa0", INVALID),
    "octets that are no text behind": (b"Bearer " + RAW + b"\xff\xfe", INVALID),
    "byte order mark before": (b"Bearer \xef\xbb\xbf" + RAW, INVALID),
    "letters of full width": (b"Bearer " + "\uff4b2".encode(), INVALID),
    "capitals": (b"Bearer K2", INVALID),
    "quoted": (b'Bearer "' + RAW + b'"', INVALID),
    "escapes decoded": (b"Bearer " + RAW.replace(b"%41", b"A"), INVALID),
    "escapes made": (b"Bearer " + RAW.replace(b"+", b"%2B"), INVALID),
    "two keys with a comma": (b"Bearer " + RAW + b",k2", INVALID),
    "two keys with a blank": (b"Bearer k2 " + RAW, INVALID),
    "pattern": (b"Bearer *", INVALID),
    "name of the owner": (b"Bearer ada", INVALID),
    "a mebibyte that begins with it": (b"Bearer " + RAW + b"x" * 2**20, INVALID),
    "many times": (b"Bearer " + RAW * 1000, INVALID),
    "a mebibyte of blanks": (b"Bearer " + b" " * 2**20 + RAW, INVALID),
}


@pytest.mark.parametrize("name", BEARER)
async def test_keys(name: str) -> None:
    value, expected = BEARER[name]
    assert await outcome(keyed(), authorization(value)) == expected


PLACES: dict[str, tuple[dict[str, Any], Fields, str, str]] = {
    "header": (HEADER, [(b"x-api-key", RAW)], "/", "ada"),
    "header asked for, in authorization": (HEADER, authorization(b"Bearer " + RAW), "/", MISSING),
    "header asked for, in the query": (HEADER, [], "/?x-api-key=k2&key=k2", MISSING),
    "header asked for, in a cookie": (HEADER, [(b"cookie", b"x-api-key=k2")], "/", MISSING),
    "header with a longer name": (HEADER, [(b"x-api-key2", RAW)], "/", MISSING),
    "header with a shorter name": (HEADER, [(b"api-key", RAW)], "/", MISSING),
    "header with an underscore": (HEADER, [(b"x_api_key", RAW)], "/", MISSING),
    "header with a scheme that is not asked for": (
        *(HEADER, [(b"x-api-key", b"Bearer " + RAW)], "/", INVALID),
    ),
    "header empty": (HEADER, [(b"x-api-key", b"")], "/", MISSING),
    "header twice, the right one first": (
        *(HEADER, [(b"x-api-key", RAW), (b"x-api-key", b"x")], "/", INVALID),
    ),
    "header twice, one empty": (HEADER, [(b"x-api-key", RAW), (b"x-api-key", b"")], "/", INVALID),
    "header twice, the empty one first": (
        *(HEADER, [(b"x-api-key", b""), (b"x-api-key", RAW)], "/", INVALID),
    ),
    "header twice, far apart": (
        *(HEADER, [(b"x-api-key", RAW), (b"a", b"b"), (b"x-api-key", b"k2")], "/", INVALID),
    ),
    "query": (QUERY, [], "/?key=sk-Ada.7%2B/=%2541", "ada"),
    "query, all escaped": (QUERY, [], "/?%6bey=%6b%32", "bob"),
    "query asked for, in a header": (QUERY, [(b"key", b"k2")], "/", MISSING),
    "query asked for, in the path": (QUERY, [], "/key=k2", MISSING),
    "query, name in capitals": (QUERY, [], "/?KEY=k2", MISSING),
    "query, list notation": (QUERY, [], "/?key[]=k2", MISSING),
    "query, empty": (QUERY, [], "/?key=", MISSING),
    "query, no sign": (QUERY, [], "/?key", MISSING),
    "query, semicolon": (QUERY, [], "/?a=1;key=k2", MISSING),
    "query, another question mark": (QUERY, [], "/?a=1?key=k2", MISSING),
    "query, escaped separator": (QUERY, [], "/?a=1%26key=k2", MISSING),
    "query, blank behind": (QUERY, [], "/?key=k2+", INVALID),
    "query, nul behind": (QUERY, [], "/?key=k2%00", INVALID),
    "query, escaped twice": (QUERY, [], "/?key=%256b2", INVALID),
    "query, half an escape": (QUERY, [], "/?key=k2%", INVALID),
    "query, no text": (QUERY, [], "/?key=k2%ff", INVALID),
    "query twice": (QUERY, [], "/?key=k2&key=k2", INVALID),
    "query twice, one empty": (QUERY, [], "/?key=k2&key", INVALID),
    "query twice, one escaped": (QUERY, [], "/?key=k2&k%65y=x", INVALID),
    "cookie": (COOKIE, [(b"cookie", b"a=b; key=k2; c=d")], "/", "bob"),
    "cookie asked for, in the query": (COOKIE, [], "/?key=k2", MISSING),
    "cookie asked for, in a header": (COOKIE, [(b"key", b"k2")], "/", MISSING),
    "cookie of the response's header": (COOKIE, [(b"set-cookie", b"key=k2")], "/", MISSING),
    "cookie, name in capitals": (COOKIE, [(b"cookie", b"KEY=k2")], "/", MISSING),
    "cookie, longer name": (COOKIE, [(b"cookie", b"xkey=k2; key2=k2")], "/", MISSING),
    "cookie, comma": (COOKIE, [(b"cookie", b"a=b, key=k2")], "/", MISSING),
    "cookie, quoted": (COOKIE, [(b"cookie", b'key="k2"')], "/", INVALID),
    "cookie, escaped": (COOKIE, [(b"cookie", b"key=%6b2")], "/", INVALID),
    "cookie, nul behind": (COOKIE, [(b"cookie", b"key=k2\0")], "/", INVALID),
    "cookie, attribute of the other kind": (COOKIE, [(b"cookie", b"key=x; Path=k2")], "/", INVALID),
    "cookie twice": (COOKIE, [(b"cookie", b"key=k2; key=k2")], "/", INVALID),
    "cookie twice, one empty": (COOKIE, [(b"cookie", b"key=; key=k2")], "/", INVALID),
    "cookie twice, in two headers": (
        *(COOKIE, [(b"cookie", b"key=k2"), (b"cookie", b"key=x")], "/", INVALID),
    ),
}


@pytest.mark.parametrize("name", PLACES)
async def test_places_of_keys(name: str) -> None:
    location, fields, target, expected = PLACES[name]
    assert await outcome(keyed(location=location), fields, target) == expected


# --- basicAuth --------------------------------------------------------------------------------

FULL: Final = b"p" * 71 + b"!"
"""As long as bcrypt reads."""


def hashed(password: bytes) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()


FILE: Final = "\n".join(
    (
        f"ada:{hashed(b'se:cret')}",
        f"full:{hashed(FULL)}",
        f"none:{hashed(b'')}",
        "robin:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "#eve:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
    )
)


def guarded(file: str = FILE) -> Any:
    return make("basicAuth", {"htpasswd": file, "mode": "strict"}, services())


def basic(credential: bytes) -> bytes:
    return b"Basic " + b64encode(credential)


ADA: Final = basic(b"ada:se:cret")
ROBIN: Final = basic(b"robin:password")
"""Its base64 ends in padding."""
assert ROBIN.endswith(b"=")

BASIC: dict[str, tuple[Fields, str]] = {
    "right, a colon in the password": (authorization(ADA), "ada"),
    "right, padded": (authorization(ROBIN), "robin"),
    "right, an empty password": (authorization(basic(b"none:")), "none"),
    "scheme in capitals": (authorization(b"BASIC" + ADA[5:]), "ada"),
    "tab behind the scheme": (authorization(b"Basic\t" + ADA[6:]), MISSING),
    "no blank behind the scheme": (authorization(b"Basic" + ADA[6:]), MISSING),
    "blank before the scheme": (authorization(b" " + ADA), MISSING),
    "longer scheme": (authorization(b"Basics " + ADA[6:]), MISSING),
    "two blanks": (authorization(b"Basic  " + ADA[6:]), INVALID),
    "scheme twice": (authorization(b"Basic " + ADA), INVALID),
    "for the proxy": ([(b"proxy-authorization", ADA)], MISSING),
    "two headers": (authorization(ROBIN, ADA), INVALID),
    "two headers, another scheme first": (authorization(b"Bearer x", ADA), INVALID),
    "two headers, another scheme behind": (authorization(ADA, b"Bearer x"), INVALID),
    "two headers, one empty": (authorization(ADA, b""), INVALID),
    "two in one header": (authorization(ADA + b", " + ROBIN), INVALID),
    "padding missing": (authorization(ROBIN.rstrip(b"=")), INVALID),
    "padding too much": (authorization(ROBIN + b"="), INVALID),
    "padding four times": (authorization(ADA + b"===="), INVALID),
    "padding before": (authorization(b"Basic =" + ROBIN[6:]), INVALID),
    "padding in the middle": (authorization(basic(b"robin:p") + b64encode(b"assword")), INVALID),
    "octets behind the padding": (authorization(ROBIN + b"AAAA"), INVALID),
    "one octet too many": (authorization(ADA + b"A"), INVALID),
    "blank within": (authorization(ADA[:10] + b" " + ADA[10:]), INVALID),
    "tab behind": (authorization(ADA + b"\t"), INVALID),
    "line end within": (authorization(ADA[:10] + b"\r\n" + ADA[10:]), INVALID),
    "nul within": (authorization(ADA[:10] + b"\0" + ADA[10:]), INVALID),
    "nul behind": (authorization(ADA + b"\0"), INVALID),
    "no ASCII within": (authorization(ADA[:10] + b"\xe9" + ADA[10:]), INVALID),
    "letters that are not base64": (authorization(ADA[:10] + b"*!" + ADA[10:]), INVALID),
    "base64 of base64": (authorization(basic(ADA[6:])), INVALID),
    "escaped": (authorization(ROBIN.replace(b"=", b"%3D")), INVALID),
    "plain": (authorization(b"Basic robin:password"), INVALID),
    "colon missing": (authorization(basic(b"robinpassword")), INVALID),
    "colon of full width": (authorization(basic("robin\uff1apassword".encode())), INVALID),
    "colon alone": (authorization(basic(b":")), INVALID),
    "name empty": (authorization(basic(b":password")), INVALID),
    "name alone": (authorization(basic(b"none")), INVALID),
    "colon before": (authorization(basic(b":robin:password")), INVALID),
    "password before a colon": (authorization(basic(b"ada:se")), INVALID),
    "password behind a colon": (authorization(basic(b"ada:cret")), INVALID),
    "password and the start of more": (authorization(basic(b"robin:password:")), INVALID),
    "password without its end": (authorization(basic(b"robin:passwor")), INVALID),
    "line end behind the password": (authorization(basic(b"robin:password\n")), INVALID),
    "nul behind the password": (authorization(basic(b"robin:password\0")), INVALID),
    "nul as the empty password": (authorization(basic(b"none:\0")), INVALID),
    "nul and more as the empty password": (authorization(basic(b"none:\0x")), INVALID),
    "nul behind the name": (authorization(basic(b"robin\0:password")), INVALID),
    "blank behind the name": (authorization(basic(b"robin :password")), INVALID),
    "name in capitals": (authorization(basic(b"ROBIN:password")), INVALID),
    "name that is no text": (authorization(basic(b"robin\xff:password")), INVALID),
    "name of another's password": (authorization(basic(b"ada:password")), INVALID),
    "name that is not there": (authorization(basic(b"mallory:password")), INVALID),
    # Such a name is tested against the hash of one that is there.
    "name that is not there, ada's password": (authorization(basic(b"mallory:se:cret")), INVALID),
    "name in a comment": (authorization(basic(b"eve:password")), INVALID),
    "name in a comment, as it stands there": (authorization(basic(b"#eve:password")), INVALID),
    "hash for a password": (
        *(authorization(basic(b"robin:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")), INVALID),
    ),
    "line of the file": (authorization(basic(FILE.split("\n", 1)[0].encode())), INVALID),
    "72 octets": (authorization(basic(b"full:" + FULL)), "full"),
    "72 octets and more, which bcrypt does not read": (
        *(authorization(basic(b"full:" + FULL + b"x")), "full"),
    ),
    "71 of 72 octets": (authorization(basic(b"full:" + FULL[:-1])), INVALID),
    "72 octets, the last another": (authorization(basic(b"full:" + FULL[:-1] + b"?")), INVALID),
    "72 octets, a nul behind": (authorization(basic(b"full:" + FULL + b"\0")), INVALID),
    "1,024 octets": (authorization(basic(b"full:" + FULL + b"x" * 691)), "full"),
    "1,028 octets": (authorization(basic(b"full:" + FULL + b"x" * 694)), INVALID),
    "a mebibyte": (authorization(basic(b"full:" + FULL + b"x" * 2**20)), INVALID),
}


@pytest.mark.parametrize("name", BASIC)
async def test_names_and_passwords(name: str) -> None:
    fields, expected = BASIC[name]
    made = guarded()
    assert await outcome(made, fields) == expected
    # What is remembered of it is the same.
    assert await outcome(made, fields) == expected


UNKNOWN: dict[str, bytes] = {
    "name that is not there": basic(b"mallory:x"),
    "name empty": basic(b":x"),
    "name that is no text": basic(b"\xff:x"),
    "name in capitals": basic(b"ADA:x"),
    "no colon": basic(b"ada"),
    "no base64": b"Basic *",
    "nul": basic(b"ada:x\0"),
    "too long": basic(b"ada:" + b"x" * 2000),
    "wrong password": basic(b"ada:x"),
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_one_hash_is_computed_whoever_it_is(name: str, monkeypatch: Any) -> None:
    """Time tells nobody which names there are."""
    tested: list[bytes] = []
    real = bcrypt.checkpw

    def counted(password: bytes, expected: bytes) -> bool:
        tested.append(password)
        return real(password, expected)

    made = guarded(f"ada:{hashed(b'se:cret')}\nrobin:{{SHA}}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")
    monkeypatch.setattr(bcrypt, "checkpw", counted)
    assert await outcome(made, authorization(UNKNOWN[name])) == INVALID
    assert len(tested) == 1


async def test_a_right_one_lends_nothing_to_a_wrong_one() -> None:
    made = guarded()
    assert await outcome(made, authorization(ADA)) == "ada"
    for wrong in (ADA + b"=", ADA[:-1], basic(b"ada:se:creT"), basic(b"robin:se:cret")):
        assert await outcome(made, authorization(wrong)) == INVALID
    assert await outcome(made, authorization(ADA)) == "ada"
