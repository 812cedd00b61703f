"""What a Prometheus scrape reads as protobuf, the one form that has native histograms.

Source: Prometheus client data model (`io.prometheus.client.MetricFamily`, field numbers), each
message behind its length; Protocol Buffers encoding (varints, zigzag).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from math import inf
from typing import Final

from shm.cells import HistogramValue, Series, SeriesKind
from sidecar.admin.metrics import HELP, quality_of
from sidecar.telemetry.native import Forms, Native

PROTOBUF_TYPE: Final = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)
_KIND: Final = "application/vnd.google.protobuf"
_WANTED: Final = frozenset(("proto=io.prometheus.client.metricfamily", "encoding=delimited"))
_TEXTS: Final = ("application/openmetrics-text", "text/plain", "text/*")
_TYPES: Final = {
    SeriesKind.COUNTER: 0,
    SeriesKind.REAL_COUNTER: 0,
    SeriesKind.GAUGE: 1,
    SeriesKind.HISTOGRAM: 4,
}
_VALUE_FIELDS: Final = {0: 3, 1: 2}
"""Of a metric, by its family's type: counter, gauge."""
_DOUBLE: Final = struct.Struct("<d")
_VARINT, _FIXED64, _BYTES = 0, 1, 2


def wants_protobuf(accept: str) -> bool:
    """Whether an `Accept` header prefers this form to text (RFC 9110 section 12.5.1)."""
    ours = text = 0.0
    for part in accept.lower().split(","):
        kind, *parameters = (item.strip() for item in part.split(";"))
        quality = quality_of(parameters)
        if kind == _KIND and set(parameters) >= _WANTED:
            ours = max(ours, quality)
        elif kind in _TEXTS:
            text = max(text, quality)
    return ours > 0 and ours >= text


def protobuf_exposition(series: Iterable[Series], forms: Forms) -> bytes:
    """Every series, those of a metric in one message, sorted by name."""
    families: dict[str, list[tuple[list[str], Series]]] = {}
    for one in series:
        name, *pairs = one.key.decode("utf-8", "replace").split("\0")
        if one.kind in _TYPES:
            families.setdefault(name, []).append((pairs, one))
    parts: list[bytes] = []
    for name, members in sorted(families.items()):
        made = _family(name, members, forms)
        parts += (_varint(len(made)), made)
    return b"".join(parts)


def _family(name: str, members: list[tuple[list[str], Series]], forms: Forms) -> bytes:
    kind = _TYPES[members[0][1].kind]
    parts = [_text(1, name), _text(2, HELP.get(name, "")), _number(3, kind)]
    for pairs, one in sorted(members, key=lambda member: member[0]):
        labels = [_label(*pair.partition("=")[::2]) for pair in pairs]
        if isinstance(one.value, HistogramValue):
            value = _message(7, _histogram(one.value, forms))
        elif kind in _VALUE_FIELDS:
            value = _message(_VALUE_FIELDS[kind], _double(1, float(one.value)))
        else:
            continue
        parts.append(_message(4, b"".join(labels) + value))
    return b"".join(parts)


def _label(name: str, value: str) -> bytes:
    return _message(1, _text(1, name) + _text(2, value))


def _histogram(value: HistogramValue, forms: Forms) -> bytes:
    classic = forms.classic(value)
    parts = [_number(1, value.observations), _double(2, value.total)]
    native = forms.native(value)
    if classic.bounds or native is None:
        count = 0
        for bound, bucket in zip((*classic.bounds, inf), classic.buckets, strict=True):
            count += bucket
            parts.append(_message(3, _number(1, count) + _double(2, bound)))
    if native is not None:
        parts.append(_native(native))
    return b"".join(parts)


def _native(value: Native) -> bytes:
    parts = [
        _number(5, _zigzag(value.schema)),
        _double(6, value.zero_threshold),
        _number(7, value.zero_count),
    ]
    for offset, length in value.spans():
        parts.append(_message(12, _number(1, _zigzag(offset)) + _number(2, length)))
    parts += [_number(13, _zigzag(delta)) for delta in value.deltas()]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | _FIXED64) + _DOUBLE.pack(value)


def _message(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(data)) + data


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode()) if value else b""
