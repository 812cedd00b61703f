from __future__ import annotations

from google.protobuf.struct_pb2 import Struct

from sidecar.policies.struct_value import plain_struct


def test_values_of_every_kind() -> None:
    told = {"t": "x", "n": 1.5, "b": True, "none": None, "list": [1.0, {"a": []}], "map": {"k": {}}}
    given = Struct()
    given.update(told)
    given.fields["unset"].Clear()
    assert plain_struct(given) == {**told, "unset": None}
