"""The three fields by which proxies tell each other what a tunnel is about.

Source: spec istio 1.4; W3C Baggage section 3.2; W3C Trace Context section 3.2; RFC 7239.

They are hints for logs, metrics and labels: the peer's identity is its certificate's, never a
field's. What does not parse is therefore left out, not refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

_WORKLOAD_KINDS: Final = ("deployment", "cronjob", "job", "pod")
_KINDS: Final = {f"k8s.{kind}.name": kind for kind in _WORKLOAD_KINDS}
_MEMBERS: Final = {
    "k8s.cluster.name": "cluster",
    "k8s.namespace.name": "namespace",
    "service.name": "service",
    "service.version": "version",
    "cloud.region": "region",
    "cloud.availability_zone": "zone",
}
_SAFE = re.compile(r"[!#-+\--:<-\[\]-~]+").fullmatch
_TRACE = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch
_FOR = re.compile(r'"?(\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::([0-9]{1,5}))?"?').fullmatch


@final
@dataclass(frozen=True, slots=True)
class Baggage:
    """A workload as it describes itself; empty for unknown.

    `kind`: deployment, cronjob, job or pod.
    """

    cluster: str = ""
    namespace: str = ""
    kind: str = ""
    workload: str = ""
    service: str = ""
    version: str = ""
    region: str = ""
    zone: str = ""

    def encode(self) -> bytes:
        """The field's value, b"" when nothing is known. Unset members are left out, and so is a
        value that could not stand in the field as it is."""
        pairs = [("k8s.cluster.name", self.cluster), ("k8s.namespace.name", self.namespace)]
        if self.kind in _WORKLOAD_KINDS:
            pairs.append((f"k8s.{self.kind}.name", self.workload))
        pairs += [
            ("service.name", self.service),
            ("service.version", self.version),
            ("cloud.region", self.region),
            ("cloud.availability_zone", self.zone),
        ]
        return ",".join(f"{key}={value}" for key, value in pairs if _SAFE(value)).encode()


def parse_baggage(values: Iterable[bytes]) -> Baggage:
    """Every `baggage` line of a message together; unknown keys are passed over, the last one of a
    key counts."""
    found: dict[str, str] = {}
    for line in values:
        for member in line.decode("utf-8", "replace").split(","):
            key, mark, value = member.partition("=")
            key = key.strip()
            value = value.partition(";")[0].strip()
            if not mark or not value:
                continue
            if key in _MEMBERS:
                found[_MEMBERS[key]] = value
            elif key in _KINDS:
                found["kind"], found["workload"] = _KINDS[key], value
    return Baggage(**found)


@final
@dataclass(frozen=True, slots=True)
class Forwarded:
    """`client`: the application's own address as `ip:port`; `host`: the service it had called."""

    client: str = ""
    host: str = ""

    def encode(self) -> bytes:
        """The field's value."""
        text = f'for="{self.client}"'
        return (f"{text};host={self.host}" if self.host else text).encode("ascii", "replace")


def parse_forwarded(values: Iterable[bytes]) -> Forwarded:
    """The first element of the first line; members that do not parse are empty."""
    client = host = ""
    line = next(iter(values), b"").partition(b",")[0]
    if not line.isascii():
        return Forwarded()
    for pair in line.decode().split(";"):
        key, _, value = pair.partition("=")
        value = value.strip()
        match key.strip().lower():
            case "for" if _FOR(value):
                client = value.strip('"')
            case "host":
                host = value.strip('"').lower()
            case _:
                continue
    return Forwarded(client, host)


def parse_traceparent(value: bytes) -> tuple[bytes, bytes] | None:
    """Trace id (16 octets) and parent id (8), None when a new trace is to be begun."""
    found = _TRACE(value) if len(value) == 55 else None
    if found is None:
        return None
    trace, parent = bytes.fromhex(found[1].decode()), bytes.fromhex(found[2].decode())
    return (trace, parent) if any(trace) and any(parent) else None


def encode_traceparent(trace_id: bytes, parent_id: bytes) -> bytes:
    """Of 16 and 8 random octets; not sampled, as Istio's proxies write it."""
    assert len(trace_id) == 16
    assert len(parent_id) == 8
    return f"00-{trace_id.hex()}-{parent_id.hex()}-00".encode()
