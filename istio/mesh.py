"""The mesh as the gateway sees it; the command line hands it in.

Source: design section 1.

What it takes is loaded when it is first used: a gateway outside a mesh starts without it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, final

from sidecar.config.snapshot import Resource
from sidecar.errors import ConfigError
from sidecar.gateway.mesh import ControlMesh, MeshGate, WorkerMesh, is_meshed

Data = Mapping[str, Any]


@final
class Istio:
    """See sidecar.gateway.mesh.Mesh."""

    def bring(self, resources: Mapping[str, Resource]) -> None:
        """See Mesh."""
        data = {key: one.data for key, one in resources.items()}
        config: Any = data["static/config"]["config"]
        if is_meshed(data) or _is_told(config):
            import_module("istio.worker")

    def worker(self, gate: MeshGate, config: Data) -> WorkerMesh:
        """See Mesh."""
        from istio.worker import Worker

        return Worker(gate, config)

    def control(self, config: Data, known: Mapping[str, Resource]) -> ControlMesh | None:
        """See Mesh."""
        own = config.get("istio") or {}
        spiffe = (config.get("spiffe") or {}).get("endpoint") or ""
        if not _is_told(config) and not spiffe:
            return None
        # Read when gRPC is loaded, which would tell of handshakes in lines of its own.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        from istio.control import Control
        from istio.environment import parse
        from istio.errors import CaError, IstioError
        from istio.xds.node import node_of
        from sidecar.gateway.check import resource_check

        environment = parse(os.environ, config)
        is_pod = own.get("sidecar") is not None
        try:
            # The section of the file says it where the environment does not.
            given = {name: str(config[key]) for name, key in _NODE if config.get(key)}
            env = {**os.environ, **given}
            node = None if environment.xds is None else node_of(env, is_pod=is_pod)
        except IstioError as error:
            raise ConfigError("config", str(error)) from error
        try:
            return Control(
                environment,
                node,
                known,
                spiffe_socket=spiffe,
                has_file=own.get("certificate") is not None,
                is_pod=is_pod,
                check=resource_check(config),
            )
        except CaError as error:
            raise ConfigError("config.spiffe.endpoint", str(error)) from error


def _is_told(config: Data) -> bool:
    """Whether somebody is to be asked what the mesh is."""
    return any(config.get(key) for key in ("xdsAddress", "caAddress")) or any(
        os.environ.get(name) for name in ("XDS_ADDRESS", "CA_ADDRESS")
    )


_NODE: Final = (
    ("NAMESPACE", "namespace"),
    ("GATEWAY", "gateway"),
    ("CLUSTER_ID", "clusterId"),
    ("NETWORK", "network"),
    ("SERVICE_ACCOUNT", "serviceAccount"),
)
"""Variables whose values the configuration may have, and which win over it there already."""
