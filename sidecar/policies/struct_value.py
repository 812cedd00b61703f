"""Values of `google.protobuf.Struct`, in which services tell what they know, as plain ones."""

from __future__ import annotations

from typing import Any

from google.protobuf.struct_pb2 import Struct, Value


def plain_struct(given: Struct) -> dict[str, Any]:
    """As JSON would have it; numbers are floats."""
    return {key: _plain(value) for key, value in given.fields.items()}


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return plain_struct(value.struct_value)
    if kind == "list_value":
        return [_plain(one) for one in value.list_value.values]
    if kind is None or kind == "null_value":
        return None
    return getattr(value, kind)
