"""Turns the resources of a snapshot into a Gateway, in slices between which the event loop runs.

Source: design section 2; spec/config.md sections 2 and 3.3.

When nothing but routes changed, only those are compiled and put into copies of the tables that
hold them; everything else is shared with the Gateway that runs. Any other change compiles all.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any, Final, final

from sidecar.config.svid import KEY as SVID
from sidecar.gateway.binds import KeptTls
from sidecar.gateway.build import Build, keeps_cookies
from sidecar.gateway.discovered import KEYS as DISCOVERED
from sidecar.gateway.plan import Gateway
from sidecar.gateway.surroundings import Surroundings
from sidecar.net.svid import Svid
from sidecar.policies.kept import KeptKeys

Data = Mapping[str, Any]
_PATCHED: Final = ("route/", *DISCOVERED)
"""Beginnings of keys a change of which leaves most as it is."""
_UNCOMPILED: Final = ("runtime/", "identity/", SVID)


@final
class Compiler:
    """Keeps the decoded resources of the running snapshot and compiles what changed."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._keys = KeptKeys(surroundings.backlog.add)
        self._data: dict[str, Data] = {}
        self._tls: KeptTls = {}
        self._build: Build | None = None
        self._gateway: Gateway | None = None

    @property
    def resources(self) -> Mapping[str, Data]:
        """Those of the running snapshot."""
        return self._data

    def compile(
        self, generation: int, changed: Mapping[str, Data], removed: Iterable[str]
    ) -> Generator[None, None, Gateway]:
        """A generator that returns the Gateway. Raises ConfigError; then nothing changed."""
        gone = tuple(removed)
        data = self._data.copy()
        for key in gone:
            data.pop(key, None)
        data.update(changed)
        yield
        svids = self._around.svids
        svid = Svid.from_data(changed[SVID]) if SVID in changed else None
        is_rotated = svid is not None or SVID in gone
        # Nothing is compiled of these: certificates are the mesh's own, or made contexts of later.
        gone = tuple(key for key in gone if not key.startswith(_UNCOMPILED))
        changed = {key: one for key, one in changed.items() if not key.startswith(_UNCOMPILED)}
        is_small = all(key.startswith(_PATCHED) for key in (*changed, *gone))
        patched: Gateway | None = None
        build = self._build
        if (
            self._gateway is not None
            and build is not None
            and is_small
            and (build.strips_cookies or not keeps_cookies(changed.values()))
        ):
            # If this fails, what was changed already is made anew with the next configuration.
            self._build = None
            patched = yield from build.changed(self._gateway, generation, changed, gone, data)
            self._build = build
        if patched is not None:
            gateway = patched
        else:
            made = Build(self._around, data, self._tls, self._keys)
            gateway = yield from made.gateway(generation)
            self._build = made
        self._data = data
        self._gateway = gateway
        if is_rotated:
            svids.put(svid)
        return gateway

    def undo(self, resources: Mapping[str, Data]) -> None:
        """What was compiled does not run after all. `resources`: the property's, as before."""
        if self._data is not resources:
            self._data = dict(resources)
            self._build = self._gateway = None  # of what does not run: the next one compiles all

    def close(self) -> None:
        """Fetch nothing more for what was compiled."""
        self._keys.close()
