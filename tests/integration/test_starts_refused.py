"""A start that is refused: exit code 1, and what is wrong where."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.gateway import free_ports, run_until_exit
from tests.support.processes import hello


def written(path: Path, config: dict[str, Any]) -> Path:
    addresses = dict.fromkeys(("adminAddr", "statsAddr", "readinessAddr"), "off")
    static = {**addresses, "workerThreads": 1, **config.pop("config", {})}
    path.write_text(yaml.safe_dump({"config": static, **config}, sort_keys=False))
    return path


def test_a_bad_file_at_the_start_exits_1_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("binds:\n- port: true\n  listeners: []\n")
    ended = run_until_exit(path)
    assert ended.returncode == 1
    assert f"{path}:2:9: binds[0].port" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "another-gateway"])
def test_a_port_in_use_at_the_start_exits_1(tmp_path: Path, shares: bool) -> None:
    with socket.socket() as taken:
        if shares:  # as another gateway of this user would
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        ended = run_until_exit(written(tmp_path / "gateway.yaml", {"binds": [hello(port)]}))
    assert ended.returncode == 1
    assert f"port {port}: in use by another process" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("key", ["adminAddr", "statsAddr", "readinessAddr"])
def test_an_address_in_use_at_the_start_exits_1(tmp_path: Path, key: str) -> None:
    [port] = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = {"config": {key: address}, "binds": [hello(port)]}
        ended = run_until_exit(written(tmp_path / "gateway.yaml", config))
    assert ended.returncode == 1
    assert f"config.{key}: cannot listen on {address}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_front_door_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    path = written(
        tmp_path / "gateway.yaml", {"config": {"frontDoor": "hyper"}, "binds": [hello(1)]}
    )
    ended = run_until_exit(path)
    assert ended.returncode == 1
    assert "config.frontDoor" in ended.stderr
