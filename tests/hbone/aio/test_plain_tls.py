"""What openssl and curl hear from the server: refusals below HTTP/2, and 400 above it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.hbone.aio.mesh import CLIENT, mesh
from tests.hbone.pki import Leaf, Pki

MINE = Pki()


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is missing")


async def run(*command: str) -> tuple[int, str]:
    """Exit code and everything it wrote."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    # An empty line keeps s_client from ending before the server's verdict came.
    output, _ = await asyncio.wait_for(process.communicate(b"\n"), 30)
    assert process.returncode is not None
    return process.returncode, output.decode("latin-1")


def written(leaf: Leaf, folder: Path) -> list[str]:
    (folder / "chain.pem").write_bytes(leaf.chain)
    (folder / "key.pem").write_bytes(leaf.key)
    return [str(folder / "chain.pem"), str(folder / "key.pem")]


@needs("openssl")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-tls1_2", "-alpn", "h2"], "protocol version"),
        (["-tls1_3", "-alpn", "http/1.1"], ""),
        (["-tls1_3", "-alpn", "h2"], "certificate required"),
    ],
    ids=["TLS 1.2", "another ALPN", "no certificate"],
)
async def test_openssl_without_a_certificate(options: list[str], says: str) -> None:
    async with mesh(pki=MINE) as net:
        host, port = net.key.address
        _, output = await run(
            "openssl", "s_client", "-connect", f"{host}:{port}", "-quiet", *options
        )
        assert says in output
        assert "PRI" not in output
        assert sum(net.server.ended.values()) == 1
        assert net.server.answered == {}


@needs("openssl")
async def test_openssl_gets_h2_and_no_ticket(tmp_path: Path) -> None:
    async with mesh(pki=MINE) as net:
        host, port = net.key.address
        chain, key = written(MINE.leaf(CLIENT), tmp_path)
        options = ["-tls1_3", "-alpn", "h2", "-cert", chain, "-key", key]
        _, output = await run("openssl", "s_client", "-connect", f"{host}:{port}", *options)
        assert "ALPN protocol: h2" in output
        assert "New, TLSv1.3" in output
        assert "New Session Ticket" not in output


@needs("curl")
async def test_curl_without_and_with_a_certificate(tmp_path: Path) -> None:
    async with mesh(pki=MINE) as net:
        host, port = net.key.address
        url = f"https://{host}:{port}/"
        command = ["curl", "-sS", "-k", "--http2", "-o", "/dev/null", "-w", "%{http_code}", url]
        code, _ = await run(*command)
        assert code in (35, 55, 56), "a TLS alert"
        chain, key = written(MINE.leaf(CLIENT), tmp_path)
        code, output = await run(*command, "--cert", chain, "--key", key)
        assert output.startswith("400"), output
        assert net.server.answered == {400: 1}
