"""Tables that choose a listener by host, a route by request, and a TCP route by server name.

Source: spec config sections 2.1 to 2.3.

A route table is immutable: `replaced` makes another that shares all that did not change, so that a
request ends on the table it began with. Inside a host bucket, matches are grouped by their path:
- exact paths in a dict;
- prefixes in a dict, asked for each segment boundary of the path, longest first. At most one
  prefix of a given length covers a path, so lengths order them;
- regular expressions by the length of their text, longest first, merged with the prefixes.
Lists of matches that share a path are sorted by rank; the first whose checks hold wins.
Cost: constant in routes with exact and prefix paths; linear in regular expressions of one bucket
(their literal beginning spares most of them) and in matches that share one path.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, final

from sidecar.errors import ConfigError, RequestError
from sidecar.http.headers import Headers
from sidecar.routing.match import (
    DEFAULT_MATCH,
    CompiledMatch,
    Facts,
    MatchInfo,
    Rank,
    compile_match,
    host_key,
    hosts_for,
)

T = TypeVar("T")
K = TypeVar("K")


@final
@dataclass(frozen=True, slots=True, eq=False)
class RouteEntry(Generic[T]):
    """One route of a table. `payload` is opaque here: the compiled route."""

    key: str
    hostnames: tuple[str, ...]
    """Host keys (`match.host_key`); ("",) when the route takes any host."""
    matches: tuple[CompiledMatch, ...]
    payload: T

    @classmethod
    def compiled(cls, key: str, data: Mapping[str, Any], payload: T) -> RouteEntry[T]:
        """From the `data` of a `route` resource.

        An explicit empty list of matches is met by nothing; without the key any path matches.
        Raises: ConfigError, its path relative to the route.
        """
        given: Sequence[Mapping[str, Any]] = data.get("matches", (DEFAULT_MATCH,))
        matches = tuple(
            compile_match(item, f"matches[{index}]") for index, item in enumerate(given)
        )
        return cls(key, host_keys(data.get("hostnames") or ()), matches, payload)


def host_keys(hostnames: Iterable[str]) -> tuple[str, ...]:
    """Configured hostnames as distinct keys, ("",) for none."""
    return tuple(dict.fromkeys(host_key(name) for name in hostnames)) or ("",)


Found = tuple[RouteEntry[T], MatchInfo]


@final
class _Candidate(Generic[T]):
    """One match of one route, in the list of its path."""

    __slots__ = ("checks", "found", "literal", "method", "rank", "test")

    def __init__(self, entry: RouteEntry[T], match: CompiledMatch, index: int) -> None:
        self.rank: Rank = match.rank(entry.key, index)
        self.method = match.method
        self.checks = match.checks
        self.test = match.test
        self.literal = match.literal
        self.found: Found[T] = (entry, match.info)


def _rank(candidate: _Candidate[Any]) -> Rank:
    return candidate.rank


Candidates = list[_Candidate[T]]


def _first(
    candidates: Candidates[T], path: str, method: str, facts: Facts | None
) -> Found[T] | None:
    """The best candidate that holds. Paths of exact and prefix candidates hold already."""
    for candidate in candidates:
        if candidate.method is not None and candidate.method != method:
            continue
        test = candidate.test
        if test is not None and not (path.startswith(candidate.literal) and test(path)):
            continue
        if not candidate.checks:
            return candidate.found
        assert facts is not None, "a table with checks makes facts"
        for check in candidate.checks:
            if not check(facts):
                break
        else:
            return candidate.found
    return None


@final
class _Bucket(Generic[T]):
    """The matches of one host key. Changed only while its table is under construction."""

    __slots__ = ("exact", "lengths", "prefix", "regex")

    def __init__(self, base: _Bucket[T] | None = None) -> None:
        self.exact: dict[str, Candidates[T]] = {} if base is None else base.exact.copy()
        self.prefix: dict[str, Candidates[T]] = {} if base is None else base.prefix.copy()
        self.regex: dict[int, Candidates[T]] = {} if base is None else base.regex.copy()
        self.lengths: tuple[int, ...] = () if base is None else base.lengths
        """Text lengths that regexes have, longest first."""

    def match(self, path: str, method: str, facts: Facts | None) -> Found[T] | None:
        """The best match of this bucket."""
        candidates = self.exact.get(path)
        if candidates is not None:
            found = _first(candidates, path, method, facts)
            if found is not None:
                return found
        if self.lengths:
            return self._match_merged(path, method, facts)
        # Fast path: no regular expressions.
        prefixes = self.prefix
        if not prefixes or not path.startswith("/"):
            return None
        end = len(path.rstrip("/"))
        while end > 0:
            candidates = prefixes.get(path[:end])
            if candidates is not None:
                found = _first(candidates, path, method, facts)
                if found is not None:
                    return found
            end = path.rfind("/", 0, end)
        candidates = prefixes.get("/")
        return None if candidates is None else _first(candidates, path, method, facts)

    def _match_merged(self, path: str, method: str, facts: Facts | None) -> Found[T] | None:
        """Prefixes and regexes together, longest text first; equal lengths rank as one list."""
        by_length = {len(text): listed for text, listed in self._covering(path)}
        for length in sorted({*by_length, *self.lengths}, reverse=True):
            prefixes, regexes = by_length.get(length), self.regex.get(length)
            if prefixes and regexes:
                candidates = sorted([*prefixes, *regexes], key=_rank)
            else:
                candidates = prefixes or regexes or []
            found = _first(candidates, path, method, facts)
            if found is not None:
                return found
        return None

    def _covering(self, path: str) -> list[tuple[str, Candidates[T]]]:
        """Listed prefixes that cover the path."""
        if not path.startswith("/"):
            return []
        texts = ["/"]
        end = len(path.rstrip("/"))
        while end > 0:
            texts.append(path[:end])
            end = path.rfind("/", 0, end)
        return [(text, listed) for text in texts if (listed := self.prefix.get(text))]

    def change(self, entry: RouteEntry[T], put: bool, own: set[int]) -> None:
        """Put a route in, or take it out. `own`: ids of the lists this table may change."""
        for index, match in enumerate(entry.matches):
            self._place(_Candidate(entry, match, index), match.info, put, own)

    def _place(self, candidate: _Candidate[T], info: MatchInfo, put: bool, own: set[int]) -> None:
        if info.kind == "regex":
            self._place_in(self.regex, len(info.text), candidate, put, own)
            self.lengths = tuple(sorted(self.regex, reverse=True))
        else:
            table = self.exact if info.kind == "exact" else self.prefix
            self._place_in(table, info.text, candidate, put, own)

    @staticmethod
    def _place_in(
        table: dict[K, Candidates[T]], key: K, candidate: _Candidate[T], put: bool, own: set[int]
    ) -> None:
        candidates = table.get(key)
        if candidates is None:
            candidates = table[key] = []
            own.add(id(candidates))
        elif id(candidates) not in own:
            candidates = table[key] = candidates.copy()
            own.add(id(candidates))
        if put:
            insort(candidates, candidate, key=_rank)
            return
        # A rank holds route key and index, so it is unique in a list.
        del candidates[bisect_left(candidates, candidate.rank, key=_rank)]
        if not candidates:
            del table[key]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return not (self.exact or self.prefix or self.regex)


@final
class RouteTable(Generic[T]):
    """The routes of one listener (or route group), chosen by host, path and the rest.

    Two entries of equal key replace each other: the last stands.
    """

    __slots__ = ("_buckets", "_checked", "_entries", "_has_wildcards")

    def __init__(self, entries: Iterable[RouteEntry[T]] = ()) -> None:
        self._entries: dict[str, RouteEntry[T]] = {}
        self._buckets: dict[str, _Bucket[T]] = {}
        self._has_wildcards = False
        self._checked = 0
        """Routes that have header or query checks."""
        self._change(entries, ())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def route_keys(self) -> Iterable[str]:
        """The keys of all routes."""
        return self._entries.keys()

    @property
    def is_by_line(self) -> bool:
        """Whether host, path and method alone decide: no route looks at headers or the query."""
        return not self._checked

    def match(
        self,
        host: str,
        path: str,
        method: str,
        headers: Headers,
        query: str = "",
        *,
        scheme: str = "",
        authority: str = "",
    ) -> Found[T] | None:
        """The route for a request and which match it met, or None (404 `route not found`).

        `host` is canonical and without its port; `path` is canonical (`canonical.resolve`);
        `query` is as received, without `?`; `scheme` and `authority` serve pseudo header matches.
        """
        if method == "CONNECT":
            path = "/"
        facts: Facts | None = None
        if self._checked:
            facts = Facts(headers, query, method, scheme, authority, path)
        buckets = self._buckets
        bucket = buckets.get(host)
        if bucket is not None and host:
            found = bucket.match(path, method, facts)
            if found is not None:
                return found
        if self._has_wildcards:
            dot = host.find(".")
            while dot != -1:
                bucket = buckets.get("*" + host[dot:])
                if bucket is not None:
                    found = bucket.match(path, method, facts)
                    if found is not None:
                        return found
                dot = host.find(".", dot + 1)
        bucket = buckets.get("")
        return None if bucket is None else bucket.match(path, method, facts)

    def replaced(
        self, changed: Iterable[RouteEntry[T]], removed: Iterable[str] = ()
    ) -> RouteTable[T]:
        """A table with some routes added or replaced and others gone; this one stays as it is.

        An unknown key in `removed` is nothing to do. Shares every bucket and list not touched.
        """
        table: RouteTable[T] = RouteTable.__new__(RouteTable)
        table._entries = self._entries.copy()
        table._buckets = self._buckets.copy()
        table._checked = self._checked
        table._has_wildcards = self._has_wildcards
        table._change(changed, removed)
        return table

    def _change(self, changed: Iterable[RouteEntry[T]], removed: Iterable[str]) -> None:
        own: set[int] = set()
        fresh: dict[str, _Bucket[T]] = {}
        for key in removed:
            self._swap(self._entries.pop(key, None), None, fresh, own)
        for entry in changed:
            self._swap(self._entries.get(entry.key), entry, fresh, own)
            self._entries[entry.key] = entry
        for host, bucket in fresh.items():
            if bucket.is_empty:
                del self._buckets[host]
        self._has_wildcards = any(host.startswith("*") for host in self._buckets)

    def _swap(
        self,
        old: RouteEntry[T] | None,
        new: RouteEntry[T] | None,
        fresh: dict[str, _Bucket[T]],
        own: set[int],
    ) -> None:
        for entry, is_new in ((old, False), (new, True)):
            if entry is None:
                continue
            if any(match.checks for match in entry.matches):
                self._checked += 1 if is_new else -1
            for host in entry.hostnames:
                bucket = fresh.get(host)
                if bucket is None:
                    bucket = fresh[host] = self._buckets[host] = _Bucket(self._buckets.get(host))
                bucket.change(entry, is_new, own)


@final
class TcpRouteTable(Generic[T]):
    """TCP routes of one listener, chosen by the server name of the client hello.

    `routes` are `(key, hostnames, payload)`; among routes of one host key the smallest route key
    is the one that is ever chosen, since nothing else tells them apart.
    """

    __slots__ = ("_by_host",)

    def __init__(self, routes: Iterable[tuple[str, Sequence[str], T]]) -> None:
        self._by_host: dict[str, T] = {}
        for _, hostnames, payload in sorted(
            {route[0]: route for route in routes}.values(), key=lambda item: item[0]
        ):
            for host in host_keys(hostnames):
                self._by_host.setdefault(host, payload)

    def match(self, server_name: str) -> T | None:
        """The route for a server name ("" without one); None: the connection is closed."""
        for host in hosts_for(server_name):
            if (payload := self._by_host.get(host)) is not None:
                return payload
        return None


@final
@dataclass(frozen=True, slots=True)
class ListenerEntry(Generic[T]):
    """One listener of a bind. `hostname` is a host key; `payload` the compiled listener."""

    key: str
    hostname: str
    payload: T


@final
class ListenerTable(Generic[T]):
    """The listeners of one bind, chosen by server name (TLS) or by host (HTTP)."""

    __slots__ = ("_by_host", "_only_any")

    def __init__(self, listeners: Iterable[ListenerEntry[T]]) -> None:
        self._by_host: dict[str, ListenerEntry[T]] = {}
        for listener in sorted(listeners, key=lambda item: item.key):
            host = host_key(listener.hostname)
            other = self._by_host.setdefault(host, listener)
            if other.key != listener.key:
                shown = host or "*"
                raise ConfigError(
                    f"listeners[{listener.key}].hostname",
                    f"listener {other.key} of this port has the hostname {shown!r} already",
                )
        self._only_any = self._by_host.get("") if len(self._by_host) == 1 else None

    def choose(self, host: str) -> ListenerEntry[T] | None:
        """The listener whose hostname fits best; None: close (TLS) or 404 (HTTP).

        `host` is canonical, without port; "" when the client named none.
        """
        # Fast path: one listener that takes any host.
        if self._only_any is not None:
            return self._only_any
        for name in hosts_for(host):
            if (listener := self._by_host.get(name)) is not None:
                return listener
        return None

    def check_reuse(self, chosen: ListenerEntry[T], host: str) -> None:
        """Check the host of a request that came on a connection which TLS gave to `chosen`.

        Raises: RequestError 421 when another listener fits the host better, 404 when none does.
        """
        best = self.choose(host)
        # Keys, since after a reload the same listener is another object.
        if best is not None and best.key == chosen.key:
            return
        if best is None:
            raise RequestError(404, "NotFound", "listener not found")
        raise RequestError(421, "NotFound", "misdirected request")
