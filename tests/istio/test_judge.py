"""What policies at the waypoint are told of a connection."""

from __future__ import annotations

from istio.judge import DESTINATION, facts_of
from sidecar.http.message import Connection


def test_what_was_called_by_name_has_the_services_address() -> None:
    by_name = Connection("10.0.0.1", 1234, "s.ns.svc.cluster.local", 80)
    by_name.extra[DESTINATION] = "10.9.9.9"
    facts = facts_of(by_name)
    assert (facts.destination_ip, facts.destination_port) == ("10.9.9.9", 80)
    assert facts_of(by_name) is facts
    by_address = facts_of(Connection("10.0.0.1", 1234, "10.0.0.2", 80))
    assert by_address.destination_ip == "10.0.0.2"
    assert by_address.identity is None
