"""The exports of a worker over its configurations: each is replaced when its target changes.

Source: spec/config.md sections 9.2 and 9.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, final

from sidecar.telemetry.export import Export, SpanExport
from sidecar.telemetry.log_export import LogExport

E = TypeVar("E", bound=Export[Any])


@final
class Current(Generic[E]):
    """The export of one signal; those of earlier configurations may still be sending."""

    def __init__(self) -> None:
        self._now: E | None = None
        self._policy: Mapping[str, Any] | None = None
        self._retired: list[E] = []
        self._lost = 0

    def of(self, policy: Mapping[str, Any], make: Callable[[], E]) -> E:
        """The one there is when the policy is as it was, else a new one in its place."""
        if self._now is None or self._policy != policy:
            made = make()
            if self._now is not None:
                self._now.retire()
                self._retired.append(self._now)
            self._now, self._policy = made, dict(policy)
        return self._now

    def lost(self) -> int:
        """Records that reached no collector, since the start."""
        self._lost += sum(one.lost for one in self._retired if not one.is_alive)
        self._retired = [one for one in self._retired if one.is_alive]
        now = 0 if self._now is None else self._now.lost
        return self._lost + now + sum(one.lost for one in self._retired)

    def close(self) -> None:
        """Send what is queued. Blocks: not on the loop."""
        if self._now is not None:
            self._now.close()


@final
class Exports:
    """Of all signals."""

    def __init__(self) -> None:
        self.spans: Current[SpanExport] = Current()
        self.logs: Current[LogExport] = Current()

    def close(self) -> None:
        """See Current."""
        self.spans.close()
        self.logs.close()
