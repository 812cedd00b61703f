"""Heads made beforehand: they hold what the long way would send, and nothing of the client's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sidecar.gateway.llm_head import FixedHead, fixed_head
from sidecar.gateway.plan import Backend
from sidecar.gateway.upstream import BrokenUpstream
from sidecar.http.headers import Headers
from sidecar.llm.credentials.base import Credential
from sidecar.llm.credentials.static import StaticKeys, placing
from sidecar.llm.providers.base import Authority, KeyPlace, Target

HOST = Authority("models.test", 443, tls=False)
LATER = frozenset((b"x-gone",))


def made(
    credentials: Sequence[Credential], host: str = "models.test", **target: Any
) -> FixedHead | None:
    backend = Backend("m", "llm", BrokenUpstream(503, "x", "x"), default_authority=host)
    return fixed_head(backend, Target(HOST, b"/v1/chat?a=1", **target), credentials)


def key(location: Any = None) -> StaticKeys:
    put = placing(location, "secret", "key")
    return StaticKeys((put,), explicit_place=location is not None)


def sent(head: FixedHead | None, *fields: tuple[bytes, bytes]) -> list[str]:
    assert head is not None
    return head.with_fields(Headers(fields)).decode().split("\r\n")


def test_the_clients_fields_come_first_and_its_credentials_do_not() -> None:
    head = made([key()], headers_set=((b"x-set", b"ours"),), headers_remove=LATER)
    assert sent(
        head,
        (b"x-set", b"theirs"),
        (b"accept", b"*/*"),
        (b"content-type", b"text/plain"),
        (b"content-length", b"7"),
        (b"accept-encoding", b"gzip"),
        (b"x-gone", b"1"),
        (b"authorization", b"Bearer client"),
        (b"api-key", b"client"),
    ) == [
        "POST /v1/chat?a=1 HTTP/1.1",
        "host: models.test",
        "accept: */*",
        "content-type: application/json",
        "x-set: ours",
        "authorization: Bearer secret",
        "",
    ]
    assert "accept" not in str(sent(head))


def test_a_key_moves_to_where_the_provider_wants_it() -> None:
    place = KeyPlace(b"x-wanted")
    lines = sent(made([key()], key_place=place), (b"x-wanted", b"client"))
    assert lines[-2:] == ["x-wanted: secret", ""]
    assert not any(line.startswith("authorization") or "client" in line for line in lines)
    explicit = key({"header": {"name": "x-mine"}})
    assert sent(made([explicit], key_place=place))[-2:] == ["x-mine: secret", ""]


def test_a_query_parameter_is_part_of_the_line() -> None:
    head = made([key({"queryParameter": {"name": "key"}})])
    assert sent(head)[0] == "POST /v1/chat?a=1&key=secret HTTP/1.1"


def test_without_a_credential_the_clients_stays() -> None:
    assert "authorization: Bearer client" in sent(made([]), (b"authorization", b"Bearer client"))


class Fetched:
    """A credential that has to be fetched. See Credential."""

    explicit_place = False
    is_last = False

    def apply_nowait(self, request: object) -> bool:
        return False

    async def apply(self, request: object) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("credentials", "target", "host"),
    [
        ([key({"cookie": {"name": "s"}})], {}, "models.test"),
        ([Fetched()], {}, "models.test"),
        ([key(), Fetched()], {}, "models.test"),
        ([], {"key_place": KeyPlace(b"x-api-key")}, "models.test"),
        ([key()], {}, ""),
        ([key()], {"headers_set": ((b"x-set", b"a\r\nb: c"),)}, "models.test"),
    ],
    ids=["cookie", "fetched", "one fetched", "client's key moves", "no host", "malformed"],
)
def test_what_depends_on_the_request(
    credentials: Sequence[Credential], target: dict[str, Any], host: str
) -> None:
    assert made(credentials, host, **target) is None
