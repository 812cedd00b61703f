"""What a pod's environment says of its mesh: control plane, authority, place, and what is refused.

Source: spec istio 2.6, 3.5 and 3.7.

What configuration and environment both can say (NAMESPACE, TRUST_DOMAIN, CLUSTER_ID, …) was merged
when the configuration was read (sidecar.config.static); here is the rest. A problem names its
variable, and never repeats what may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, final

from hbone.wire.identity import Identity
from istio.endpoint import SYSTEM, Endpoint
from istio.errors import IstioError
from sidecar.config.scalars import duration_ns
from sidecar.errors import ConfigError

_T = TypeVar("_T")
_ROOT: Final = Path("/")
"""Where the reference's relative default paths begin, as its image's working directory."""
_XDS_TOKEN: Final = "var/run/secrets/xds-tokens/xds-token"  # noqa: S105 # where it is
_XDS_ROOTS: Final = "var/run/secrets/xds/root-cert.pem"
_CA_TOKEN: Final = "var/run/secrets/tokens/istio-token"  # noqa: S105 # where it is
_CA_ROOTS: Final = "var/run/secrets/istio/root-cert.pem"
_DAY_SECONDS: Final = 24 * 3600
_MAX_TTL_SECONDS: Final = 90 * _DAY_SECONDS
_HEADER = re.compile(r"[A-Za-z0-9_]+").fullmatch

REFUSED: Final[Mapping[str, str]] = {
    "TLS12_ENABLED": "tunnels are TLS 1.3 alone",
    "COMPLIANCE_POLICY": "the key exchange of TLS cannot be chosen",
    "XDS_ON_DEMAND": "everything is subscribed to",
    "PACKET_MARK": "it is config.istio.sidecar.packetMark",
    "FAKE_CA": "there is no authority without a control plane; use config.istio.certificate",
}
"""What would change a promise that is not ours to change, where the variable asks for it."""
_OFF: Final = frozenset(("", "0", "false"))


@final
@dataclass(frozen=True, slots=True)
class Environment:
    """`xds`, `ca`: None where there is none."""

    xds: Endpoint | None = None
    ca: Endpoint | None = None
    identity: Identity | None = None
    """What the authority is asked for; None without one."""
    ttl_seconds: int = _DAY_SECONDS
    """Of the certificates that are asked for."""


def parse(env: Mapping[str, str], config: Mapping[str, Any], root: Path = _ROOT) -> Environment:
    """`config`: the section of that name. `root`: where default paths begin.

    Raises: ConfigError, its path the variable's or the key's name.
    """
    for variable, reason in REFUSED.items():
        if env.get(variable, "").lower() not in _OFF:
            raise ConfigError(variable, f"cannot be honoured: {reason}")
    xds = _endpoint(env, config, "XDS", "xds", root, (_XDS_TOKEN, _XDS_ROOTS))
    ca = _endpoint(env, config, "CA", "ca", root, (_CA_TOKEN, _CA_ROOTS))
    return Environment(
        xds,
        ca,
        None if ca is None else _identity(config),
        _given(env, "SECRET_TTL", _ttl, _DAY_SECONDS),
    )


def _given(
    env: Mapping[str, str], variable: str, parse_text: Callable[[str], _T], default: _T
) -> _T:
    """An empty variable counts as unset."""
    text = env.get(variable)
    if not text:
        return default
    try:
        return parse_text(text)
    except ValueError as error:
        raise ConfigError(variable, f"invalid value: {error}") from error


def _endpoint(
    env: Mapping[str, str],
    config: Mapping[str, Any],
    prefix: str,
    key: str,
    root: Path,
    defaults: tuple[str, str],
) -> Endpoint | None:
    variable = f"{prefix}_ADDRESS"
    address = env.get(variable) or config.get(f"{key}Address") or ""
    if not address:
        return None
    where = variable if env.get(variable) else f"config.{key}Address"
    token, roots = (root / default for default in defaults)
    try:
        return Endpoint(
            # istiod gives it as `host:port`.
            address if "://" in address else f"https://{address}",
            env.get(f"{prefix}_ROOT_CA") or (str(roots) if roots.is_file() else SYSTEM),
            _token(env, config, prefix, key, token),
            env.get(f"ALT_{prefix}_HOSTNAME") or None,
            config.get("clusterId") or "",
            _headers(env, f"{prefix}_HEADER_"),
        )
    except IstioError as error:
        raise ConfigError(where, str(error)) from error


def _token(
    env: Mapping[str, str], config: Mapping[str, Any], prefix: str, key: str, default: Path
) -> str | None:
    variable = f"{prefix}_AUTH_TOKEN"
    # The section has the variable's value, where there is one.
    given = env.get(variable) or config.get(f"{key}AuthToken")
    if not given:
        return str(default) if default.is_file() else None
    path = given.get("file") if isinstance(given, Mapping) else given
    if not isinstance(path, str) or "\n" in path or not _is_file(path):
        where = variable if env.get(variable) else f"config.{key}AuthToken"
        # Without the value: it may be a token.
        raise ConfigError(where, "expected the path of a token file, not a token")
    return path


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False  # a token is longer than a name may be


def _headers(env: Mapping[str, str], prefix: str) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for variable, value in sorted(env.items()):
        name = variable.removeprefix(prefix)
        if name == variable or not name:
            continue
        if not _HEADER(name) or not value.isascii() or not value.isprintable():
            raise ConfigError(variable, "neither a header's name nor its value may look so")
        found.append((name.lower().replace("_", "-"), value))
    return tuple(found)


def _identity(config: Mapping[str, Any]) -> Identity:
    """Who we are to the authority, which compares it with the token."""
    namespace, account = config.get("namespace"), config.get("serviceAccount")
    for variable, value in (("NAMESPACE", namespace), ("SERVICE_ACCOUNT", account)):
        if not value:
            raise ConfigError(variable, "must be set where there is a CA_ADDRESS")
        if "/" in value or any(character.isspace() for character in value):
            raise ConfigError(variable, "is no name")
    return Identity(config.get("trustDomain") or "cluster.local", str(namespace), str(account))


def _ttl(text: str) -> int:
    seconds = duration_ns(text) // 1_000_000_000
    if not 60 <= seconds <= _MAX_TTL_SECONDS:
        raise ValueError("must be 1 minute to 90 days")
    return seconds
