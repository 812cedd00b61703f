"""Whatever a control plane sends: a resource is honoured or refused, and nothing else happens."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from istio.errors import ResourceError
from istio.xds import translate
from istio.xds._pb import authorization_pb2, resource_pb2, workload_pb2
from istio.xds.resources import Translator

TEXTS = (
    *("", "a", "x-a", "ns/name", "true", "request.path == '/'", "h.example", "*.b", "1s", "("),
    *("\x00", "é", "a" * 300, "{}", '{"keys": []}', "unix:/x", "10.0.0.1", "~", "xds-pem:x"),
)
NAMES = frozenset(("key", "uid", "name", "namespace", "hostname", "bind_key", "port"))
NUMBERS = (0, 1, 2, 80, 443, 8080, 65535, 65536, 2**31 - 1)
DEPTH = 9


def fill(message: Any, luck: random.Random, depth: int = 0) -> Any:
    """Random fields of a message, of one or two members of each choice less than all."""
    fields = list(message.DESCRIPTOR.fields)
    for oneof in message.DESCRIPTOR.oneofs:
        keep = luck.choice(oneof.fields)
        fields = [one for one in fields if one.containing_oneof is not oneof or one is keep]
    for one in fields:
        odds = 1.0 if one.name in NAMES else 0.9 if one.containing_oneof else 0.4
        if depth < DEPTH and luck.random() < odds:
            set_field(message, one, luck, depth)
    return message


def set_field(message: Any, one: Any, luck: random.Random, depth: int) -> None:
    value = getattr(message, one.name)
    if one.message_type is not None and one.message_type.GetOptions().map_entry:
        inner = one.message_type.fields_by_name["value"]
        for _ in range(luck.randrange(3)):
            key = luck.choice(TEXTS)
            if inner.message_type is not None:
                fill(value[key], luck, depth + 1)
            else:
                value[key] = scalar(inner, luck)
    elif one.is_repeated:
        for _ in range(luck.randrange(3)):
            if one.message_type is not None:
                fill(value.add(), luck, depth + 1)
            else:
                value.append(scalar(one, luck))
    elif one.message_type is not None:
        value.SetInParent()
        fill(value, luck, depth + 1)
    else:
        setattr(message, one.name, scalar(one, luck))


def scalar(one: Any, luck: random.Random) -> Any:
    if one.enum_type is not None:
        return 99 if luck.random() < 0.02 else luck.choice(list(one.enum_type.values_by_number))
    if one.type == one.TYPE_STRING:
        # Without a name of its own nothing is looked at any further.
        return luck.choice(("a", "b")) if one.name in NAMES else luck.choice(TEXTS)
    if one.type == one.TYPE_BYTES:
        return luck.choice((b"", b"abcd", bytes(16), b"\xff", b"-----BEGIN CERTIFICATE-----"))
    if one.type == one.TYPE_BOOL:
        return luck.random() < 0.5
    if one.type in (one.TYPE_DOUBLE, one.TYPE_FLOAT):
        return luck.choice((0.0, 0.5, 2.0, float("nan"), -1.0))
    return luck.choice(NUMBERS)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_any_resource_is_made_or_refused(seed: int) -> None:
    luck = random.Random(seed)
    translator = Translator()
    for number in range(3):
        message = fill(resource_pb2.Resource(), luck)
        name = f"r{number % 2}"
        held = translator.resources()
        applied = translator.apply({name: message.SerializeToString()}, ())
        assert applied.refused.keys() <= {name}
        for key in applied.removed:
            del held[key]
        held.update(applied.changed)
        assert held == translator.resources()
        assert all(reason for reason in applied.refused.values())
        # One of ours, not of the resource.
        assert "internal error" not in applied.refused.values()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_any_address_and_policy_is_read_or_refused(seed: int) -> None:
    luck = random.Random(seed)
    for message, read in (
        (workload_pb2.Address(), translate.address),
        (authorization_pb2.Authorization(), translate.authorization),
    ):
        with suppress(ResourceError):
            read(fill(message, luck).SerializeToString())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_octets(octets: bytes) -> None:
    Translator().apply({"x": octets}, ("x",))
    for read in (translate.address, translate.authorization):
        with suppress(ResourceError):
            read(octets)
