"""All policies, changed piece by piece, and the decisions they make.

Source: spec istio sections 2.8, 4.2 and 4.3.

Two kinds of policy bind a connection, and each kind decides for itself; both must allow:
- those of the workload: of the whole mesh, of its name space, and those that select it;
- those of a waypoint, by `targetRefs`: of the service, of the gateway, of its class.

Rules are indexed by scope and by what a connection must have to match, so that a decision looks at
few of many thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from istio.authz.compiled import Index, Rule, Stage, rules_of
from istio.authz.facts import Connection, Request
from istio.workload.records import Workload
from sidecar.errors import ConfigError

Data = Mapping[str, Any]
Reference = tuple[str, str]
"""Scope: ("global", ""), ("namespace", ns), ("policy", "ns/name"), ("Service", "ns/name"), …"""

AUTHORIZATION: Final = "authorization"
PEER: Final = "peerAuthentication"
"""The group of policies of which the most specific alone counts."""
_GLOBAL: Final[Reference] = ("global", "")
_SUBJECTS_KEPT: Final = 4096


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """What is protected.

    `listed`: `ns/name` of the policies that are said to select the workload. `labels`: the
    workload's, where they are known. `targets`: what policies may name by `targetRefs`.
    """

    namespace: str
    listed: tuple[str, ...] = ()
    labels: frozenset[tuple[str, str]] = frozenset()
    targets: tuple[Reference, ...] = ()

    @classmethod
    def of(cls, workload: Workload, labels: Mapping[str, str] | None = None) -> Subject:
        """A workload, at its own door. `labels`: by default those that the store knows."""
        known = workload.labels if labels is None else labels
        return cls(workload.namespace, workload.authorization_policies, frozenset(known.items()))

    @classmethod
    def behind(
        cls,
        namespace: str,
        *,
        service: str = "",
        gateway: tuple[str, str] | None = None,
        gateway_class: str = "",
        listed: tuple[str, ...] = (),
        labels: Mapping[str, str] | None = None,
    ) -> Subject:
        """A service (or a workload) behind a waypoint.

        `service`: its name, not its hostname; `gateway`: (name space, name) of the waypoint.
        """
        targets: list[Reference] = []
        if service:
            targets += [(kind, f"{namespace}/{service}") for kind in ("Service", "ServiceEntry")]
        if gateway is not None:
            targets.append(("Gateway", f"{gateway[0]}/{gateway[1]}"))
        if gateway_class:
            targets.append(("GatewayClass", gateway_class))
        return cls(namespace, listed, frozenset((labels or {}).items()), tuple(targets))


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """`policy`: `ns/name` of the one that decided, "" for none. `lines`: for the log, of policies
    that are tried out (dry run) or audited."""

    allowed: bool
    policy: str = ""
    reason: str = ""
    lines: tuple[str, ...] = ()


_ALLOWED: Final = Decision(True)


@final
class _Policy:
    """One, compiled. `selector`: None when it selects by other means."""

    __slots__ = ("is_peer", "name", "of", "options", "places", "rules", "selector", "table")

    def __init__(self, name: str, data: Data) -> None:
        self.name = name
        action = str(data.get("action") or "ALLOW").upper()
        if action not in ("ALLOW", "DENY", "AUDIT"):
            raise ConfigError("action", f"`{action}` is unknown")
        is_deny = action == "DENY"
        is_tried = bool(data.get("dryRun")) and action != "AUDIT"
        self.table = f"dry {action}" if is_tried else action
        self.is_peer = data.get("group") == PEER
        selector = data.get("selector")
        self.selector = frozenset(selector.items()) if selector else None
        self.of = "" if data.get("anyNamespace") else str(data["namespace"])
        """The name space it selects in; "" for any."""
        self.places = _places(data, self.name)
        try:
            self.options = rules_of(self.name, data.get("rules") or (), is_deny=is_deny)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError("rules", f"{error}") from error
        self.rules = [rule for rule, _ in self.options]


def _places(data: Data, name: str) -> tuple[Reference, ...]:
    scope = str(data.get("scope") or "").upper()
    match scope:
        case "GLOBAL":
            return (_GLOBAL,)
        case "NAMESPACE":
            return (("namespace", data["namespace"]),)
        case "WORKLOAD_SELECTOR":
            return (("policy", name),)
        case "TARGETS":
            return tuple((one["kind"], _target(one, data["namespace"])) for one in data["targets"])
    raise ConfigError("scope", f"`{scope}` is unknown")


def _target(one: Data, namespace: str) -> str:
    return str(one["name"]) if one["kind"] == "GatewayClass" else f"{namespace}/{one['name']}"


def check(name: str, data: Data) -> None:
    """Whether a policy means something. Raises: ConfigError."""
    _compiled(name, data)


def _compiled(name: str, data: Data) -> _Policy:
    try:
        return _Policy(name, data)
    except KeyError as error:
        raise ConfigError(str(error.args[0]), "is missing") from error


@final
class _Scope:
    """The policies of one scope."""

    __slots__ = ("allowing", "policies", "tables")

    def __init__(self) -> None:
        self.tables: dict[str, Index] = {}
        self.policies: dict[str, _Policy] = {}
        self.allowing = 0
        """How many enforced ALLOW policies, those without rules too."""

    def add(self, policy: _Policy) -> None:
        self.policies[policy.name] = policy
        self.allowing += policy.table == "ALLOW"
        if policy.is_peer:
            return  # which of them counts depends on the subject
        index = self.tables.setdefault(policy.table, Index())
        for rule, options in policy.options:
            index.add(rule, options)

    def remove(self, policy: _Policy) -> None:
        del self.policies[policy.name]
        self.allowing -= policy.table == "ALLOW"
        if not policy.is_peer:
            index = self.tables[policy.table]
            for rule in policy.rules:
                index.discard(rule)


@final
class _Set:
    """The scopes that bind a subject by one of the two kinds, and the decision they make."""

    __slots__ = ("_peers", "_scopes", "is_empty")

    def __init__(self, scopes: list[_Scope], peer: _Policy | None = None) -> None:
        self._scopes = scopes
        self._peers: tuple[Rule, ...] = () if peer is None else tuple(peer.rules)
        self.is_empty = not scopes and not self._peers

    def decide(self, stage: Stage, connection: Connection, request: Request | None) -> Decision:
        denied = self._find("DENY", stage, connection, request)
        if denied is None:
            denied = next((r for r in self._peers if r.holds(stage, connection, request)), None)
        if denied is not None:
            return Decision(False, denied.policy, f"denied by {denied.policy}")
        if not any(scope.allowing for scope in self._scopes):
            return _ALLOWED
        allowed = self._find("ALLOW", stage, connection, request)
        if allowed is not None:
            return Decision(True, allowed.policy)
        return Decision(False, "", "no policy allows it")

    def lines(
        self, stage: Stage, connection: Connection, request: Request | None
    ) -> tuple[str, ...]:
        """What is to be logged of policies that do not decide."""
        found = []
        for table, text in _LOGGED:
            rule = self._find(table, stage, connection, request)
            if rule is not None:
                found.append(f"{text} {rule.policy}")
        return tuple(found)

    def _find(
        self, table: str, stage: Stage, connection: Connection, request: Request | None
    ) -> Rule | None:
        for scope in self._scopes:
            index = scope.tables.get(table)
            if index is not None:
                found = index.find(stage, connection, request)
                if found is not None:
                    return found
        return None


_LOGGED: Final = (
    ("dry DENY", "dry-run: deny policy match"),
    ("dry ALLOW", "dry-run: allow policy match"),
    ("AUDIT", "audit: policy match"),
)


@final
class Policies:
    """One thread's."""

    def __init__(self) -> None:
        self.generation = 0
        """Grows with each change: connections that are open are to be decided again."""
        self._policies: dict[str, _Policy] = {}
        self._scopes: dict[Reference, _Scope] = {}
        self._selecting: dict[str, dict[str, _Policy]] = {}
        """Name space → policies with a selector; "" for those of the mesh's."""
        self._sets: dict[Subject, tuple[_Set, ...]] = {}

    def __len__(self) -> int:
        return len(self._policies)

    def apply(self, changed: Mapping[str, Data], removed: Iterable[str]) -> None:
        """Snapshot keys (`authorization/<ns>/<name>`; others are passed over) and their data.

        Raises: ConfigError with the policy's key for one that means nothing; it replaces an earlier
        one of its name by a refusal of everything it would bind, and the others are applied.
        """
        errors: list[ConfigError] = []
        for key in removed:
            kind, _, name = key.partition("/")
            if kind == AUTHORIZATION:
                self.drop(name)
        for key, data in changed.items():
            kind, _, name = key.partition("/")
            if kind == AUTHORIZATION:
                try:
                    self.put(name, data)
                except ConfigError as error:
                    errors.append(ConfigError(key, str(error)))
        if errors:
            raise errors[0]

    def put(self, name: str, data: Data) -> None:
        """Add or replace one. Raises: ConfigError, see `apply`."""
        try:
            policy = _compiled(name, data)
        except ConfigError:
            # Without it, what it protects would be open: until it is repaired, nothing passes.
            broken = {**data, "action": "DENY", "dryRun": False, "rules": [[]]}
            self._put(name, _compiled(name, broken))
            raise
        self._put(name, policy)

    def _put(self, name: str, policy: _Policy) -> None:
        self.drop(name)
        self._changed()
        self._policies[name] = policy
        for place in policy.places:
            self._scopes.setdefault(place, _Scope()).add(policy)
        policy.options = []  # every index has chosen
        if policy.selector is not None:
            self._selecting.setdefault(policy.of, {})[name] = policy

    def drop(self, name: str) -> None:
        """Remove one; none of that name is nothing."""
        policy = self._policies.pop(name, None)
        if policy is None:
            return
        self._changed()
        for place in policy.places:
            scope = self._scopes[place]
            scope.remove(policy)
            if not scope.policies:
                del self._scopes[place]
        if policy.selector is not None:
            del self._selecting[policy.of][name]

    def _changed(self) -> None:
        self.generation += 1
        self._sets.clear()

    def decide(
        self,
        subject: Subject,
        connection: Connection,
        request: Request | None = None,
        stage: Stage = "tcp",
    ) -> Decision:
        """Whether it may be. See `istio.authz.compiled` for the stages.

        With a request the stage is `request`, whatever is given.
        """
        if request is not None:
            stage = "request"
        sets = self._sets.get(subject)
        if sets is None:
            sets = self._sets_of(subject)
        decision = _ALLOWED
        lines: tuple[str, ...] = ()
        for one in sets:
            if stage != "connect":
                lines += one.lines(stage, connection, request)
            if decision.allowed:
                found = one.decide(stage, connection, request)
                decision = found if not found.allowed or found.policy else decision
        if lines:
            return Decision(decision.allowed, decision.policy, decision.reason, lines)
        return decision

    def _sets_of(self, subject: Subject) -> tuple[_Set, ...]:
        if len(self._sets) >= _SUBJECTS_KEPT:
            self._sets.clear()
        namespace = ("namespace", subject.namespace)
        selected = [("policy", name) for name in self._selected(subject)]
        own = self._known([_GLOBAL, namespace, *selected])
        by_target = self._known(list(dict.fromkeys(subject.targets)))
        made = (_Set(own, _peer(own)), _Set(by_target))
        sets = self._sets[subject] = tuple(one for one in made if not one.is_empty)
        return sets

    def _known(self, places: list[Reference]) -> list[_Scope]:
        found = (self._scopes.get(place) for place in places)
        return [scope for scope in found if scope is not None]

    def _selected(self, subject: Subject) -> list[str]:
        """The policies that select the workload: those listed, and those its labels fit."""
        names = dict.fromkeys(subject.listed)
        if subject.labels:
            for namespace in ("", subject.namespace):
                for policy in self._selecting.get(namespace, {}).values():
                    if policy.selector is not None and policy.selector <= subject.labels:
                        names[policy.name] = None
        return list(names)


def _peer(scopes: list[_Scope]) -> _Policy | None:
    """The one PeerAuthentication that counts: of the workload, else of its name space, else of the
    mesh; of several there, the first by name."""
    found = [policy for scope in scopes for policy in scope.policies.values() if policy.is_peer]
    for kind in ("policy", "namespace", "global"):
        here = [policy for policy in found if policy.places[0][0] == kind]
        if here:
            return min(here, key=lambda policy: policy.name)
    return None
