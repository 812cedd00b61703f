"""The pod sidecar: which connections it captures, and what it does with those in plaintext.

Source: spec istio sections 1.10 and 2.9.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sidecar.config.model.base import Model
from sidecar.config.scalars import Port

_MARKS = 0xFFF
"""Those that the redirect rules compare."""


class SidecarConfig(Model):
    """The gateway is the sidecar of its pod, whose connections are redirected to it (ours)."""

    outbound_port: Port = 15001
    """Where connections of the application are redirected to; 0: they are not captured."""
    inbound_port: Port = 15006
    """Where connections to the application are redirected to; 0: they are not captured."""
    hbone_port: Port = 15008
    """Where tunnels to the application come; 0: none are accepted."""
    socks5_port: Port = 0
    """SOCKS 5 for the application, on 127.0.0.1 alone. Default: none."""
    mode: Literal["strict", "permissive"] = "strict"
    """Strict (default): connections to the application without TLS are closed. Permissive: they
    are let in as far as policies allow."""
    packet_mark: Annotated[int, Field(ge=0, le=_MARKS)] = 1337
    """Tells the sidecar's own packets from the application's; needs CAP_NET_ADMIN. 0: the redirect
    rules tell them apart by user."""
    preserve_source: bool = False
    """Whether the application sees clients' own addresses. Needs CAP_NET_ADMIN and a route."""

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        given = (self.outbound_port, self.inbound_port, self.hbone_port, self.socks5_port)
        ports = [port for port in given if port]
        if not ports:
            raise ValueError("no port is given: nothing would be captured")
        if len(set(ports)) < len(ports):
            raise ValueError("two of the ports are the same")
        if self.preserve_source and not self.packet_mark:
            raise ValueError("`preserveSource` needs `packetMark`: answers are routed by it")
        return self
