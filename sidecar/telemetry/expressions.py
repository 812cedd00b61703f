"""CEL expressions over a finished request: filters, added fields, labels, sampling.

Source: spec/config.md section 7.1: an expression that fails is false where a truth is wanted, and
its field is left out of a log. Section 7.2 for `proxy`, which is known here alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import final

from sidecar.cel.analysis import names
from sidecar.cel.engine import Engine, Program
from sidecar.cel.ops import EPOCH
from sidecar.cel.values import Flattened
from sidecar.cel.variables import Plan
from sidecar.errors import ConfigError, SidecarError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.telemetry.fields import AccessEntry

_MAX_FLATTENED = 256


@final
class Expression:
    """One expression with what it needs of a request."""

    __slots__ = ("_names_end", "_names_proxy", "_plan", "_program")

    def __init__(self, program: Program) -> None:
        self._program = program
        self._plan = Plan([program])
        self._names_proxy = "proxy" in program.variables
        self._names_end = names(program.paths, "request", "endTime")

    def value(self, entry: AccessEntry) -> object:
        """The value; None when there is none, be it for an error."""
        try:
            return self._program.eval(self._activation(entry))
        except SidecarError:
            return None

    def is_true(self, entry: AccessEntry) -> bool:
        """Whether the value is true itself: an error or another type is not."""
        return self.value(entry) is True

    def fields(self, name: str, entry: AccessEntry) -> Iterator[tuple[str, object]]:
        """The field `name`; several, `name.key`, when the value is flattened; none without one."""
        value = self.value(entry)
        if isinstance(value, Flattened):
            found = _spread(name, value.value, value.recursive)
            yield from (pair for pair, _ in zip(found, range(_MAX_FLATTENED), strict=False))
        elif value is not None:
            yield name, value

    def _activation(self, entry: AccessEntry) -> dict[str, object]:
        request = entry.request
        response = entry.response
        if response is None and entry.status:
            response = Response(entry.status)
        if request is None:
            built = self._plan.activation(_nothing_asked(entry), response)
            built.pop("request", None)
        else:
            offset = self._plan.context.wall_minus_monotonic_ns
            if self._names_end and offset is not None:
                ended_ns = request.started_ns + entry.duration_ns + offset
                request.state["endTime"] = EPOCH + timedelta(microseconds=ended_ns // 1000)
            built = self._plan.activation(request, response)
        if self._names_proxy:
            known = built.get("proxy")
            built["proxy"] = _proxy(entry) | (dict(known) if isinstance(known, Mapping) else {})
        return built


def _nothing_asked(entry: AccessEntry) -> Request:
    """What a bare connection has of a request: the connection."""
    return Request("", "", "", "/", "", Headers(), FixedBody(), entry.connection, 0)


def _proxy(entry: AccessEntry) -> dict[str, object]:
    durations = {
        "requestProcessingDuration": entry.request_processing_ns,
        "upstreamDuration": entry.upstream_ns,
        "responseProcessingDuration": entry.response_processing_ns,
    }
    found: dict[str, object] = {
        name: timedelta(microseconds=ns / 1000) for name, ns in durations.items() if ns
    }
    route = entry.route
    if route is not None:
        gateway_space, _, gateway = route.gateway.rpartition("/")
        route_space, _, name = route.route.rpartition("/")
        found |= {
            "bind": route.bind,
            "gateway": {"namespace": gateway_space, "name": gateway},
            "listener": {"name": route.listener},
            "route": {"namespace": route_space, "name": name, "rule": route.route_rule},
        }
    return found


def _spread(name: str, value: object, recursive: bool) -> Iterator[tuple[str, object]]:
    items: Iterator[tuple[object, object]]
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    else:
        yield name, value
        return
    for key, item in items:
        if recursive:
            yield from _spread(f"{name}.{key}", item, True)
        elif item is not None:
            yield f"{name}.{key}", item


@final
class Compiler:
    """Compiles the expressions of one configuration."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def expression(self, source: object, path: str) -> Expression:
        """Raises: ConfigError at `path`, when `source` is no text or cannot be honoured."""
        if not isinstance(source, str):
            raise ConfigError(path, "a CEL expression must be text")
        try:
            program = self._engine.compile(source)
        except ConfigError as exc:
            raise ConfigError(path, exc.message) from exc
        if program.needs_request_body or program.needs_response_body:
            # At this time bodies have gone by.
            raise ConfigError(path, "not supported yet (bodies in logs, metrics and traces)")
        return Expression(program)

    def expressions(self, sources: object, path: str) -> dict[str, Expression]:
        """An ordered map of name to expression. Raises: ConfigError."""
        if sources is None:
            return {}
        if not isinstance(sources, Mapping):
            raise ConfigError(path, "must map names to CEL expressions")
        return {str(k): self.expression(v, f"{path}.{k}") for k, v in sources.items()}
