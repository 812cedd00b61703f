"""Policies of the mesh at the waypoint: who may open a tunnel, and ask for what in it.

Source: spec istio sections 2.8 and 4.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, final

from hbone.wire.identity import parse_identity
from istio.authz import Connection as Facts
from istio.authz import Decision, Policies, Request, Stage, Subject
from istio.workload import OwnGateway, Store
from sidecar.gateway.mesh import Front
from sidecar.http import message

Data = Mapping[str, Any]
_log = logging.getLogger("istio.authorization")
_CLASS: Final = "istio-agentgateway-waypoint"
FACTS: Final = "meshFacts"
"""Where a connection keeps what `facts_of` gave."""
DESTINATION: Final = "meshDestination"
"""Where it keeps the address of what was called by name."""
_NO_CLAIMS: Final[Mapping[str, Any]] = {}


@final
class Judge:
    """Decides for what this gateway stands before."""

    def __init__(self, store: Store, gateway: OwnGateway) -> None:
        self._store = store
        self._own = (gateway.namespace, gateway.name)
        self._policies = Policies()
        self._subjects: dict[tuple[str, str], tuple[int, Subject | None]] = {}

    def apply(self, changed: Mapping[str, Data], removed: Iterable[str]) -> bool:
        """Whether any decision may be another now. Raises: ConfigError."""
        before = self._policies.generation
        self._policies.apply(changed, removed)
        return self._policies.generation != before

    @property
    def policies(self) -> Policies:
        """All of them."""
        return self._policies

    @property
    def has_policies(self) -> bool:
        """Whether there are any."""
        return bool(len(self._policies))

    def permits(self, front: Front, connection: message.Connection, stage: Stage) -> bool:
        """Whether a connection may be. `stage`: `connect` where requests are judged later."""
        if not self.has_policies:
            return True
        subject = self._subject(front)
        return subject is not None and self._told(
            self._policies.decide(subject, facts_of(connection), None, stage)
        )

    def permits_request(self, front: Front, request: message.Request) -> bool:
        """Whether a request may be served."""
        if not self.has_policies:
            return True
        subject = self._subject(front)
        if subject is None:
            return False
        asked = Request(
            request.method,
            _path(request),
            request.authority,
            _values(request),
            _claims(request),
        )
        return self._told(self._policies.decide(subject, facts_of(request.connection), asked))

    def _subject(self, front: Front) -> Subject | None:
        """What is protected; None when it is known no more."""
        key = front.kind, front.name
        kept = self._subjects.get(key)
        if kept is not None and kept[0] == self._store.generation:
            return kept[1]
        if len(self._subjects) > 4096:
            self._subjects.clear()
        made = self._made(front)
        self._subjects[key] = self._store.generation, made
        return made

    def _made(self, front: Front) -> Subject | None:
        if front.kind == "service":
            namespace, _, hostname = front.name.partition("/")
            service = self._store.service(namespace, hostname)
            if service is None:
                return None
            return Subject.behind(
                namespace, service=service.name, gateway=self._own, gateway_class=_CLASS
            )
        if front.kind == "gateway":
            return Subject.behind(self._own[0], gateway=self._own, gateway_class=_CLASS)
        workload = self._store.workload(front.name)
        if workload is None:
            return None
        return Subject.behind(
            workload.namespace,
            gateway=self._own,
            gateway_class=_CLASS,
            listed=workload.authorization_policies,
            labels=workload.labels,
        )

    @staticmethod
    def _told(decision: Decision) -> bool:
        for line in decision.lines:
            _log.info("%s", line)
        if not decision.allowed:
            _log.debug("refused: %s", decision.reason)
        return decision.allowed


def facts_of(connection: message.Connection) -> Facts:
    """What is known of a connection; made once."""
    found = connection.extra.get(FACTS)
    if isinstance(found, Facts):
        return found
    identity = connection.extra.get("identity")
    sni = connection.tls.sni if connection.tls is not None else ""
    address = connection.extra.get(DESTINATION)
    made = Facts(
        parse_identity(identity) if isinstance(identity, str) else None,
        connection.peer_host,
        # A policy about the address must not be got around by calling the name.
        address if isinstance(address, str) else connection.local_host,
        connection.local_port,
        sni,
    )
    connection.extra[FACTS] = made
    return made


def _path(request: message.Request) -> str:
    path = request.state.get("path")
    return path if isinstance(path, str) else request.path


def _values(request: message.Request) -> Callable[[str], Sequence[str]]:
    headers = request.headers

    def values(name: str) -> Sequence[str]:
        return [value.decode("latin-1") for value in headers.get_all(name.encode("latin-1"))]

    return values


def _claims(request: message.Request) -> Mapping[str, Any] | None:
    """Those of a token that was verified."""
    found = request.state.get("jwt")
    make = getattr(found, "cel", None)
    told = make(None) if callable(make) else found
    if isinstance(told, Mapping):
        return told
    return None if found is None else _NO_CLAIMS
