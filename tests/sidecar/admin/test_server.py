from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import httpx
import pytest

from sidecar.admin.health import readiness_app
from sidecar.admin.server import Address, AdminServer, parse_address
from sidecar.errors import ConfigError

KEY = "config.adminAddr"
APP = readiness_app(list)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:15000", Address("127.0.0.1", 15000)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("0.0.0.0:15020", Address("0.0.0.0", 15020)),
        ("[::]:15020", Address("::", 15020)),
        ("unix:/run/x.sock", Address(path="/run/x.sock")),
        ("off", None),
    ],
)
def test_addresses(text, address):
    assert parse_address(text, KEY) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "15000", "localhost", "localhost:", "localhost:70000", "localhost:+1"),
        *("example.com:80", "unix:relative", "1.2.3:80", ":15000", "localhost:\u0661"),
    ],
)
def test_wrong_addresses_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        parse_address(text, KEY)
    assert caught.value.path == KEY


@pytest.mark.parametrize(
    ("address", "local"),
    [
        (Address("127.0.0.1", 1), True),
        (Address("::1", 1), True),
        (Address("0.0.0.0", 1), False),
        (Address(path="/x"), False),
    ],
)
def test_is_local(address, local):
    assert address.is_local is local


async def get(server: AdminServer) -> httpx.Response:
    path = server.address.path or None
    transport = httpx.AsyncHTTPTransport(uds=path)
    host = "localhost" if path else str(server.address)
    async with httpx.AsyncClient(transport=transport) as http:
        return await http.get(f"http://{host}/healthz/ready")


async def started(text: str) -> AdminServer:
    server = AdminServer(APP, parse_address(text, KEY), KEY)
    await server.start()
    return server


@pytest.mark.parametrize("text", ["localhost:0", "0.0.0.0:0"])
async def test_tcp(text):
    server = await started(text)
    try:
        assert server.address.port > 0
        assert (await get(server)).text == "ready\n"
    finally:
        await server.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.address.port)) != 0


async def test_a_port_in_use_is_said_clearly():
    server = await started("localhost:0")
    try:
        with pytest.raises(ConfigError, match="is in use by another process") as caught:
            await started(str(server.address))
        assert caught.value.path == KEY
        assert (await get(server)).status_code == 200
    finally:
        await server.stop()


async def test_an_address_of_another_machine():
    with pytest.raises(ConfigError, match="no such address"):
        await started("192.0.2.1:15000")


async def test_unix_socket(tmp_path: Path):
    path = tmp_path / "admin.sock"
    server = await started(f"unix:{path}")
    try:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert (await get(server)).text == "ready\n"
        with pytest.raises(ConfigError, match="another process serves it"):
            await started(f"unix:{path}")
    finally:
        await server.stop()
    assert not path.exists()


async def test_a_socket_is_taken_over_from_an_instance_that_goes(tmp_path: Path):
    path = tmp_path / "admin.sock"
    old = await started(f"unix:{path}")
    new = AdminServer(APP, old.address, KEY, shares_port=True)
    await new.start()
    try:
        assert os.listdir(tmp_path) == ["admin.sock"]
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert (await get(new)).text == "ready\n"
        await old.stop()
        assert (await get(new)).text == "ready\n"
    finally:
        await old.stop()
        await new.stop()
    assert not path.exists()


async def test_a_stale_socket_is_replaced(tmp_path: Path):
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = await started(f"unix:{path}")
    try:
        assert (await get(server)).status_code == 200
    finally:
        await server.stop()


async def test_a_file_in_the_way_is_left_alone(tmp_path: Path):
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        await started(f"unix:{path}")
    assert path.read_text() == "precious"


async def test_a_missing_directory(tmp_path: Path):
    with pytest.raises(ConfigError, match="no directory"):
        await started(f"unix:{tmp_path}/absent/admin.sock")


async def test_stop_before_start_and_twice():
    server = AdminServer(APP, Address("127.0.0.1", 0), KEY)
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()
