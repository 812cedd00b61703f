"""What control publishes of a SPIFFE agent's answers: for TLS, and for the mesh."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from istio.ca.identity import checked
from istio.control import Control
from istio.environment import Environment
from istio.errors import CaError
from sidecar.config.snapshot import Resource
from tests.hbone.pki import END, START, Pki, spiffe
from tests.support.spiffe_agent import Agent, Answer, federated, svid

pytestmark = pytest.mark.asyncio(loop_scope="session")
PKI, PARTNER = Pki(), Pki("partner")
WORKLOAD, ANY = spiffe("gate"), "spiffe://example.org/gate"


async def told(
    agent: Agent, answer: Answer, *, has_file: bool
) -> tuple[Control, dict[str, Resource]]:
    """Control as it is once it has published what the agent gave, and that."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[dict[str, Resource]] = loop.create_future()

    async def publish(changed: Mapping[str, Resource], _: Collection[str]) -> str:
        done.set_result(dict(changed))
        return ""

    control = Control(
        Environment(),
        None,
        {},
        spiffe_socket=agent.address,
        has_file=has_file,
        check=lambda _: None,
    )
    assert control.pending() == ["certificate"]
    task = asyncio.create_task(control.run(publish))
    agent.put(answer)
    try:
        async with asyncio.timeout(20):
            published = await done
            while control.pending():  # noqa: ASYNC110 - of what has no event
                await asyncio.sleep(0)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return control, published


@pytest.mark.parametrize(
    ("name", "has_file", "keys"),
    [
        (WORKLOAD, False, {"svid/own", "identity/own"}),
        (WORKLOAD, True, {"svid/own"}),
        (ANY, False, {"svid/own"}),
    ],
)
async def test_what_is_published(name: str, has_file: bool, keys: set[str], tmp_path: Path) -> None:
    leaf = PKI.leaf(name)
    answer = Answer(svids=[svid(PKI, leaf, name)])
    for domain, der in federated({"partner.test": PARTNER}).items():
        answer.federated_bundles[domain] = der
    with Agent(tmp_path / "agent.sock") as agent:
        control, published = await told(agent, answer, has_file=has_file)
    assert published.keys() == keys
    assert published["svid/own"].data == {
        "spiffe_id": name,
        "chain": leaf.chain.decode(),
        "key": leaf.key.decode(),
        "roots": PKI.root_pem.decode(),
        "federated": {"partner.test": PARTNER.root_pem.decode()},
        "not_after": int(leaf.certificate.not_valid_after_utc.timestamp()),
    }
    assert "PRIVATE" not in str(control.dump())
    if "identity/own" in keys:
        assert published["identity/own"].data["roots"] == PKI.root_pem.decode()


async def test_what_an_earlier_process_was_given_is_there() -> None:
    known = {"svid/own": Resource.of("svid", "own", {})}
    control = Control(
        Environment(),
        None,
        known,
        spiffe_socket="unix:///run/agent.sock",
        has_file=False,
        check=lambda _: None,
    )
    assert control.pending() == []


async def test_what_workers_would_refuse_is_not_published() -> None:
    key = rsa.generate_private_key(65537, 1024)  # too small for OpenSSL, and nobody else
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(ANY)]), True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    identity = checked(
        certificate.public_bytes(Encoding.PEM), pem, PKI.root_pem, now=START, is_svid=True
    )
    control = Control(
        Environment(),
        None,
        {},
        spiffe_socket="unix:///run/agent.sock",
        has_file=False,
        check=lambda _: None,
    )
    with pytest.raises(CaError, match="cannot be used"):
        await control._identified(identity)  # which has nothing to publish with
    assert control.pending() == ["certificate"]
