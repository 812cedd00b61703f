"""The official MCP conformance suite: what a server gives directly, it gives through the gateway.

Source: npm package @modelcontextprotocol/conformance, `server --requirements REVISION`: the
scenarios that a revision requires of a server, and some that are run but not scored.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support import node
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_peer import SMALL, SdkServer
from tests.support.mcp_server import mcp_config

SUITE = "@modelcontextprotocol/conformance/dist/index.js"
SUITE_SECONDS = 120.0
REQUIRED = {"2025-11-25": 30, "2026-07-28": 37}
NOT_SCORED = {"2025-11-25": 3, "2026-07-28": 13}
pytestmark = pytest.mark.timeout(node.INSTALL_SECONDS + 2 * SUITE_SECONDS)

_FOLDER = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT[^T]+")
Checks = dict[str, Counter[tuple[str, str]]]
"""Scenario → its checks and how they ended, as often as that came."""


URIS = re.compile(r"resources-(read-.*|templates-read|(un)?subscribe)")
"""Scenarios that name resources by their server's own URIs, which several servers could have."""


@pytest.fixture(scope="module")
def server() -> Iterator[SdkServer]:
    with SdkServer() as made:
        yield made


@pytest.fixture(scope="module")
def ports(server: SdkServer) -> Iterator[dict[str, int]]:
    """Of one gateway: messages pass as they are, or are looked at, or go to one of two servers."""
    ports = dict(zip(("verbatim", "ruled", "several"), free_ports(3), strict=True))
    one = (server.name, server.address)
    # One scenario asks under names that are not local, as a browser fooled by DNS would.
    local: dict[str, Any] = {"dnsRebindingProtection": True}
    rules = {"mcpAuthorization": {"rules": ["true"]}}
    with SdkServer(name="other", module=SMALL) as other:
        two = (other.name, other.address)
        shapes = (
            mcp_config(ports["verbatim"], one, **local),
            mcp_config(ports["ruled"], one, policies=rules, **local),
            mcp_config(ports["several"], one, two, prefixMode="never", **local),
        )
        binds = [bind for shape in shapes for bind in shape["binds"]]
        with GatewayProcess({"binds": binds}, workers=4):
            yield ports


@pytest.fixture(scope="module")
def direct(server: SdkServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checks]:
    @cache
    def found(revision: str) -> Checks:
        found, printed = checked(server.port, tmp_path_factory.mktemp("direct"), revision)
        assert len(found) == REQUIRED[revision] + NOT_SCORED[revision]
        assert f"Not scored for {revision}: {NOT_SCORED[revision]} scenario(s) run" in printed
        return found

    return found


def checked(
    port: int, folder: Path, revision: str, *, scenario: str = "", is_required: bool = True
) -> tuple[Checks, str]:
    """The checks of all scenarios of a revision, or of one; and what was printed.

    Raises: AssertionError when one of all fails that is required.
    """
    url = f"http://localhost:{port}/mcp"
    which = ["--spec-version", revision, "--scenario", scenario]
    if not scenario:
        which = ["--requirements", revision]
    done = node.run(SUITE, "server", "--url", url, "-o", str(folder), *which, seconds=SUITE_SECONDS)
    assert scenario or not is_required or done.returncode == 0, (
        done.stdout[-6000:] + done.stderr[-2000:]
    )
    found: Checks = {}
    for file in folder.glob("server-*/checks.json"):
        named = _FOLDER.fullmatch(file.parent.name)
        assert named is not None, file
        found[named[1]] = Counter(
            (check["id"], check["status"])
            for check in json.loads(file.read_bytes())
            # What was sent and received on the way, of which there may be more or less.
            if check["status"] != "INFO"
        )
    return found, done.stdout


@pytest.mark.parametrize("revision", REQUIRED)
@pytest.mark.parametrize("shape", ["verbatim", "ruled"])
def test_gateway_gives_what_the_server_gives(
    server: SdkServer,
    ports: dict[str, int],
    direct: Callable[[str], Checks],
    tmp_path: Path,
    shape: str,
    revision: str,
) -> None:
    expected = direct(revision)
    through, _ = checked(ports[shape], tmp_path / "all", revision)
    assert through.keys() == expected.keys()
    for scenario in expected:
        if through[scenario] != expected[scenario]:
            # Some scenarios give a server half a second, which a busy machine may take.
            again, _ = checked(server.port, tmp_path / "direct", revision, scenario=scenario)
            found, said = checked(ports[shape], tmp_path / shape, revision, scenario=scenario)
            assert found[scenario] == again[scenario], said


@pytest.mark.parametrize("revision", REQUIRED)
def test_one_of_two_servers_fails_nothing_but_uris(
    ports: dict[str, int], direct: Callable[[str], Checks], tmp_path: Path, revision: str
) -> None:
    through, _ = checked(ports["several"], tmp_path, revision, is_required=False)
    assert through.keys() == direct(revision).keys()
    for scenario in sorted(_failed(through) - _failed(direct(revision))):
        if not URIS.fullmatch(scenario):
            found, said = checked(ports["several"], tmp_path / "one", revision, scenario=scenario)
            assert scenario not in _failed(found), said


def _failed(checks: Checks) -> set[str]:
    return {name for name, found in checks.items() if any(s == "FAILURE" for _, s in found)}
