"""The gateway's certificate in the mesh, and binds that take tunnels: what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config.normalise import normalise
from sidecar.config.snapshot import Snapshot
from tests.hbone.pki import Leaf, Pki, spiffe
from tests.support.mesh import put_certificate

PKI = Pki()


def normalised(config: dict[str, Any], **sections: Any) -> tuple[Snapshot, list[str]]:
    problems: list[Any] = []
    snapshot = normalise({"config": config, **sections}, problems, env={})
    return snapshot, [f"{one.path}: {one.message}" for one in problems]


def certified(folder: Path, leaf: Leaf) -> dict[str, Any]:
    return {"istio": {"certificate": put_certificate(leaf, PKI, folder)}}


def test_the_files_become_a_resource(tmp_path: Path) -> None:
    leaf = PKI.leaf(spiffe("waypoint"))
    snapshot, problems = normalised(certified(tmp_path, leaf))
    assert problems == []
    assert snapshot.resources["identity/own"].data == {
        "chain": leaf.chain.decode(),
        "key": leaf.key.decode(),
        "roots": PKI.root_pem.decode(),
    }


def test_nothing_without_files() -> None:
    snapshot, _ = normalised({"istio": {}})
    assert not [key for key in snapshot.resources if key.startswith("identity/")]


def test_a_certificate_without_an_identity(tmp_path: Path) -> None:
    for leaf in (PKI.leaf("https://example.com/x"), PKI.leaf(dns="a.test")):
        _, problems = normalised(certified(tmp_path, leaf))
        path = tmp_path / "chain.pem"
        assert problems == [f"config.istio.certificate.chain: {path}: has no SPIFFE name"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("chain", b"", "does not hold a valid PEM certificate"),
        ("key", b"nothing", "does not hold a valid PEM private key"),
        ("key", PKI.leaf(spiffe("b")).key, "the private key does not belong to the certificate"),
        ("roots", b"nothing", "does not hold a valid PEM certificate"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, text: bytes, message: str) -> None:
    config = certified(tmp_path, PKI.leaf(spiffe("a")))
    file = tmp_path / f"{name}.pem"
    file.write_bytes(text)
    _, problems = normalised(config)
    assert problems == [f"config.istio.certificate.{name}: {file}: {message}"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = certified(tmp_path, PKI.leaf(spiffe("a")))
    (tmp_path / "key.pem").unlink()
    _, problems = normalised(config)
    (problem,) = problems
    assert problem.startswith("config.istio.certificate.key: cannot read")


def test_revocation_lists(tmp_path: Path) -> None:
    file = tmp_path / "lists.pem"
    file.write_bytes(PKI.crl())
    snapshot, problems = normalised({"istio": {"revocations": str(file)}})
    assert problems == []
    assert snapshot.resources["identity/revoked"].data == {"lists": file.read_text()}
    for text in (b"", PKI.root_pem, b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"):
        file.write_bytes(text)
        _, problems = normalised({"istio": {"revocations": str(file)}})
        (problem,) = problems
        assert problem.endswith("holds no PEM revocation list")


def bind(*listeners: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"port": 15008, "listeners": list(listeners), **more}]


HBONE = {"protocol": "HBONE"}
BINDS = {
    "HTTPS in a tunnel's bind": (
        bind({"protocol": "TLS", "tcpRoutes": []}, tunnelProtocol="hboneWaypoint"),
        ["binds[0].listeners[0].protocol: TLS cannot be served with tunnelProtocol hboneWaypoint"],
    ),
    "two listeners": (
        bind(HBONE, {**HBONE, "hostname": "a.b"}, tunnelProtocol="hboneGateway"),
        ["binds[0].listeners: tunnelProtocol hboneGateway takes one listener"],
    ),
    "HBONE without tunnels": (
        bind(HBONE),
        [
            "binds[0].listeners[0].protocol: HBONE needs tunnelProtocol hboneWaypoint or"
            " hboneGateway"
        ],
    ),
    "HBONE without a socket": (
        bind(HBONE, tunnelProtocol="hboneWaypoint", mode="internal"),
        ["binds[0].mode: tunnelProtocol hboneWaypoint needs a port"],
    ),
    "HBONE with tls": (
        bind(
            {**HBONE, "tls": {"cert": "a", "key": "b"}},
            tunnelProtocol="hboneWaypoint",
        ),
        ["binds[0].listeners[0].tls: protocol HBONE cannot set tls"],
    ),
    "CONNECT to octets": (
        bind({"protocol": "TCP", "tcpRoutes": []}, tunnelProtocol="connect"),
        ["binds[0].listeners[0].protocol: TCP has no CONNECT: tunnelProtocol connect takes HTTP"],
    ),
}


@pytest.mark.parametrize("name", BINDS)
def test_binds(name: str) -> None:
    binds, expected = BINDS[name]
    _, problems = normalised({}, binds=binds)
    assert [one for one in problems if "cannot read" not in one] == expected


def test_a_listener_of_tunnels_has_routes_of_both_kinds() -> None:
    routes = {
        "routes": [{"name": "a", "hostnames": ["a.b"], "backends": [{"host": "c:1"}]}],
        "tcpRoutes": [{"name": "t", "hostnames": ["a.b"], "backends": [{"host": "c:1"}]}],
    }
    binds = bind({**HBONE, **routes}, tunnelProtocol="hboneWaypoint")
    snapshot, problems = normalised({}, binds=binds)
    assert problems == []
    kinds = {key.partition("/")[0] for key in snapshot.resources}
    assert {"route", "tcproute"} <= kinds
    assert snapshot.resources["bind/bind/15008"].data["protocol"] == "hbone"


@pytest.mark.parametrize(
    ("hbone", "expected"),
    [
        ({"frameSize": 100}, ["config.hbone.frameSize: 100 is not between 16384 and 16777215"]),
        (
            {"windowSize": 0, "poolMaxStreamsPerConn": 0},
            [
                "config.hbone.windowSize: 0 is not between 1 and 2147483647",
                "config.hbone.poolMaxStreamsPerConn: 0 is not between 1 and 65535",
            ],
        ),
        (
            {"windowSize": 100_000, "connectionWindowSize": 70_000},
            ["config.hbone.windowSize: is above connectionWindowSize"],
        ),
        ({"windowSize": 100_000, "poolUnusedReleaseTimeout": "1m"}, []),
    ],
)
def test_sizes_of_tunnels(hbone: dict[str, Any], expected: list[str]) -> None:
    assert normalised({"hbone": hbone})[1] == expected
