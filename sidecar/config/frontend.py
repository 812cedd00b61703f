"""Frontend policies, among them those that deprecated keys and the environment still ask for.

Source: spec/config.md sections 1.10 and 8.1 (tracing, logging), and 0.6.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from sidecar.config.certificates import check_versions, cipher_suites
from sidecar.config.payloads import frontend_callout
from sidecar.config.run import Node, Run
from sidecar.config.snapshot import Json
from sidecar.config.targets import host_target
from sidecar.errors import ConfigError

_DEPRECATED = {"accessLog": "config.logging", "tracing": "config.tracing"}
"""Policy that other keys may ask for, and where these are."""
_PORTS = {"http": 80, "https": 443, "grpc": 4317}
_PROTOCOLS = {"grpc": "grpc", "http": "http", "http/protobuf": "http"}
_ENDPOINTS = ("OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def frontend_policies(data: Node, env: Mapping[str, str], run: Run) -> None:
    """Every frontend policy, also those of the deprecated `config.logging` and `.tracing`."""
    given: Node = data.get("frontendPolicies") or {}
    payloads: Json = {kind: payload for kind, payload in given.items() if payload is not None}
    _merge_logging(data, payloads, run)
    _merge_tracing(data, env, payloads, run)
    _check(payloads, run)
    _check_database(data, payloads, run)
    for kind, payload in payloads.items():
        place = f"frontendPolicies.{kind}" if given.get(kind) is not None else _DEPRECATED[kind]
        run.make("frontend", kind, {"policy": payload}, place)


def _check(payloads: dict[str, Any], run: Run) -> None:
    network = payloads.get("networkExtAuthz")
    if network is not None and "http" not in (network.get("protocol") or {}):
        run.problem(
            "frontendPolicies.networkExtAuthz",
            "frontendPolicies.networkExtAuthz only supports protocol.http",
        )
    elif network is not None:
        path = "frontendPolicies.networkExtAuthz"
        payloads["networkExtAuthz"] = frontend_callout(network, path, run)
    tls = payloads.get("tls")
    if tls is not None:
        path = "frontendPolicies.tls"
        check_versions(tls.get("minVersion"), tls.get("maxVersion"), path, run)
        suites = cipher_suites(tls.get("cipherSuites"), f"{path}.cipherSuites", run)
        if suites is not None:
            payloads["tls"] = {**tls, "cipherSuites": suites}
    if payloads.get("tracing") is not None:
        path = "frontendPolicies.tracing"
        payloads["tracing"] = frontend_callout(payloads["tracing"], path, run)


def _check_database(data: Node, payloads: dict[str, Any], run: Run) -> None:
    config: Node = data.get("config") or {}
    database = config.get("database") or (config.get("logging") or {}).get("database")
    if run.known.has_lost("config"):
        return  # it may well say where, and that is what is at fault
    if (payloads.get("accessLog") or {}).get("database") is not None and database is None:
        run.problem(
            "frontendPolicies.accessLog.database",
            "needs a database: config.database.url or config.logging.database.url",
        )


def _merge_logging(data: Node, payloads: Json, run: Run) -> None:
    logging: Node = (data.get("config") or {}).get("logging") or {}
    fields: Node = logging.get("fields") or {}
    add, remove = fields.get("add"), fields.get("remove")
    if logging.get("filter") is None and not add and not remove:
        return
    path = "config.logging"
    if "accessLog" in payloads:
        run.problem(
            path, "cannot use deprecated config.logging together with frontendPolicies.accessLog"
        )
        return
    run.warn(
        path,
        "config.logging.filter and config.logging.fields are deprecated;"
        " use frontendPolicies.accessLog",
    )
    policy = {"filter": logging.get("filter"), "add": add, "remove": remove}
    payloads["accessLog"] = {key: value for key, value in policy.items() if value is not None}


def _merge_tracing(data: Node, env: Mapping[str, str], payloads: dict[str, Any], run: Run) -> None:
    old: Node | None = (data.get("config") or {}).get("tracing")
    path = "config.tracing"
    variable = next((name for name in _ENDPOINTS if env.get(name)), None)
    if "tracing" in payloads:
        if old is not None:
            run.problem(
                path, "cannot use deprecated config.tracing together with frontendPolicies.tracing"
            )
        elif variable is not None:
            run.warn("frontendPolicies.tracing", f"environment variable {variable} is not used")
    else:
        if old is not None:
            run.warn(path, "config.tracing is deprecated; use frontendPolicies.tracing")
        endpoint = env[variable] if variable else (old or {}).get("otlpEndpoint")
        if endpoint:
            where = f"{path}.otlpEndpoint" if variable is None else ""
            payloads["tracing"] = _tracing_policy(old or {}, endpoint, env, where, run)
    if "tracing" in payloads:
        resources = {**_resources(env, run), **(payloads["tracing"].get("resources") or {})}
        payloads["tracing"] = {**payloads["tracing"], "resources": resources}


def _tracing_policy(old: Node, endpoint: str, env: Mapping[str, str], path: str, run: Run) -> Json:
    """The deprecated keys as `frontendPolicies.tracing` has them."""
    policy: Json = {}
    nested: Json = {}
    try:
        policy["host"], has_tls = _endpoint(endpoint)
    except ConfigError as error:
        run.problem(path, f"failed parsing tracing endpoint: {endpoint}: {error.message}")
        policy["host"], has_tls = "localhost:4317", False
    # Values of the file are CEL, as the reference has it; those of the environment are text.
    headers = {**(old.get("headers") or {}), **_headers(env, run)}
    if headers:
        nested["transformations"] = {"request": {"set": headers}}
    if has_tls:
        nested["backendTLS"] = {}
    if nested:
        policy["policies"] = nested
    fields: Node = old.get("fields") or {}
    optional = {
        "attributes": fields.get("add"),
        "remove": fields.get("remove"),
        "randomSampling": old.get("randomSampling"),
        "clientSampling": old.get("clientSampling"),
        "path": old.get("path"),
    }
    policy.update({key: value for key, value in optional.items() if value is not None})
    policy["protocol"] = _protocol(old, env, run)
    return policy


def _endpoint(text: str) -> tuple[str, bool]:
    """`host:port` of an endpoint, and whether it wants TLS. Raises ConfigError."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        host_target(text)
        return text, False
    if scheme not in _PORTS:
        raise ConfigError("", f"unsupported tracing endpoint scheme: {scheme}")
    authority = rest.partition("/")[0]
    if ":" not in authority.rpartition("]")[2]:
        authority = f"{authority}:{_PORTS[scheme]}"
    host_target(authority)
    return authority, scheme == "https"


def _protocol(old: Node, env: Mapping[str, str], run: Run) -> str:
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    given = next((env[name] for name in names if env.get(name)), None)
    protocol = given or old.get("otlpProtocol") or "grpc"
    if protocol not in _PROTOCOLS:
        run.problem("config.tracing.otlpProtocol", f"unsupported OTLP protocol `{protocol}`")
    return _PROTOCOLS.get(protocol, "grpc")


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """`name=value` pairs, comma separated and percent-encoded, as OpenTelemetry writes them.

    Raises ValueError.
    """
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise ValueError("name=value pairs, separated by commas")
        yield unquote(name.strip()), unquote(value.strip())


def _literals(env: Mapping[str, str], variable: str, path: str, run: Run) -> dict[str, str]:
    """Pairs of a variable with each value as a CEL string literal, which JSON's is."""
    try:
        return {name: json.dumps(value) for name, value in _pairs(env.get(variable, ""))}
    except ValueError as error:
        run.problem(path, f"environment variable {variable}: invalid value: {error}")
        return {}


def _headers(env: Mapping[str, str], run: Run) -> dict[str, str]:
    result: dict[str, str] = {}
    for variable in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        result.update(_literals(env, variable, "config.tracing.headers", run))
    return result


def _resources(env: Mapping[str, str], run: Run) -> dict[str, str]:
    """What the environment says about this process; the configuration's `resources` win."""
    result = _literals(env, "OTEL_RESOURCE_ATTRIBUTES", "frontendPolicies.tracing.resources", run)
    if env.get("OTEL_SERVICE_NAME"):
        result["service.name"] = json.dumps(env["OTEL_SERVICE_NAME"])
    return result
