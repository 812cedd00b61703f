"""Binds of a controller, each made together with its listeners.

Design note
-----------
A bind of the snapshot lists its listeners, and what may stand together is judged as a whole, so a
bind and its listeners are made together, whenever one of them changes. One that has a fault is put
back to what it was before, or left out, until the rest has none. A listener whose bind has not come
makes nothing yet.

Source: spec istio 3.8; spec config 1.1 to 1.4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, final

from istio.errors import ResourceError
from istio.xds._pb import resource_pb2 as pb
from istio.xds.documents import routes as documents
from istio.xds.documents.checking import checked, key_of, run_of
from istio.xds.documents.plain import Json
from sidecar.config.attach import binds
from sidecar.config.model.listeners import Bind
from sidecar.config.routes import RouteMaker
from sidecar.config.run import Run
from sidecar.config.snapshot import Resource
from sidecar.errors import ConfigError

Made = tuple[Resource, ...]
_LISTENER: Final = re.compile(r"binds\[0\]\.listeners\[(\d+)\]").match


@final
class Fronts:
    """Binds and listeners as they were sent. See the design note."""

    def __init__(self, check: Callable[[Resource], None]) -> None:
        """`check`: raises ConfigError for a resource that cannot be run."""
        self._check = check
        self._sent: dict[str, Any] = {}
        self._good: dict[str, Any] = {}
        """Of each name, what was made last without a fault."""
        self._fresh: set[str] = set()
        """Names sent since the last settlement."""
        self._touched: dict[str, None] = {}
        """Keys of binds to be made again."""
        self._made: dict[str, set[str]] = {}
        """Key of a bind to the names that made something of it."""

    def copy(self) -> Fronts:
        """As it is now; messages are shared, and never changed."""
        other = Fronts(self._check)
        other._sent, other._good = dict(self._sent), dict(self._good)
        other._fresh, other._touched = set(self._fresh), dict(self._touched)
        other._made = {key: set(names) for key, names in self._made.items()}
        return other

    def __contains__(self, name: str) -> bool:
        return name in self._sent

    def put(self, name: str, message: Any) -> None:
        """A bind or a listener was sent, by its name in the control plane."""
        self.drop(name, is_final=False)
        self._sent[name] = message
        self._fresh.add(name)
        self._touched[_bind_key(message)] = None

    def drop(self, name: str, *, is_final: bool = True) -> None:
        """It is gone; `is_final`: for good, so that nothing puts it back."""
        before = self._sent.pop(name, None)
        self._fresh.discard(name)
        if before is not None:
            self._touched[_bind_key(before)] = None
        if is_final:
            self._good.pop(name, None)

    def settle(self, refused: dict[str, str]) -> Iterable[tuple[str, Made]]:
        """(name, what it makes) of everything on binds that were touched; notes refusals."""
        result: dict[str, Made] = {}
        while self._touched:
            key = next(iter(self._touched))
            del self._touched[key]
            made, faults = self._make(key)
            if faults:
                self._put_back(key, faults, refused)
                continue
            for name in self._made.pop(key, set()) - made.keys():
                result.setdefault(name, ())
            self._made[key] = set(made)
            for name, resources in made.items():
                result[name] = resources
                self._good[name] = self._sent[name]
        self._fresh.clear()
        return result.items()

    def _put_back(self, key: str, faults: Mapping[str, str], refused: dict[str, str]) -> None:
        self._touched[key] = None
        for name, reason in self._culprits(key, faults).items():
            refused.setdefault(name, reason)
            self._fresh.discard(name)
            bad = self._sent.pop(name)
            good = self._good.pop(name, None)
            if good is not None and good is not bad:
                self._sent[name] = good
                self._touched[_bind_key(good)] = None

    def _culprits(self, key: str, faults: Mapping[str, str]) -> Mapping[str, str]:
        """Who is put back: of this update if at all, since what was good before it stays so."""
        own = {name: reason for name, reason in faults.items() if name in self._fresh}
        if own:
            return own
        fresh = [name for name in self._fresh if _bind_key(self._sent[name]) == key]
        text = "; ".join(f"{name}: {reason}" for name, reason in faults.items())
        return dict.fromkeys(fresh, text) or faults

    def _make(self, key: str) -> tuple[dict[str, Made], dict[str, str]]:
        """What the bind and its listeners make, and which of them are at fault."""
        own = [(name, one) for name, one in self._sent.items() if _bind_key(one) == key]
        heads = [(name, one) for name, one in own if isinstance(one, pb.Bind)]
        if not heads:
            return {}, {}
        (head, bind), *others = heads
        if others or not key:
            reason = "key is missing" if not key else f"{head} is the bind {key} already"
            return {}, {name: reason for name, _ in (others or heads)}
        twice = _twice(own)
        if twice:
            return {}, twice
        taken = self._owner_of_port(bind.port, key)
        if taken:
            return {}, {head: f"{taken} has port {bind.port} already"}
        listeners = [(name, one) for name, one in own if isinstance(one, pb.Listener)]
        try:
            return self._normalised(head, bind, listeners), {}
        except _AtFaultError as error:
            return {}, error.faults

    def _owner_of_port(self, port: int, key: str) -> str:
        for name in self._good:
            one = self._sent.get(name)
            if isinstance(one, pb.Bind) and one.port == port and one.port and one.key != key:
                return name
        return ""

    def _normalised(
        self, head: str, bind: pb.Bind, listeners: Sequence[tuple[str, pb.Listener]]
    ) -> dict[str, Made]:
        """Raises: _AtFaultError."""
        document, faults = _documents(head, bind, listeners)
        if faults:
            raise _AtFaultError(faults)
        problems: list[ConfigError] = []
        run = run_of(document, problems)
        try:
            entry = checked(Bind, document)
        except ResourceError as error:
            raise _AtFaultError(_placed(head, listeners, [f"binds[0].{error}"])) from error
        binds({"binds": [entry]}, RouteMaker(), run)
        if problems:
            raise _AtFaultError(_placed(head, listeners, [str(one) for one in problems]))
        made = _keyed(head, bind, listeners, run)
        self._check_all(made)
        return made

    def _check_all(self, made: Mapping[str, Made]) -> None:
        """Raises: _AtFaultError."""
        faults: dict[str, str] = {}
        for name, resources in made.items():
            for resource in resources:
                try:
                    self._check(resource)
                except ConfigError as error:
                    faults[name] = str(error)
        if faults:
            raise _AtFaultError(faults)


class _AtFaultError(Exception):
    """Names and reasons."""

    def __init__(self, faults: dict[str, str]) -> None:
        super().__init__()
        self.faults = faults


def _bind_key(one: Any) -> str:
    return str(one.key if isinstance(one, pb.Bind) else one.bind_key)


def _twice(own: Sequence[tuple[str, Any]]) -> dict[str, str]:
    """Listeners that have the key of another."""
    seen: dict[str, str] = {}
    faults: dict[str, str] = {}
    for name, one in own:
        if isinstance(one, pb.Listener):
            other = seen.setdefault(one.key, name)
            if other != name:
                faults[name] = f"{other} is the listener {one.key} already"
    return faults


def _documents(
    head: str, bind: pb.Bind, listeners: Sequence[tuple[str, pb.Listener]]
) -> tuple[Json, dict[str, str]]:
    """An entry of `binds`, and whose part of it cannot be said."""
    faults: dict[str, str] = {}
    document: Json = {}
    try:
        document = documents.bind(bind)
    except ResourceError as error:
        faults[head] = str(error)
    made = document.setdefault("listeners", [])
    for index, (name, one) in enumerate(listeners):
        try:
            key_of(one)
            entry = documents.listener(one)
        except ResourceError as error:
            faults[name] = str(error)
            continue
        section = "tcpRoutes" if entry["protocol"] in ("TCP", "TLS") else "routes"
        made.append({**entry, "name": f"listener{index}", section: []})
    return document, faults


def _placed(
    head: str, listeners: Sequence[tuple[str, pb.Listener]], messages: Iterable[str]
) -> dict[str, str]:
    """Whose fault each message is: of two that do not go together, the one that came last."""
    faults: dict[str, str] = {}
    for message in messages:
        found = _LISTENER(message)
        if found is not None:
            faults.setdefault(listeners[int(found[1])][0], message.removeprefix(found[0] + "."))
        elif "listeners" in message and listeners:
            faults.setdefault(listeners[-1][0], message)
        else:
            faults.setdefault(head, message)
    return faults


def _keyed(
    head: str, bind: pb.Bind, listeners: Sequence[tuple[str, pb.Listener]], run: Run
) -> dict[str, Made]:
    """The run's resources under the control plane's keys."""
    made: dict[str, Made] = {}
    for resource in run.resources.values():
        if resource.kind == "bind":
            data = {**resource.data, "listeners": [one.key for _, one in listeners]}
            made[head] = (Resource.of("bind", bind.key, data),)
            continue
        name, one = listeners[int(str(resource.data["name"]).removeprefix("listener"))]
        data = {
            **resource.data,
            "name": one.name.listener_name,
            "gateway_name": one.name.gateway_name,
            "gateway_namespace": one.name.gateway_namespace,
            "bind": bind.key,
        }
        made[name] = (Resource.of("listener", one.key, data),)
    return made
