"""`config.istio.sidecar`: what is taken, and what is refused with its place."""

from __future__ import annotations

import pytest

from istio.sidecar.pod import settings_of
from istio.sidecar.ways import Mode, Settings
from sidecar.config.local import Source
from sidecar.config.problems import InvalidConfigError
from sidecar.gateway.loading import Loader
from sidecar.gateway.mesh import is_meshed, packet_mark


def config(text: str) -> dict[str, object]:
    loaded = Loader(Source("<test>", content=f"config: {{istio: {{sidecar: {text}}}}}"), {}).load()
    data = loaded.snapshot.resources["static/config"].data["config"]
    assert isinstance(data, dict)
    return data


def test_an_empty_section_is_a_sidecar_with_istios_ports() -> None:
    data = config("{}")
    found = settings_of(data)
    assert found is not None
    assert (found.outbound_port, found.inbound_port, found.hbone_port) == (15001, 15006, 15008)
    assert (found.mode, found.packet_mark, found.socks5_port) == (Mode.STRICT, 1337, 0)
    assert packet_mark(data) == 1337
    assert is_meshed({"static/config": {"config": data}})


def test_without_the_section_there_is_none() -> None:
    data: dict[str, object] = {"istio": {}}
    assert settings_of(data) is None
    assert packet_mark(data) == 0
    assert not is_meshed({"static/config": {"config": data}})


def test_every_key() -> None:
    data = config(
        "{outboundPort: 1, inboundPort: 2, hbonePort: 3, socks5Port: 4, mode: permissive,"
        " packetMark: 7, preserveSource: true}"
    )
    found = settings_of({**data, "enableIpv6": False})
    assert found == Settings(1, 2, 3, 4, Mode.PERMISSIVE, 7, True, False)
    assert found.own_ports == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        ("{outboundPort: 15008}", "", "two of the ports are the same"),
        ("{outboundPort: 0, inboundPort: 0, hbonePort: 0}", "", "no port is given"),
        ("{mode: lax}", ".mode", "expected one of"),
        ("{packetMark: 4096}", ".packetMark", "at most 4095"),
        ("{packetMark: 0, preserveSource: true}", "", "`preserveSource` needs `packetMark`"),
        ("{socks5Port: 70000}", ".socks5Port", "70000"),
        ("{socksPort: 1080}", ".socksPort", "unknown"),
    ],
)
def test_what_is_refused(text: str, path: str, said: str) -> None:
    with pytest.raises(InvalidConfigError) as refusal:
        config(text)
    (problem,) = refusal.value.problems
    assert problem.path == f"config.istio.sidecar{path}"
    assert said in problem.message


def test_a_bind_has_none_of_its_ports() -> None:
    text = "config: {istio: {sidecar: {}}}\nbinds: [{port: 15008, listeners: [{routes: []}]}]"
    with pytest.raises(InvalidConfigError) as refusal:
        Loader(Source("<test>", content=text), {}).load()
    (problem,) = refusal.value.problems
    assert problem.path == "config.istio.sidecar.hbonePort"
    assert "port 15008 is configured by both binds[0] and config.istio.sidecar" in problem.message
