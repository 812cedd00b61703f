"""What is published already, as another control process finds it, and how two snapshots differ.

Source: design section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shm.config import ConfigTable
from sidecar.config.snapshot import Resource, read_header, read_index, read_record
from sidecar.telemetry.debug_trace import RESOURCE as TRACE

LEVELS: Final = "runtime/levels"


def read_running(configs: ConfigTable) -> tuple[dict[str, Resource], str]:
    """The resources that the workers run, and the log levels they were told, if any."""
    _, buffer = configs.read_current()
    read_header(buffer)
    resources = {}
    for record in read_index(buffer):
        kind, _, name = record.key.partition("/")
        resources[record.key] = Resource.of(kind, name, read_record(buffer, record))
    levels = resources.pop(LEVELS, None)
    resources.pop(TRACE, None)  # whoever listened to an earlier process has gone with it
    return resources, "" if levels is None else str(levels.data["spec"])


def difference_of(old: Mapping[str, Resource], new: Mapping[str, Resource]) -> str:
    """`2 added, 1 removed, 3 changed`; empty when nothing is."""
    added = len(new.keys() - old.keys())
    removed = len(old.keys() - new.keys())
    changed = sum(new[key].digest != old[key].digest for key in new.keys() & old.keys())
    counts = ((added, "added"), (removed, "removed"), (changed, "changed"))
    return ", ".join(f"{count} {word}" for count, word in counts if count)
