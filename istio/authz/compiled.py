"""A policy compiled: its rules as tests for each stage, and under which keys they are looked up.

Source: spec istio sections 4.3 and 4.4; Istio's handling of HTTP fields on TCP traffic.

Stages, and what becomes of fields whose facts are not known there:
- `connect`: a tunnel opens, requests may follow. In an ALLOW policy such a field holds, since a
  request may be allowed; a DENY rule is left out, since requests will tell.
- `tcp`: it is no HTTP, and this is all there is to know. An ALLOW rule is left out; in a DENY rule
  the field holds, which is stricter.
- `request`: all is known.

SNI is known from stage tcp on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, final

import orjson

from istio.authz.facts import Connection, Ip, Request
from istio.authz.match import (
    Check,
    Layer,
    Test,
    checks_of,
    is_empty,
    is_of_connection,
    network_of,
    validate,
)

Data = Mapping[str, Any]
Stage = Literal["connect", "tcp", "request"]
Clauses: TypeAlias = tuple[tuple[tuple[Test, ...], ...], ...]
"""Rule: all clauses; clause: any match; match: all tests."""
Key: TypeAlias = tuple[str, object]
"""What a connection must have for a rule to be worth a look: (field, value)."""

Keys: TypeAlias = tuple[Key, ...]
"""A connection that has none of them cannot match the rule."""
Options: TypeAlias = tuple[Keys, ...]
"""The most telling first."""

ANY: Final[Key] = ("any", None)
_CLAUSE: Final = "clause"
"""Field of a key whose value is a whole clause, as JSON. Rules that only say who is not meant have
no key of the others; those that say it in the same words are told apart by one look."""
_STAGES: Final[Mapping[Stage, frozenset[Layer]]] = {
    "connect": frozenset(("connection",)),
    "tcp": frozenset(("connection", "sni")),
    "request": frozenset(("connection", "sni", "request")),
}
"""The layers whose facts are known."""


@final
class Rule:
    """One rule of a policy.

    Its tests are made when it is first looked at: of very many rules, most never are.
    """

    __slots__ = ("_clauses", "_encoded", "_is_deny", "policy")

    def __init__(self, policy: str, rule: Sequence[Sequence[Data]], is_deny: bool) -> None:
        self.policy = policy
        self._is_deny = is_deny
        # As text, since the bytes keep the encoder's whole buffer.
        self._encoded = orjson.dumps(rule).decode()
        self._clauses: Mapping[Stage, Clauses] | None = None

    def _compile(self) -> Mapping[Stage, Clauses]:
        clauses = [
            [checks_of(match, is_deny=self._is_deny) for match in clause if not is_empty(match)]
            for clause in orjson.loads(self._encoded)
        ]
        full = [clause for clause in clauses if clause]
        made = {
            stage: found
            for stage, known in _STAGES.items()
            if (found := _at_stage(full, stage, known, is_deny=self._is_deny)) is not None
        }
        self._clauses, self._encoded = made, ""
        return made

    def holds(self, stage: Stage, connection: Connection, request: Request | None) -> bool:
        """Whether every clause has a match that holds."""
        stages = self._clauses
        clauses = (self._compile() if stages is None else stages).get(stage)
        if clauses is None:
            return False
        for clause in clauses:
            for tests in clause:
                for test in tests:
                    if not test(connection, request):
                        break
                else:
                    break
            else:
                return False
        return True


def rules_of(
    policy: str, rules: Sequence[Sequence[Sequence[Data]]], *, is_deny: bool
) -> list[tuple[Rule, Options]]:
    """The rules that can match anything. Raises: ValueError for a value that means nothing.

    With each, ways to look it up.
    """
    made = []
    for rule in rules:
        for clause in rule:
            for match in clause:
                validate(match)
        # A clause without any match holds; one whose matches are all empty does not.
        if not any(clause and all(map(is_empty, clause)) for clause in rule):
            made.append((Rule(policy, rule, is_deny), _options(rule)))
    return made


def _at_stage(
    clauses: Iterable[Sequence[Sequence[Check]]],
    stage: Stage,
    known: frozenset[Layer],
    *,
    is_deny: bool,
) -> Clauses | None:
    """The rule with what is known at a stage; None when it is left out there."""
    is_open = stage == "connect"
    made: list[tuple[tuple[Test, ...], ...]] = []
    for clause in clauses:
        if any(check.layer not in known for match in clause for check in match):
            if is_open == is_deny:
                return None
            tests = [tuple(c.test for c in match if c.layer in known) for match in clause]
            # A match with nothing left holds, and then the whole clause does.
            if not all(tests):
                continue
            made.append(tuple(tests))
        else:
            made.append(tuple(tuple(check.test for check in match) for match in clause))
    return tuple(made)


# Which rules to look at.

_RANKS: Final[Mapping[str, tuple[int, int, int]]] = {
    "principals": (0, 4, 9),
    "serviceAccounts": (1, 1, 1),
    "sourceIps": (2, 7, 7),
    "namespaces": (3, 6, 9),
    "destinationIps": (5, 7, 7),
    "destinationPorts": (8, 8, 8),
}
"""How much a field tells apart, less being more: of exact values (or small networks), of loose
ones, of presence."""


def _options(rule: Sequence[Sequence[Data]]) -> Options:
    """The keys of each clause that has any, the most telling first; ANY when none has."""
    found = [made for clause in rule if (made := _clause_keys(clause)) is not None]
    found.sort(key=lambda option: option[0])
    return tuple(keys for _, keys in found) or ((_clause_key(rule),),)


def _clause_key(rule: Sequence[Sequence[Data]]) -> Key:
    """A clause of which connections tell all; ANY without one."""
    for clause in rule:
        matches = [match for match in clause if not is_empty(match)]
        if matches and all(map(is_of_connection, matches)):
            text = orjson.dumps(matches, option=orjson.OPT_SORT_KEYS).decode()
            return _CLAUSE, sys.intern(text)
    return ANY


def _tests_of(text: str) -> tuple[tuple[Test, ...], ...]:
    """The clause of such a key."""
    return tuple(
        tuple(check.test for check in checks_of(match, is_deny=False))
        for match in orjson.loads(text)
    )


def _clause_keys(clause: Sequence[Data]) -> tuple[int, tuple[Key, ...]] | None:
    """Rank and keys; None when some match of it can hold whatever the connection has."""
    worst, keys = -1, dict[Key, None]()
    for match in clause:
        if not match:
            continue
        options = [_field_keys(field, match[field]) for field in _RANKS if match.get(field)]
        if not options:
            return None
        rank, found = min(options, key=lambda option: option[0])
        worst = max(worst, rank)
        keys.update(dict.fromkeys(found))
    return (worst, tuple(keys)) if keys else None


def _field_keys(field: str, values: Sequence[Any]) -> tuple[int, list[Key]]:
    exact, loose, presence = _RANKS[field]
    match field:
        case "principals" | "namespaces":
            pairs = [next(iter(value.items())) for value in values]
            kinds = {kind for kind, _ in pairs}
            rank = presence if "presence" in kinds else exact if kinds == {"exact"} else loose
            return rank, [
                (f"{field}:{kind}", None if kind == "presence" else text) for kind, text in pairs
            ]
        case "serviceAccounts":
            return exact, [(field, (one["namespace"], one["serviceAccount"])) for one in values]
        case "sourceIps" | "destinationIps":
            networks = [network_of(text) for text in values]
            is_wide = any(length < 8 for _, length, _ in networks)
            return loose if is_wide else exact, [(field, network) for network in networks]
    return exact, [(field, port) for port in values]


_SIMILAR: Final = 3
"""Buckets that differ by less than eight rules are as good as each other."""


@final
class Index:
    """Rules under their keys. Added and taken away one policy at a time."""

    __slots__ = ("_chosen", "_clauses", "_lengths", "_table")

    def __init__(self) -> None:
        self._table: dict[Key, Rule | dict[int, Rule]] = {}
        """One rule, or those of more than one by `id`."""
        self._lengths: dict[str, dict[object, int]] = {}
        """Field → lengths of texts or (version, length) of networks there are → how many keys."""
        self._clauses: dict[Key, tuple[tuple[Test, ...], ...]] = {}
        """The keys there are that are whole clauses; any match holds when all of its tests do."""
        self._chosen: dict[int, Keys] = {}
        """id(rule) → under which keys it is."""

    def __len__(self) -> int:
        return len(self._chosen)

    def _choose(self, options: Options) -> Keys:
        """Where fewest rules are, since each there is looked at."""
        if len(options) == 1:
            return options[0]
        # The first of equals: the most telling.
        return min(options, key=lambda keys: max(map(self._size, keys)) >> _SIMILAR)

    def _size(self, key: Key) -> int:
        found = self._table.get(key)
        return 0 if found is None else 1 if isinstance(found, Rule) else len(found)

    def add(self, rule: Rule, options: Options) -> None:
        """Put it under each key of one of its options."""
        keys = self._chosen[id(rule)] = self._choose(options)
        for key in keys:
            found = self._table.get(key)
            if found is None:
                self._table[key] = rule
                self._count(key, 1)
            elif isinstance(found, Rule):
                # A rule may have the same key twice.
                if found is not rule:
                    self._table[key] = {id(found): found, id(rule): rule}
            else:
                found[id(rule)] = rule

    def discard(self, rule: Rule) -> None:
        """Take one away that was added."""
        for key in self._chosen.pop(id(rule)):
            found = self._table.get(key)
            if isinstance(found, dict):
                found.pop(id(rule), None)
                if found:
                    continue
            elif found is not rule:
                continue
            del self._table[key]
            self._count(key, -1)

    def _count(self, key: Key, by: int) -> None:
        field, value = key
        if field == _CLAUSE:
            assert isinstance(value, str)
            if by > 0:
                self._clauses[key] = _tests_of(value)
            else:
                del self._clauses[key]
            return
        length = _length(field, value)
        if length is None:
            return
        lengths = self._lengths.setdefault(field, {})
        lengths[length] = lengths.get(length, 0) + by
        if not lengths[length]:
            del lengths[length]

    def find(self, stage: Stage, connection: Connection, request: Request | None) -> Rule | None:
        """A rule that holds."""
        if not self._chosen:
            return None
        table = self._table
        for key in self._keys(connection):
            found = table.get(key)
            if found is None:
                continue
            for rule in (found,) if isinstance(found, Rule) else found.values():
                if rule.holds(stage, connection, request):
                    return rule
        return None

    def _keys(self, connection: Connection) -> Iterable[Key]:
        yield ANY
        for key, clause in self._clauses.items():
            if any(all(test(connection, None) for test in tests) for tests in clause):
                yield key
        identity = connection.identity
        if identity is not None:
            yield from self._texts("principals", connection.principal)
            yield from self._texts("namespaces", connection.namespace)
            yield ("serviceAccounts", (identity.namespace, identity.service_account))
        yield ("destinationPorts", connection.destination_port)
        yield from self._networks("sourceIps", connection.source)
        yield from self._networks("destinationIps", connection.destination)

    def _texts(self, field: str, text: str) -> Iterable[Key]:
        yield (f"{field}:exact", text)
        yield (f"{field}:presence", None)
        size = len(text)
        for length in self._lengths.get(f"{field}:prefix", ()):
            assert isinstance(length, int)
            if length <= size:
                yield (f"{field}:prefix", text[:length])
        for length in self._lengths.get(f"{field}:suffix", ()):
            assert isinstance(length, int)
            if length <= size:
                yield (f"{field}:suffix", text[size - length :])

    def _networks(self, field: str, ip: Ip | None) -> Iterable[Key]:
        if ip is None:
            return
        version, number = ip
        bits = 32 if version == 4 else 128
        for of in self._lengths.get(field, ()):
            assert isinstance(of, tuple)
            if of[0] == version:
                yield (field, (version, of[1], number >> (bits - of[1])))


def _length(field: str, value: object) -> object:
    """What lookups of this field must know of the keys that there are."""
    if field.endswith((":prefix", ":suffix")):
        assert isinstance(value, str)
        return len(value)
    if field in ("sourceIps", "destinationIps"):
        assert isinstance(value, tuple)
        return value[:2]
    return None
