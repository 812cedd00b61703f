"""Where a service of the control plane is, and what one proves to the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from istio.endpoint import SYSTEM, Endpoint
from istio.errors import IstioError
from tests.support.certificates import make_pair


@pytest.mark.parametrize(
    "address",
    [
        "",
        "istiod:15012",
        "https://",
        "ftp://istiod",
        "https://istiod/path",
        "https://user:secret@istiod",
        "https://istiod?x=1",
        "https://istiod:port",
        "https://istiod:99999",
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(IstioError) as caught:
        Endpoint(address)
    assert "secret" not in str(caught.value)


def test_plaintext_is_asked_for() -> None:
    assert Endpoint("http://istiod:15010").is_plaintext
    assert not Endpoint("https://istiod").is_plaintext


def test_metadata(tmp_path: Path) -> None:
    assert Endpoint("https://istiod").metadata() == []
    token = tmp_path / "token"
    token.write_text(" jwt\n")
    endpoint = Endpoint(
        "https://istiod", token_file=str(token), cluster_id="c", headers=(("x-a", "1"),)
    )
    assert endpoint.metadata() == [
        ("authorization", "Bearer jwt"),
        ("clusterid", "c"),
        ("x-a", "1"),
    ]
    token.write_bytes(bytes(2 * 1024 * 1024))
    with pytest.raises(IstioError, match="larger than"):
        endpoint.metadata()


@pytest.mark.parametrize("content", ["", "junk", "-----BEGIN CERTIFICATE-----\nAA\n"])
def test_roots_that_are_none(tmp_path: Path, content: str) -> None:
    roots = tmp_path / "root-cert.pem"
    roots.write_text(content)
    with pytest.raises(IstioError, match="no PEM certificate"):
        Endpoint("https://istiod", roots=str(roots)).channel()


def test_roots_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(IstioError, match="cannot read the roots file"):
        Endpoint("https://istiod", roots=str(tmp_path / "none")).channel()


def test_only_a_file_is_watched(tmp_path: Path) -> None:
    roots = tmp_path / "root-cert.pem"
    endpoint = Endpoint("https://istiod", roots=str(roots))
    missing = endpoint.stamp()
    roots.write_text("one")
    first = endpoint.stamp()
    other = tmp_path / "other"
    other.write_text("two")
    other.replace(roots)
    assert len({missing, first, endpoint.stamp()}) == 3
    pem = make_pair("x").cert
    for one in (None, SYSTEM, pem):
        assert Endpoint("https://istiod", roots=one).stamp() == ()
    assert Endpoint("http://istiod", roots=str(roots)).stamp() == ()
