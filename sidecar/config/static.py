"""The `config` section: defaults filled in, and what the environment overrides.

Source: spec/config.md section 8.1.
"""

from __future__ import annotations

import copy
import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from sidecar.config.model.static import sqlite_path
from sidecar.config.run import Node
from sidecar.config.scalars import duration_ns
from sidecar.config.snapshot import Json
from sidecar.config.svid import VARIABLE
from sidecar.errors import ConfigError

DEFAULTS: Json = {
    "enableIpv6": True,
    "dns": {"lookupFamily": "Auto", "edns0": None},
    "modelCatalog": [],
    "storage": {"mode": "file"},
    "trustDomain": "cluster.local",
    "additionalTrustDomains": "",
    "skipValidateTrustDomain": False,
    "clusterId": "Kubernetes",
    "network": "",
    "adminAddr": "localhost:15000",
    "histograms": "classic",
    "mcp": {"sessionTtl": "30m"},
    "sensitiveHeaders": [],
    "customFunctions": "",
    "connectionMinTerminationDeadline": "0s",
    "workerThreads": "auto",
    "logging": {"level": "info", "format": "text"},
    "metrics": {"remove": [], "fields": {"add": {}}},
    "backend": {
        "keepalives": {"enabled": True, "time": "3m0s", "interval": "3m0s", "retries": 9},
        "connectTimeout": "10s",
        "poolIdleTimeout": "1m30s",
        "poolMaxSize": None,
    },
    "hbone": {
        "windowSize": 4 * 1024 * 1024,
        "connectionWindowSize": 16 * 1024 * 1024,
        "frameSize": 1024 * 1024,
        "poolMaxStreamsPerConn": 100,
        "poolUnusedReleaseTimeout": "5m",
    },
    "state": {"rateKeys": 100_000, "keep": False},
}
"""Without those that depend on others: see `_derived`."""

_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)%")
_LOOKUP_FAMILIES = ("All", "Auto", "V4Preferred", "V4Only", "V6Only")
_MAX_U32 = 2**32 - 1
_MAX_KEYS = 100_000_000

Parse = Callable[[str], Any]
"""Text of a variable to the value of a key. Raises ValueError with what would be right."""


def _text(value: str) -> str:
    return value


def _session_key(value: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError("64 hexadecimal digits")
    return value


def _flag(value: str) -> bool:
    flags = {"true": True, "1": True, "false": False, "0": False}
    if value.lower() not in flags:
        raise ValueError("true or false")
    return flags[value.lower()]


def _size(value: str) -> int:
    if not (value.isascii() and value.isdigit()) or int(value[:11]) > _MAX_U32:
        raise ValueError(f"a whole number up to {_MAX_U32}")
    return int(value)


def _duration(value: str) -> str:
    duration_ns(value)
    return value


def _family(value: str) -> str:
    if value not in _LOOKUP_FAMILIES:
        raise ValueError(f"one of {', '.join(_LOOKUP_FAMILIES)}")
    return value


def _format(value: str) -> str:
    if value.lower() not in ("text", "json"):
        raise ValueError("text or json")
    return value.lower()


def _door(value: str) -> str:
    if value not in ("auto", "granian", "native"):
        raise ValueError("auto, granian or native")
    return value


def _threads(value: str) -> int | str:
    if value == "auto" or _PERCENT.fullmatch(value):
        return value
    if not (value.isascii() and value.isdigit()) or not 0 < int(value[:5]) <= 1024:
        raise ValueError("auto, a number from 1 to 1024, or a percentage")
    return int(value)


def _keys(value: str) -> int:
    if not (value.isascii() and value.isdigit()) or not 0 < int(value[:11]) <= _MAX_KEYS:
        raise ValueError(f"a number from 1 to {_MAX_KEYS}")
    return int(value)


def _address(value: str) -> str:
    """`ip:port`, `localhost:port`, `unix:/path` or `off`."""
    host, _, port = value.rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port[:6]) < 65536
    if value == "off" or value.startswith("unix:/") or (is_port and _is_address(host)):
        return value
    raise ValueError("ip:port, localhost:port, unix:/path or off")


def _is_address(host: str) -> bool:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in bare and bare == host:
        return False
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return host == "localhost"
    return True


def _workload_api(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme == "unix" and not parts.netloc and len(parts.path) > 1 and parts.path[0] == "/":
        return value
    if parts.scheme == "tcp" and parts.hostname and parts.port and not parts.path.strip("/"):
        return value
    raise ValueError("unix:///path or tcp://ip:port")


ENVIRONMENT: tuple[tuple[str, str, Parse], ...] = (
    ("IPV6_ENABLED", "enableIpv6", _flag),
    ("DNS_LOOKUP_FAMILY", "dns.lookupFamily", _family),
    ("DNS_EDNS0", "dns.edns0", _flag),
    ("CA_AUTH_TOKEN", "caAuthToken", _text),
    ("XDS_AUTH_TOKEN", "xdsAuthToken", _text),
    ("NAMESPACE", "namespace", _text),
    ("GATEWAY", "gateway", _text),
    ("TRUST_DOMAIN", "trustDomain", _text),
    ("ADDITIONAL_TRUST_DOMAINS", "additionalTrustDomains", _text),
    ("SKIP_VALIDATE_TRUST_DOMAIN", "skipValidateTrustDomain", _flag),
    ("SERVICE_ACCOUNT", "serviceAccount", _text),
    ("CLUSTER_ID", "clusterId", _text),
    ("NETWORK", "network", _text),
    ("ADMIN_ADDR", "adminAddr", _address),
    ("STATS_ADDR", "statsAddr", _address),
    ("READINESS_ADDR", "readinessAddr", _address),
    ("CONNECTION_MIN_TERMINATION_DEADLINE", "connectionMinTerminationDeadline", _duration),
    ("CONNECTION_TERMINATION_DEADLINE", "connectionTerminationDeadline", _duration),
    ("WORKER_THREADS", "workerThreads", _threads),
    ("FRONT_DOOR", "frontDoor", _door),
    ("STATE_RATE_KEYS", "state.rateKeys", _keys),
    ("STATE_KEEP", "state.keep", _flag),
    ("STATE_BUDGET_KEYS", "state.budgetKeys", _keys),
    ("STATE_JOURNAL", "state.journal", _text),
    ("CRL_PATH", "istio.revocations", _text),
    ("HTTP2_STREAM_WINDOW_SIZE", "hbone.windowSize", _size),
    ("HTTP2_CONNECTION_WINDOW_SIZE", "hbone.connectionWindowSize", _size),
    ("HTTP2_FRAME_SIZE", "hbone.frameSize", _size),
    ("POOL_MAX_STREAMS_PER_CONNECTION", "hbone.poolMaxStreamsPerConn", _size),
    ("POOL_UNUSED_RELEASE_TIMEOUT", "hbone.poolUnusedReleaseTimeout", _duration),
    ("SESSION_KEY", "session.key", _session_key),
    ("RUST_LOG", "logging.level", _text),
    ("LOG_FORMAT", "logging.format", _format),
)
"""Variable, key it overrides, and how it is read. An empty variable counts as unset."""

NOT_BUILT: Mapping[str, str] = {
    "LOCAL_XDS_PATH": "configuration file beside the main one",
    "UI_READ_ONLY": "UI",
}
"""Variable and the feature it asks for, which is refused as its key in the file is.

Not those that only say where the gateway runs: a pod sets them whether or not they are used.
"""

_CHECKS: tuple[tuple[str, Parse], ...] = (
    ("adminAddr", _address),
    ("statsAddr", _address),
    ("readinessAddr", _address),
    ("connectionMinTerminationDeadline", _duration),
    ("connectionTerminationDeadline", _duration),
    ("workerThreads", _threads),
    ("session.key", _session_key),
    ("spiffe.endpoint", _workload_api),
)
"""Values of the file whose form the schema does not say."""


def static_config(
    data: Node, env: Mapping[str, str], problems: list[ConfigError] | None = None
) -> Json:
    """The `config` section of the document `data`, with defaults and the environment applied.

    The deprecated `tracing` and `logging.filter`/`fields` are left out: they become frontend
    policies. Problems are appended when a list is given; else the first is raised as ConfigError.
    That of a variable in NOT_BUILT has the variable's name for its path.
    """
    found: list[ConfigError] = [] if problems is None else problems
    given: Json = {
        key: value for key, value in (data.get("config") or {}).items() if key != "tracing"
    }
    config = _merged(DEFAULTS, given)
    for key in ("filter", "fields"):
        config["logging"].pop(key, None)
    for key, parse in _CHECKS:
        value = _get(given, key)
        if value is not None:
            _set(config, key, _parsed(str(value), parse, f"config.{key}", "", found))
    for variable, feature in NOT_BUILT.items():
        if env.get(variable):
            found.append(ConfigError(variable, f"not supported yet ({feature})"))
    for variable, key, parse in ENVIRONMENT:
        value = env.get(variable)
        if value:
            parsed = _parsed(value, parse, f"config.{key}", variable, found)
            if parsed is not None:
                _set(config, key, parsed)
    _derive(config, env, found)
    if problems is None and found:
        raise found[0]
    return config


def _parsed(value: str, parse: Parse, path: str, variable: str, found: list[ConfigError]) -> Any:
    """The value, or None with a problem. No text that may be a secret goes through here."""
    try:
        return parse(value)
    except ValueError as error:
        source = f"environment variable {variable}: " if variable else ""
        found.append(ConfigError(path, f"{source}invalid value: {error}"))
        return None


def _merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` over `defaults`, map by map; null in the file means the default."""
    result = copy.deepcopy(dict(defaults))
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value)
        elif value is not None:
            result[key] = copy.deepcopy(value)
    return result


def _get(config: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.rpartition(".")
    return (config.get(section) or {}).get(name) if section else config.get(name)


def _set(config: Json, key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    if not section:
        config[name] = value
        return
    inner = config.setdefault(section, {})
    assert isinstance(inner, dict)
    inner[name] = value


def _derive(config: dict[str, Any], env: Mapping[str, str], found: list[ConfigError]) -> None:
    """Defaults that depend on another key or on the pod."""
    wildcard = "[::]" if config["enableIpv6"] else "0.0.0.0"
    for key, port in (("statsAddr", 15020), ("readinessAddr", 15021)):
        if config.get(key) is None:
            config[key] = f"{wildcard}:{port}"
    if config.get("connectionTerminationDeadline") is None:
        config["connectionTerminationDeadline"] = _termination_deadline(env, found)
    workload_api = env.get(VARIABLE)
    if workload_api and config.get("spiffe") is not None and not _get(config, "spiffe.endpoint"):
        # Only where the file speaks of SPIFFE: a pod may have the variable for another program.
        parsed = _parsed(workload_api, _workload_api, "config.spiffe.endpoint", VARIABLE, found)
        _set(config, "spiffe.endpoint", parsed)
    database = sqlite_path(_get(config, "database.url"))
    if database is not None and config["state"].get("journal") is None:
        # Not in the file itself: it may be the reference's, whose tables are its own.
        config["state"]["journal"] = f"{database}.budgets"
    limit = env.get("CPU_LIMIT", "")
    if not limit:
        return
    cpus = _parsed(limit, _size, "config.workerThreads", "CPU_LIMIT", found)
    percent = _PERCENT.fullmatch(str(config["workerThreads"]))
    if cpus and percent:
        config["workerThreads"] = max(1, math.ceil(cpus * float(percent[1]) / 100))
    elif cpus and config["workerThreads"] == "auto":
        config["workerThreads"] = cpus


def _termination_deadline(env: Mapping[str, str], found: list[ConfigError]) -> str:
    """Five seconds, or what the pod's grace period leaves for ending after the drain."""
    variable = "TERMINATION_GRACE_PERIOD_SECONDS"
    if not env.get(variable):
        return "5s"
    path = "config.connectionTerminationDeadline"
    grace = _parsed(env[variable], _size, path, variable, found)
    if grace is None:
        return "5s"
    return f"{max(1, grace - (5 if grace > 10 else 1))}s"
