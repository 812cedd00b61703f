"""Binds and listeners of a controller, each made with the other."""

from __future__ import annotations

from typing import Any

import pytest

from istio.xds.resources import Translator
from tests.istio.xds.words import BIND, PAIR, ROUTE, Json, applied, listener, message, octets


def test_a_bind_and_its_listeners_in_any_order() -> None:
    for order in ((BIND, listener()), (listener(), BIND)):
        translator = Translator()
        changed = [applied(one, to=translator).changed for one in order][-1]
        bind, one = changed["bind/80/ns/gw"].data, changed["listener/ns/gw/l"].data
        assert bind == {
            "port": 80,
            "protocol": "http",
            "tunnel": "direct",
            "mode": "standard",
            "listeners": ["ns/gw/l"],
        }
        assert (one["bind"], one["name"], one["gateway_name"], one["gateway_namespace"]) == (
            *("80/ns/gw", "l", "gw", "ns"),
        )


def test_a_listener_with_a_certificate() -> None:
    tls = {"cert": octets(PAIR.cert), "privateKey": octets(PAIR.key), "minVersion": "TLS_V1_3"}
    result = applied(BIND, listener(protocol="HTTPS", hostname="b.example", tls=tls))
    data: Any = result.changed["listener/ns/gw/l"].data
    assert (data["tls"]["cert"], data["tls"]["key"]) == (PAIR.cert, PAIR.key)
    assert data["tls"]["min_version"] == "TLS_V1_3"
    assert data["tls"]["root"] is None
    assert result.changed["bind/80/ns/gw"].data["protocol"] == "tls"
    tls |= {"root": octets(PAIR.cert)}
    data = applied(BIND, listener(protocol="HTTPS", tls=tls)).changed["listener/ns/gw/l"].data
    assert data["tls"]["root"] == PAIR.cert


def test_a_waypoint() -> None:
    bind = {"bind": {**BIND["bind"], "port": 15008, "tunnelProtocol": "HBONE_WAYPOINT"}}
    mesh = listener(protocol="HBONE", tls={"certificateSource": "ISTIO_WORKLOAD"})
    result = applied(bind, mesh)
    assert result.refused == {}
    assert result.changed["bind/80/ns/gw"].data["tunnel"] == "hboneWaypoint"
    assert result.changed["listener/ns/gw/l"].data["protocol"] == "HBONE"


def test_what_may_not_stand_together_is_refused_and_the_rest_stays() -> None:
    translator = Translator()
    applied(BIND, listener("a"), to=translator)
    result = applied(listener("b", protocol="TCP"), to=translator)
    assert "cannot mix" in result.refused["listener:ns/gw/b"]
    assert (result.changed, result.removed) == ({}, set())
    result = applied(listener("b", hostname="b.example"), to=translator)
    assert result.refused == {}
    assert result.changed["bind/80/ns/gw"].data["listeners"] == ["ns/gw/a", "ns/gw/b"]
    # A change that is bad leaves what was there.
    result = applied(listener("b", protocol="HTTPS"), to=translator)
    assert "requires 'tls'" in result.refused["listener:ns/gw/b"]
    assert (result.changed, result.removed) == ({}, set())
    assert translator.resources()["listener/ns/gw/b"].data["hostname"] == "b.example"


def test_who_was_good_before_is_not_blamed() -> None:
    """A bind that its listeners cannot stand on is refused, not they."""
    translator = Translator()
    applied(BIND, listener("a"), listener("b", hostname="b"), to=translator)
    before = translator.resources()
    result = applied({"bind": {**BIND["bind"], "tunnelProtocol": "HBONE_WAYPOINT"}}, to=translator)
    assert "takes one listener" in result.refused["bind:80/ns/gw"]
    assert (result.changed, result.removed, result.refused.keys()) == ({}, set(), {"bind:80/ns/gw"})
    assert translator.resources() == before


def test_a_name_that_comes_to_mean_something_else() -> None:
    translator = Translator()
    translator.apply({"x": message(BIND)}, ())
    result = translator.apply({"x": message({"route": ROUTE})}, ())
    assert (result.changed.keys(), result.removed) == ({"route/ns/r"}, {"bind/80/ns/gw"})
    result = translator.apply({"x": message(BIND)}, ())
    assert (result.changed.keys(), result.removed) == ({"bind/80/ns/gw"}, {"route/ns/r"})
    assert translator.resources().keys() == {"bind/80/ns/gw"}


def test_two_binds_of_one_port() -> None:
    translator = Translator()
    applied(BIND, to=translator)
    result = applied({"bind": {"key": "other", "port": 80}}, to=translator)
    assert result.refused == {"bind:other": "bind:80/ns/gw has port 80 already"}


def test_two_listeners_of_one_key() -> None:
    translator = Translator()
    applied(BIND, listener("a"), to=translator)
    result = translator.apply({"other": message(listener("a", hostname="b.example"))}, ())
    assert result.refused == {"other": "listener:ns/gw/a is the listener ns/gw/a already"}
    assert (result.changed, result.removed) == ({}, set())


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"protocol": "UNKNOWN"}, "an unknown protocol"),
        ({"protocol": "HTTPS"}, "HTTPS listener requires 'tls'"),
        ({"protocol": "HBONE"}, "HBONE needs tunnelProtocol"),
        ({"key": ""}, "key is missing"),
        ({"hostname": "a b"}, "invalid hostname"),
        (
            {"protocol": "HTTPS", "tls": {"certificateSource": "ISTIO_WORKLOAD"}},
            "on HBONE listeners only",
        ),
        (
            {"protocol": "HTTPS", "tls": {"mtlsMode": "ALLOW_INSECURE_FALLBACK"}},
            "ALLOW_INSECURE_FALLBACK is not supported",
        ),
        ({"protocol": "HTTPS", "tls": {"cert": octets(PAIR.cert)}}, "tls requires 'key'"),
    ],
)
def test_listeners_that_cannot_be_served(parts: Json, expected: str) -> None:
    result = Translator().apply({"b": message(BIND), "l": message(listener(**parts))}, ())
    assert expected in result.refused["l"]
    assert result.changed.keys() == {"bind/80/ns/gw"}
