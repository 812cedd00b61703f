"""Services and workloads written in the file rather than discovered.

Source: spec config section 1.7.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from sidecar.config.model.base import OPEN, Model, NotYet
from sidecar.config.scalars import Hostname, Port, Uint32

PortMap = dict[str, Port]
"""Port of the service → port of the workload; YAML keys are text."""


class Service(Model):
    """A name for a set of workloads."""

    model_config = OPEN

    name: str
    """Its name."""
    namespace: str
    """Its name space."""
    hostname: Hostname
    """What references call it, as `namespace/hostname`."""
    vips: list[str] = Field(default_factory=list)
    """`network/ip`."""
    ports: PortMap = Field(default_factory=dict)
    """The ports."""
    app_protocols: dict[str, str] = Field(default_factory=dict)
    """Port of the service → what is spoken there, as `agentgateway.dev/a2a`."""


class Workload(Model):
    """An endpoint of services."""

    model_config = OPEN

    uid: str | None = None
    """Default: its name."""
    name: str | None = None
    """Default: its uid."""
    namespace: str
    """Its name space."""
    workload_ips: list[str] = Field(default_factory=list)
    """Its addresses."""
    hostname: str | None = None
    """A name to resolve in place of addresses."""
    network: str = ""
    """Default: the only network."""
    protocol: Annotated[str, NotYet("HBONE", ("HBONE",))] = "TCP"
    """TCP (default) or HBONE."""
    capacity: Uint32 = 1
    """Share of the load. Default 1."""
    locality: Any = None
    """Where it is."""
    node: str | None = None
    """The machine it is on."""
    cluster_id: str | None = None
    """The cluster it is in."""
    services: dict[str, PortMap] = Field(default_factory=dict)
    """`namespace/hostname` → ports."""
