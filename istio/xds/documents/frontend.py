"""Policies of listeners (FrontendPolicySpec) as the file's `frontendPolicies`.

Source: as plain.py; spec config 1.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from istio.errors import ResourceError
from istio.xds._pb import resource_pb2 as pb
from istio.xds.documents.backend import groups
from istio.xds.documents.plain import Converter, Json, Special, given, pairs, reference
from istio.xds.documents.traffic import inline

KINDS: Final[Mapping[str, str]] = {
    "tcp": "tcp",
    "tls": "tls",
    "http": "http",
    "logging": "accessLog",
    "tracing": "tracing",
    "network_authorization": "networkAuthorization",
    "proxy_protocol": "proxyProtocol",
    "connect": "connect",
}
"""Kind of the message → of the file."""
_VERSIONS: Final = {3: "TLS_V1_2", 4: "TLS_V1_3"}


def frontend_policy(of: Converter, spec: pb.FrontendPolicySpec) -> tuple[str, Any]:
    """(kind, payload). Raises: ResourceError."""
    kind = spec.WhichOneof("kind")
    if kind is None or kind not in KINDS:
        raise ResourceError(f"a frontend policy of the kind {kind} is not supported")
    return KINDS[kind], of.plain(getattr(spec, kind))


def tls_version(number: int) -> str | None:
    """Raises: ResourceError."""
    if number and number not in _VERSIONS:
        raise ResourceError(f"TLS version: {number} is not known here")
    return _VERSIONS.get(number)


def suites(numbers: Any) -> list[str]:
    """Names of cipher suites. Raises: ResourceError."""
    try:
        return [str(pb.TLSConfig.CipherSuite.Name(number)) for number in numbers if number]
    except ValueError as error:
        raise ResourceError("a cipher suite that is not known here") from error


def _tls(of: Converter, one: pb.FrontendPolicySpec.TLS) -> Json:
    kind = one.DESCRIPTOR.fields_by_name["key_exchange_groups"].enum_type
    data = given(
        alpn=[list(name.encode()) for name in one.alpn.protocols],
        cipherSuites=suites(one.cipher_suites),
        minVersion=tls_version(one.min_version),
        maxVersion=tls_version(one.max_version),
        keyExchangeGroups=groups(kind, one.key_exchange_groups),
    )
    if one.HasField("handshake_timeout"):
        data["handshakeTimeout"] = of.plain(one.handshake_timeout)
    return data


def _fields(_: Converter, one: pb.FrontendPolicySpec.Logging.Fields) -> Json:
    return given(remove=list(one.remove), add=pairs(one.add, "name", "expression"))


def _provided(of: Converter, one: Any, *left_out: str) -> Json:
    data = of.walked(one, "provider_backend", "inline_policies", *left_out)
    return {**data, **reference(one.provider_backend), **inline(of, one.inline_policies)}


def _logging(of: Converter, one: pb.FrontendPolicySpec.Logging) -> Json:
    data = of.plain(one.fields) | given(filter=one.filter)
    if one.HasField("otlp_access_log"):
        data["otlp"] = _provided(of, one.otlp_access_log)
    return dict(data)


def _tracing(of: Converter, one: pb.FrontendPolicySpec.Tracing) -> Json:
    data = _provided(of, one, "attributes", "resources")
    return data | given(attributes=pairs(one.attributes), resources=pairs(one.resources))


SPECIAL: Final[Mapping[str, Special]] = {
    "FrontendPolicySpec.TLS": _tls,
    "FrontendPolicySpec.Logging": _logging,
    "FrontendPolicySpec.Logging.Fields": _fields,
    "FrontendPolicySpec.Tracing": _tracing,
}
RENAMED: Final[Mapping[str, str]] = {"FrontendPolicySpec.TCP.keepalives": "keepalives"}
