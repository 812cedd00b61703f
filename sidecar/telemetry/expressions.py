"""CEL expressions over a finished request: filters, added fields, labels, sampling.

Source: spec/config.md section 7.1: an expression that fails is false where a truth is wanted, and
its field is left out of a log. Section 7.2 for `proxy`, which is known here alone. Section 7.6 for
bodies: they are read from what was recorded of them (telemetry.bodies).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
from sidecar.telemetry.bodies import bodies_of
from sidecar.telemetry.fields import AccessEntry
from sidecar.telemetry.logs import CUT, json_text, text_of

MAX_BODY_CHARS = 64 * 1024
"""Of all that one expression over a body gives a log's line or a span."""
MAX_LABEL_CHARS = 512
"""Of one made of a body."""
_MAX_FLATTENED = 256
_REQUEST_NOTE = "agw.request.body"
_RESPONSE_NOTE = "agw.response.body"


@final
class Expression:
    """One expression with what it needs of a request."""

    __slots__ = (
        "_names_end",
        "_names_proxy",
        "_plan",
        "_program",
        "needs_request_body",
        "needs_response_body",
    )

    def __init__(self, program: Program) -> None:
        self._program = program
        self._plan = Plan([program])
        self.needs_request_body = program.needs_request_body
        self.needs_response_body = program.needs_response_body
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
        found: Iterator[tuple[str, object]]
        if isinstance(value, Flattened):
            found = _spread(name, value.value, value.recursive)
            found = (pair for pair, _ in zip(found, range(_MAX_FLATTENED), strict=False))
        elif value is not None:
            found = iter(((name, value),))
        else:
            return
        if self.needs_request_body or self.needs_response_body:
            found = _bounded(found)
        yield from found

    def label(self, entry: AccessEntry) -> str | None:
        """The value as a label of a metric; None when there is none."""
        value = self.value(entry)
        if value is None:
            return None
        if self.needs_request_body or self.needs_response_body:
            # Labels are kept: what a client may send must not fill the memory.
            text = text_of(value) if isinstance(value, bytes) else str(value)
            return text[:MAX_LABEL_CHARS]
        return str(value)

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
            if self.needs_request_body or self.needs_response_body:
                self._add_bodies(built, request)
        if self._names_proxy:
            known = built.get("proxy")
            built["proxy"] = _proxy(entry) | (dict(known) if isinstance(known, Mapping) else {})
        return built

    def _add_bodies(self, built: dict[str, object], request: Request) -> None:
        """Those on record, in the place of what is left of the messages' own."""
        bodies = bodies_of(request)
        if bodies is None:
            return
        if self.needs_request_body and bodies.request is not None:
            asked = built.get("request")
            assert isinstance(asked, dict)
            asked.update(bodies.request.fields())
        answered = built.get("response")
        if bodies.response is not None and isinstance(answered, dict):
            answered.update(bodies.response.fields())


@final
class BodyNotes:
    """Fields that say when a body that expressions name was not on record whole.

    What expressions make of such a body may be nothing, and then the field they stand for is left
    out; this tells why. Values: see bodies.Fate.
    """

    __slots__ = ("_has_request", "_has_response")

    def __init__(self, expressions: Collection[Expression], gone: Collection[str] = ()) -> None:
        """`gone`: names of fields that are not wanted."""
        self._has_request = _REQUEST_NOTE not in gone and any(
            one.needs_request_body for one in expressions
        )
        self._has_response = _RESPONSE_NOTE not in gone and any(
            one.needs_response_body for one in expressions
        )

    def of(self, entry: AccessEntry) -> Iterator[tuple[str, object]]:
        """None for an exchange whose bodies were whole."""
        if entry.request is None or not (self._has_request or self._has_response):
            return
        bodies = bodies_of(entry.request)
        if bodies is None:
            return
        asked, answered = bodies.request, bodies.response
        if self._has_request and asked is not None and asked.fate != "whole":
            yield _REQUEST_NOTE, asked.fate
        if self._has_response and answered is not None and answered.fate != "whole":
            yield _RESPONSE_NOTE, answered.fate


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


def _bounded(fields: Iterator[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """As much of what was made of a body as a line or a span can do with, octets as text."""
    left = MAX_BODY_CHARS
    for name, value in fields:
        kept, size = _shortened(value, left)
        yield name, kept
        left -= size
        if left <= 0:
            return


def _shortened(value: object, limit: int) -> tuple[object, int]:
    """`(the value, or its beginning as text; what it counts)`."""
    if isinstance(value, bytes):
        text = text_of(value[:limit])
        return (text if len(value) <= limit else text + CUT), len(value)
    if isinstance(value, str):
        return (value if len(value) <= limit else value[:limit] + CUT), len(value)
    if isinstance(value, (list, dict)):
        text = json_text(value)
        return (value if len(text) <= limit else text[:limit] + CUT), len(text)
    return value, 0


@final
class Compiler:
    """Compiles the expressions of one configuration.

    `needs_request_body`, `needs_response_body`: whether any compiled so far names that body, which
    then has to be recorded.
    """

    __slots__ = ("_engine", "needs_request_body", "needs_response_body")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.needs_request_body = False
        self.needs_response_body = False

    def expression(self, source: object, path: str, *, at_end: bool = True) -> Expression:
        """`at_end`: it is evaluated when the exchange has ended, else no body is there to read.

        Raises: ConfigError at `path`, when `source` is no text or cannot be honoured.
        """
        if not isinstance(source, str):
            raise ConfigError(path, "a CEL expression must be text")
        try:
            program = self._engine.compile(source)
        except ConfigError as exc:
            raise ConfigError(path, exc.message) from exc
        made = Expression(program)
        if made.needs_request_body or made.needs_response_body:
            if not at_end:
                raise ConfigError(path, "names a body, and none is there yet when this is decided")
            self.needs_request_body |= made.needs_request_body
            self.needs_response_body |= made.needs_response_body
        return made

    def expressions(
        self, sources: object, path: str, *, at_end: bool = True
    ) -> dict[str, Expression]:
        """An ordered map of name to expression. Raises: ConfigError."""
        if sources is None:
            return {}
        if not isinstance(sources, Mapping):
            raise ConfigError(path, "must map names to CEL expressions")
        return {
            str(k): self.expression(v, f"{path}.{k}", at_end=at_end) for k, v in sources.items()
        }
