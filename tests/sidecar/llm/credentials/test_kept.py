"""Credentials over compilations: kept while they are asked for, made anew when anything changed."""

from __future__ import annotations

from sidecar.llm.credentials.base import Credential
from sidecar.llm.credentials.kept import KeptCredentials
from sidecar.llm.credentials.table import api_key
from sidecar.llm.providers.base import DefaultAuth

AWS = DefaultAuth("aws", region="r", service="s")


def made() -> tuple[Credential, ...]:
    return (api_key("k"),)


def test_a_recompilation_keeps_what_it_asks_for() -> None:
    kept = KeptCredentials()
    first = kept.get({"gcp": {}, "x": 1}, AWS, "h", made)
    other = kept.get(None, AWS, "h", made)
    kept.begin_round()
    assert kept.get({"x": 1, "gcp": {}}, AWS, "h", made) is first
    kept.end_round()
    assert kept.get(None, AWS, "h", made) is not other


def test_whatever_differs_has_its_own() -> None:
    kept = KeptCredentials()
    payloads: tuple[object, ...] = (None, {"aws": {}}, "aws")
    found = [
        kept.get(payload, auth, host, made)
        for payload in payloads
        for auth in (AWS, DefaultAuth("aws", region="other", service="s"))
        for host in ("a", "b")
    ]
    assert len({id(one) for one in found}) == 12
