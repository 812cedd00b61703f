"""The gateway's place in a mesh: its certificate, and what it does without one.

Source: spec istio sections 1.2 and 2.4.
"""

from __future__ import annotations

from pydantic import Field

from sidecar.config.model.base import Model
from sidecar.config.model.sidecar import SidecarConfig
from sidecar.config.scalars import FileGlob, FilePath


class WorkloadCertificate(Model):
    """A SPIFFE certificate in files, which are watched: a renewed one holds for new connections."""

    chain: FilePath
    """PEM file of the certificates, the workload's own first."""
    key: FilePath
    """PEM file of the private key."""
    roots: FilePath
    """PEM file of the roots that peers' certificates must lead to."""


class IstioConfig(Model):
    """The mesh (ours)."""

    certificate: WorkloadCertificate | None = None
    """From files. Default: from the certificate authority, if there is one."""
    revocations: FilePath | None = None
    """PEM file of revocation lists, watched, signed by the roots or by the authorities between them
    and our own certificate. Default: none is revoked."""
    plaintext_fallback: bool = False
    """Whether workloads that expect HBONE are called in plaintext while there is no certificate.
    Default false: such a call fails with 503."""
    policy_files: list[FileGlob] = Field(default_factory=list)
    """Files of Istio's AuthorizationPolicy and PeerAuthentication, watched, as `dir/*.yaml`."""
    root_namespace: str | None = None
    """Whose policies without a selector bind the whole mesh. Default istio-system."""
    sidecar: SidecarConfig | None = None
    """The gateway is the sidecar of its pod. Default: it is not."""
