"""One match of a policy, compiled: each of its fields becomes a test of the connection or request.

Source: spec istio sections 4.3 and 4.4; Istio's reference of AuthorizationPolicy.

A field holds when none of its values is given or one of them matches, and none of its `not` values
does. A test gets the connection and the request, which is None where there is none: tests of
requests are not called then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from istio.authz.facts import Connection, Ip, Request, ip_of
from istio.authz.text import path_matcher, text_matcher

Data = Mapping[str, Any]
Test = Callable[[Connection, Request | None], bool]
Layer = Literal["connection", "sni", "request"]
"""From when on a test's facts are known: the CONNECT, the first bytes of TLS, the request."""


class Check(NamedTuple):
    """One field of a match."""

    layer: Layer
    test: Test


def is_empty(match: Data) -> bool:
    """Whether no field is set: nothing matches it then."""
    return not any(match.values())


def is_of_connection(match: Data) -> bool:
    """Whether no field needs more than the connection, at any stage."""
    return all(
        key in _KNOWN and _KNOWN[key].layer == "connection"
        for key, values in match.items()
        if values
    )


def validate(match: Data) -> None:
    """Raises: ValueError for a field or a value that means nothing."""
    for key, values in match.items():
        if not values:
            continue
        known = _KNOWN.get(key)
        if known is None and key not in _KEYED:
            raise ValueError(f"unknown field `{key}`")
        field = known.field if known is not None else ""
        if field == "paths":
            path_matcher(values)
        elif field.endswith("Ips"):
            for text in values:
                network_of(text)


def checks_of(match: Data, *, is_deny: bool) -> tuple[Check, ...]:
    """The fields that are set. Empty for an empty match. Raises: ValueError, see `validate`."""
    found = [(_KNOWN[key], values) for key, values in match.items() if values and key in _KNOWN]
    found.sort(key=lambda one: one[0].order)
    made: list[Check] = []
    for known, values in found:
        # Several headers of one name may be read in two ways: the one that is refused more often
        # counts.
        test = known.make(values, is_deny != known.is_negative)
        made.append(Check(known.layer, _negated(test) if known.is_negative else test))
    for key, keyed in _KEYED.items():
        for one in match.get(key) or ():
            made += _keyed_checks(one, keyed, is_deny=is_deny)
    return tuple(made)


def _keyed_checks(
    one: Data, make: Callable[[Data, Sequence[Data], bool], Test], *, is_deny: bool
) -> Iterable[Check]:
    for name, is_negative in (("values", False), ("notValues", True)):
        if one.get(name):
            test = make(one, one[name], is_deny != is_negative)
            yield Check("request", _negated(test) if is_negative else test)


def _negated(test: Test) -> Test:
    return lambda connection, request: not test(connection, request)


# Of connections.


def _principals(values: Sequence[Data], is_wide: bool) -> Test:
    matches = text_matcher(values)
    return lambda connection, _: matches(connection.principal)


def _namespaces(values: Sequence[Data], is_wide: bool) -> Test:
    matches = text_matcher(values)
    return lambda connection, _: matches(connection.namespace)


def _accounts(values: Sequence[Data], is_wide: bool) -> Test:
    wanted = frozenset((one["namespace"], one["serviceAccount"]) for one in values)

    def matches(connection: Connection, _: Request | None) -> bool:
        identity = connection.identity
        return identity is not None and (identity.namespace, identity.service_account) in wanted

    return matches


def _source_ips(values: Sequence[str], is_wide: bool) -> Test:
    within = networks(values)
    return lambda connection, _: within(connection.source)


def _destination_ips(values: Sequence[str], is_wide: bool) -> Test:
    within = networks(values)
    return lambda connection, _: within(connection.destination)


def _ports(values: Sequence[int], is_wide: bool) -> Test:
    wanted = frozenset(values)
    return lambda connection, _: connection.destination_port in wanted


def _sni(values: Sequence[Data], is_wide: bool) -> Test:
    matches = text_matcher(values, lower=True)
    return lambda connection, _: matches(connection.sni)


# Of requests.


def _methods(values: Sequence[Data], is_wide: bool) -> Test:
    matches = text_matcher(values)
    return lambda _, request: request is not None and matches(request.method)


def _paths(values: Sequence[Data], is_wide: bool) -> Test:
    matches = path_matcher(values)
    return lambda _, request: request is not None and matches(request.path)


def _hosts(values: Sequence[Data], is_wide: bool) -> Test:
    # A value with a port is about the host with its port, any other about the host alone.
    with_port = [one for one in values if _has_port(one)]
    bare = text_matcher([one for one in values if not _has_port(one)], lower=True)
    full = text_matcher(with_port, lower=True)

    def matches(_: Connection, request: Request | None) -> bool:
        if request is None:
            return False
        host = request.host.lower()
        return bare(without_port(host)) or (bool(with_port) and full(host))

    return matches


def _has_port(value: Data) -> bool:
    text = str(next(iter(value.values())))
    name, colon, port = text.rpartition(":")
    # `[::1]` has none, and the prefix `a.b:` has any.
    return bool(colon) and "]" not in port and (not port or port.isdigit()) and name[-1:] != ":"


def without_port(host: str) -> str:
    """`a.b:80` → `a.b`; brackets of an IPv6 address stay."""
    if host.endswith("]"):
        return host
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _request_principals(values: Sequence[Data], is_wide: bool) -> Test:
    matches = text_matcher(values)

    def test(_: Connection, request: Request | None) -> bool:
        return request is not None and matches(principal_of(request.claims))

    return test


def principal_of(claims: Mapping[str, Any] | None) -> str:
    """`<issuer>/<subject>` of a token, "" without both."""
    if claims is None:
        return ""
    issuer, subject = claims.get("iss"), claims.get("sub")
    is_whole = isinstance(issuer, str) and isinstance(subject, str) and issuer and subject
    return f"{issuer}/{subject}" if is_whole else ""


def _remote_ips(values: Sequence[str], is_wide: bool) -> Test:
    within = networks(values)

    def test(connection: Connection, request: Request | None) -> bool:
        if request is None or not request.remote_ip:
            return within(connection.source)
        return within(ip_of(request.remote_ip))

    return test


def _header(one: Data, values: Sequence[Data], is_wide: bool) -> Test:
    name = str(one["name"]).lower()
    is_present = any("presence" in value for value in values)
    matches = text_matcher(values)

    def test(_: Connection, request: Request | None) -> bool:
        found = () if request is None else request.headers(name)
        if not found:
            return False
        if is_present or matches(",".join(found)):
            return True
        return is_wide and any(map(matches, found))

    return test


_SPACED: Final = frozenset(("scope", "permission"))
"""Claims whose text is a list with spaces."""


def _claim(one: Data, values: Sequence[Data], is_wide: bool) -> Test:
    path = tuple(one["path"])
    matches = text_matcher(values)

    def test(_: Connection, request: Request | None) -> bool:
        found: Any = None if request is None else request.claims
        for step in path:
            if not isinstance(found, Mapping):
                return False
            found = found.get(step)
        if isinstance(found, str):
            texts = found.split(" ") if path[-1] in _SPACED else [found]
        else:
            texts = [text for text in found if isinstance(text, str)] if _is_list(found) else []
        return any(map(matches, texts))

    return test


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


_FIELDS: Final[Mapping[str, tuple[Layer, Callable[[Any, bool], Test]]]] = {
    # The cheap and the telling ones first.
    "destinationPorts": ("connection", _ports),
    "namespaces": ("connection", _namespaces),
    "principals": ("connection", _principals),
    "serviceAccounts": ("connection", _accounts),
    "sourceIps": ("connection", _source_ips),
    "destinationIps": ("connection", _destination_ips),
    "connectionSni": ("sni", _sni),
    "methods": ("request", _methods),
    "paths": ("request", _paths),
    "hosts": ("request", _hosts),
    "requestPrincipals": ("request", _request_principals),
    "remoteIps": ("request", _remote_ips),
}
_KEYED: Final = {"headers": _header, "claims": _claim}
"""Fields whose entries have a name of their own."""


class _Known(NamedTuple):
    field: str
    order: int
    layer: Layer
    make: Callable[[Any, bool], Test]
    is_negative: bool


def _known() -> Iterable[tuple[str, _Known]]:
    for order, (field, (layer, make)) in enumerate(_FIELDS.items()):
        yield field, _Known(field, order, layer, make, False)
        yield f"not{field[0].upper()}{field[1:]}", _Known(field, order, layer, make, True)


_KNOWN: Final = dict(_known())


def networks(values: Sequence[str]) -> Callable[[Ip | None], bool]:
    """Whether an address is in one of the networks, which may have host bits."""
    by_length: dict[tuple[int, int], set[int]] = {}
    for text in values:
        version, length, prefix = network_of(text)
        by_length.setdefault((version, _BITS[version] - length), set()).add(prefix)
    shifts = tuple((version, shift, found) for (version, shift), found in by_length.items())

    def within(ip: Ip | None) -> bool:
        if ip is None:
            return False
        version, number = ip
        return any(version == of and number >> shift in prefixes for of, shift, prefixes in shifts)

    return within


_BITS: Final = {4: 32, 6: 128}


def network_of(text: str) -> tuple[int, int, int]:
    """`(4 or 6, prefix length, the prefix alone as a number)`. Raises: ValueError."""
    address, slash, length = text.partition("/")
    ip = ip_of(address)
    if ip is None:
        raise ValueError(f"`{text}` is no address")
    version, number = ip
    bits = _BITS[version]
    if slash and not (length.isascii() and length.isdigit()):
        raise ValueError(f"`{text}` is no network")
    size = int(length) if slash else bits
    if slash and version == 4 and ":" in address:
        size -= 96  # written as IPv6
    if not 0 <= size <= bits:
        raise ValueError(f"`{text}` is no network")
    return version, size, number >> (bits - size)


__all__ = [
    "Check",
    "Layer",
    "Test",
    "checks_of",
    "is_empty",
    "is_of_connection",
    "network_of",
    "validate",
]
