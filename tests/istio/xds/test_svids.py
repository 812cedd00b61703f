"""Listeners and backends of a controller that ask for the SVID of an agent."""

from __future__ import annotations

from istio.xds.resources import Translator
from sidecar.gateway.check import resource_check
from tests.istio.xds.words import BIND, Json, applied, listener, policy

AGENT: Json = {"spiffe": {"endpoint": "unix:///run/agent.sock"}}
SERVING = listener(protocol="HTTPS", tls={"certificateSource": "SPIFFE"})
CALLING = policy(
    backend={
        "backendTls": {
            "certificateSource": "SPIFFE",
            "verifySubjectAltNames": ["spiffe://td/up"],
        }
    }
)


def test_they_are_as_those_of_a_file() -> None:
    result = applied(BIND, SERVING, CALLING, to=Translator(resource_check(AGENT, {})))
    assert result.refused == {}
    assert result.changed["listener/ns/gw/l"].data["tls"] == {"spiffe": {}}
    (found,) = (one for key, one in result.changed.items() if key.startswith("policy/"))
    assert found.data["kind"] == "backendTLS"
    assert found.data["policy"] == {"spiffe": {}, "subjectAltNames": ["spiffe://td/up"]}


def test_without_an_agent_they_are_refused() -> None:
    result = applied(BIND, SERVING, CALLING, to=Translator(resource_check({}, {})))
    assert result.refused.keys() == {"listener:ns/gw/l", "policy:ns/p"}
    for reason in result.refused.values():
        assert "SPIFFE needs config.spiffe.endpoint" in reason


def test_what_excludes_it_is_refused() -> None:
    both = listener(protocol="HTTPS", tls={"certificateSource": "SPIFFE", "minVersion": "TLS_V1_3"})
    result = applied(BIND, both, to=Translator(resource_check(AGENT, {})))
    assert "'spiffe' cannot be combined with tls cipherSuites" in result.refused["listener:ns/gw/l"]
