"""Credentials of backends that are no models: what a token was fetched for outlives a reload."""

from __future__ import annotations

from typing import Any

from sidecar.gateway.authenticated import authenticated
from sidecar.gateway.plan import Backend
from sidecar.gateway.upstream import BrokenUpstream
from sidecar.llm.credentials.kept import KeptCredentials
from tests.support.messages import services

Json = dict[str, Any]
HOST: Json = {"host": {"address": "backend.test", "port": 443}}
GCP: Json = {"gcp": {}}


def credentials_of(payload: object, target: Json, kept: KeptCredentials) -> object:
    """The object that authenticates, which holds the token."""
    backend = Backend("backend.test", "static", BrokenUpstream(500, "NotFound", ""))
    ((show, is_async),) = authenticated(
        backend, payload, target, services(), kept
    ).chain.request_hooks
    assert is_async
    (cell,) = [one for one in show.__closure__ or () if isinstance(one.cell_contents, tuple)]
    (credential,) = cell.cell_contents
    return credential


def test_an_unchanged_credential_is_the_same_after_a_reload() -> None:
    kept = KeptCredentials()
    first = credentials_of(GCP, HOST, kept)
    kept.begin_round()
    assert credentials_of({"gcp": {}}, HOST, kept) is first
    kept.end_round()
    kept.begin_round()
    assert credentials_of({"gcp": {"type": "idToken"}}, HOST, kept) is not first
    kept.end_round()
    # It was let go, since the round before did not ask for it.
    assert credentials_of(GCP, HOST, kept) is not first


def test_another_destination_has_its_own() -> None:
    kept = KeptCredentials()
    other: Json = {"host": {"address": "other.test", "port": 443}}
    assert credentials_of(GCP, HOST, kept) is not credentials_of(GCP, other, kept)
