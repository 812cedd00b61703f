"""The mesh in one worker: made by the first resource of it, and told of those that change.

Source: design section 1; spec istio sections 2.4 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from sidecar.gateway.mesh import KINDS, Mesh, MeshDialer, MeshGate, WorkerMesh, is_meshed
from sidecar.http.message import Connection
from sidecar.net.bind import Carried
from sidecar.net.listener import Port

Resources = Mapping[str, Mapping[str, Any]]
_TAKEN_BACK: Final = tuple(kind for kind in KINDS if kind != "identity/")
"""A certificate of a configuration that is refused is as good as the one before it."""


@final
class MeshPart:
    """`now` is None while there is nothing of a mesh."""

    def __init__(self, make: Mesh | None, gate: MeshGate, dialer: MeshDialer) -> None:
        """`make`: None for a gateway that knows no mesh."""
        self._make = make
        self._gate = gate
        self._dialer = dialer
        self.now: WorkerMesh | None = None

    def apply(self, changed: Resources, removed: Sequence[str], known: Resources) -> None:
        """Hand the mesh what is its own. `known`: what runs already. Raises: ConfigError."""
        mesh = self.now
        if mesh is None:
            if self._make is None or not is_meshed(changed):
                return
            config = changed.get("static/config") or known["static/config"]
            mesh = self._make.worker(self._gate, config["config"])
            changed = {**known, **changed}
        mesh.apply(
            {key: data for key, data in changed.items() if key.startswith(KINDS)},
            [key for key in removed if key.startswith(KINDS)],
        )
        self.now = self._dialer.mesh = mesh

    def restore(self, changed: Resources, removed: Sequence[str], known: Resources) -> None:
        """Nothing of a configuration that is refused may count in the mesh alone: a policy that it
        would have taken away is in force still."""
        if self.now is None:
            return
        keys = [key for key in (*changed, *removed) if key.startswith(_TAKEN_BACK)]
        before = {key: known[key] for key in keys if key in known}
        self.now.apply(before, [key for key in keys if key not in before])

    def carry(self, bind: str, tunnel: str, connection: Connection) -> Carried | None:
        """See Gate."""
        return None if self.now is None else self.now.carry(bind, tunnel, connection)

    def handed_on(self, own: Port, connection: Connection) -> Port | None:
        """See WorkerMesh."""
        return own if self.now is None else self.now.handed_on(own, connection)
