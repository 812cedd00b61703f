"""Where this process is, of the environment that its deployment gives it.

Source: spec istio 3.7 (LOCALITY, NODE_NAME, CLUSTER_ID, NETWORK).

Apart from `environment`, which needs gRPC: workers do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from istio.workload import Place
from sidecar.errors import ConfigError


def place_of(env: Mapping[str, str], config: Mapping[str, Any]) -> Place:
    """`config`: the section of that name. Raises: ConfigError."""
    parts = (env.get("LOCALITY") or "").split("/")
    if len(parts) > 3 or (len(parts) > 1 and not parts[0]):
        raise ConfigError("LOCALITY", "invalid value: expected region/zone/subzone")
    region, zone, subzone = (*parts, "", "")[:3]
    cluster = config.get("clusterId") or "Kubernetes"
    return Place(
        region, zone, subzone, env.get("NODE_NAME") or "", cluster, config.get("network") or ""
    )
