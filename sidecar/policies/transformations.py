"""Changes headers, pseudo headers, body and metadata with computed values.

Source: spec/config.md sections 3.5 and 0.5 (conditional); hardening cases 17, 36 and 38.

Design note. One transform runs metadata → replace → add → set → remove → body. Metadata is visible
to the other steps. All other expressions see the message as it came to this policy, so that the
outcome does not depend on the order of keys in a mapping; the steps only say whose field stays.
A failed or null value: `add` adds nothing, `set` removes the field, `replace` leaves no field,
`body` makes an empty body, a pseudo header stays as it was. Nothing is passed on that was meant to
be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, final

from pydantic import Discriminator, Field, RootModel, Tag

from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies import fields, pseudo
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.conditional import Choice, alternatives
from sidecar.policies.expressions import Expression, shared_plan
from sidecar.policies.schema import (
    LIST,
    OBJECT,
    ROOT,
    PolicyConfig,
    alternative_form,
    child,
    nested,
)

_BODILESS = frozenset((204, 205, 304))


class Transform(PolicyConfig):
    """Changes of one direction. Every value is CEL; text needs quotes of its own."""

    metadata: dict[str, str] = Field(default_factory=dict)
    """Name → CEL; the value is `metadata.<name>` afterwards. Default: none."""
    replace: str | None = None
    """CEL that gives a map of all headers, values text or lists of text. Default: they stay."""
    add: dict[str, str] = Field(default_factory=dict)
    """Name → CEL of a value appended. Default: none."""
    set: dict[str, str] = Field(default_factory=dict)
    """Name → CEL of the value put in place; also `:method`, `:scheme`, `:authority`, `:path` of a
    request and `:status` of a response. Default: none."""
    remove: list[str] = Field(default_factory=list)
    """Names dropped. Default: none."""
    body: str | None = None
    """CEL of the new body. Default: it stays."""


class Plain(PolicyConfig):
    """Both directions."""

    request: Transform | None = None
    """Before the request goes on. Default: nothing."""
    response: Transform | None = None
    """Before the response goes back. Default: nothing."""


class Entry(Plain):
    """One alternative."""

    condition: str | None = None
    """CEL; the entry acts when it is true. Default: it is the fallback and comes last."""


class Alternatives(PolicyConfig):
    """A list of transformations."""

    conditional: list[Entry]
    """1 to 64 alternatives; the first whose condition is true acts, else nothing changes."""


class Config(
    RootModel[
        Annotated[
            Annotated[Plain, Tag(OBJECT)] | Annotated[Alternatives, Tag(LIST)],
            Discriminator(alternative_form),
        ]
    ]
):
    """A plain transformation, or a list of alternatives."""

    model_config = ROOT


@final
class Transformations:
    """The hooks that exist are those some alternative has a transform for."""

    __slots__ = (
        "_choice",
        "_key",
        "needs_request_body",
        "needs_response_body",
        "on_request",
        "on_response",
    )

    def __init__(self, config: Config, services: Services) -> None:
        if isinstance(config.root, Plain):
            self._choice = Choice([(None, _Pair(config.root, services))])
        else:
            self._choice = alternatives(
                config.root.conditional, _Pair, services, with_response=True
            )
        pairs = self._choice.items
        self._key = f"transformations/{id(self):x}"
        requests = [pair.request for pair in pairs if pair.request is not None]
        responses = [pair.response for pair in pairs if pair.response is not None]
        self.needs_request_body = self._choice.needs_request_body or any(
            item.needs_request_body for item in (*requests, *responses)
        )
        self.needs_response_body = self._choice.needs_response_body or any(
            item.needs_response_body for item in responses
        )
        self.on_request = self._request if requests else None
        """Changes the request in place; None without a request transform."""
        self.on_response = self._response if responses else None
        """Changes the response in place; None without a response transform."""

    def _request(self, request: Request) -> None:
        pair = self._choice.pick(request)
        request.state[self._key] = pair
        if pair is not None and pair.request is not None:
            pair.request.apply(request, None)

    def _response(self, request: Request, response: Response) -> None:
        # The alternative that shaped the request shapes its response, unless a condition looks at
        # the response or the request never came to this policy.
        if self._choice.names_response or self._key not in request.state:
            pair = self._choice.pick(request, response)
        else:
            chosen = request.state[self._key]
            pair = chosen if isinstance(chosen, _Pair) else None
        if pair is not None and pair.response is not None:
            pair.response.apply(request, response)


@final
class _Pair:
    """The two directions of one alternative."""

    __slots__ = ("request", "response")

    def __init__(self, config: Plain, services: Services) -> None:
        self.request = _compiled(config.request, services, "request")
        self.response = _compiled(config.response, services, "response")


def _compiled(config: Transform | None, services: Services, direction: str) -> _Transform | None:
    if config is None:
        return None
    try:
        return _Transform(config, services, late=direction == "response")
    except ConfigError as problem:
        raise nested(direction, problem) from problem


@final
class _Transform:
    """One direction, compiled. `late`: it works on the response."""

    __slots__ = (
        "_body",
        "_computed",
        "_drop",
        "_learning_plan",
        "_metadata",
        "_plan",
        "_pseudo",
        "_replace",
        "needs_request_body",
        "needs_response_body",
    )

    def __init__(self, config: Transform, services: Services, *, late: bool) -> None:
        def compile_at(source: str, path: str) -> Expression:
            return Expression(source, services, path, with_response=late)

        self._metadata = tuple(
            (name, compile_at(source, child("metadata", name)))
            for name, source in config.metadata.items()
        )
        self._replace = None if config.replace is None else compile_at(config.replace, "replace")
        self._body = None if config.body is None else compile_at(config.body, "body")
        self._pseudo: list[tuple[pseudo.Setter, Expression]] = []
        added = fields.names(self._without_pseudo(config.add, "add", compile_at, late), "add")
        put = fields.names(self._without_pseudo(config.set, "set", compile_at, late), "set")
        if not late:
            # The authority stands for the Host field.
            for mapping, path in ((added, "add.host"), (put, "set.host")):
                host = mapping.pop(b"host", None)
                if host is not None:
                    self._pseudo.append((pseudo.REQUEST[":authority"], compile_at(host, path)))
        name_of = fields.header_name if late else fields.removable_name
        removed = {name_of(name, f"remove[{index}]") for index, name in enumerate(config.remove)}
        self._drop = fields.remover(put.keys() | removed, twins=not late)
        # What a later step drops is never computed.
        self._computed = [
            (name, compile_at(source, f"add.{name.decode()}"))
            for name, source in added.items()
            if name not in put and name not in removed
        ] + [
            (name, compile_at(source, f"set.{name.decode()}"))
            for name, source in put.items()
            if name not in removed
        ]
        self._make_plans()

    def _without_pseudo(
        self,
        sources: Mapping[str, str],
        path: str,
        compile_at: Callable[[str, str], Expression],
        late: bool,
    ) -> dict[str, str]:
        """Takes the pseudo headers out; a pseudo header has one value, so adding it sets it."""
        setters = pseudo.RESPONSE if late else pseudo.REQUEST
        rest: dict[str, str] = {}
        for name, source in sources.items():
            if not name.startswith(":"):
                rest[name] = source
                continue
            setter = setters.get(name.lower())
            if setter is None:
                text = "unknown pseudo header, expected " + ", ".join(f"`{n}`" for n in setters)
                raise ConfigError(child(path, name), text)
            self._pseudo.append((setter, compile_at(source, child(path, name))))
        return rest

    def _make_plans(self) -> None:
        learning = [item for _, item in self._metadata]
        self._learning_plan = shared_plan(learning)
        changing = [item for _, item in self._pseudo]
        changing += [item for _, item in self._computed]
        changing += [item for item in (self._replace, self._body) if item is not None]
        self._plan = shared_plan(changing)
        everything = learning + changing
        self.needs_request_body = any(item.needs_request_body for item in everything)
        self.needs_response_body = any(item.needs_response_body for item in everything)

    def apply(self, request: Request, response: Response | None) -> None:
        """Compute everything, then change the message in place."""
        if self._metadata:
            self._learn(request, response)
        variables = self._plan.activation(request, response)
        headers = request.headers if response is None else response.headers
        replacement = (
            None
            if self._replace is None
            else _all_headers(headers, self._replace.value_in(variables))
        )
        pseudo_values = [
            (setter, expression.encoded_in(variables)) for setter, expression in self._pseudo
        ]
        appended = [
            (name, field)
            for name, expression in self._computed
            if (value := expression.encoded_in(variables)) is not None
            and (field := fields.checked(value)) is not None
        ]
        body = None if self._body is None else self._body.encoded_in(variables) or b""

        if replacement is not None:
            headers[:] = replacement
        if self._drop is not None:
            self._drop(headers)
        headers.extend(appended)
        for setter, value in pseudo_values:
            if value is not None:
                setter(request, response, value)
        if body is not None:
            _replace_body(request, response, body)

    def _learn(self, request: Request, response: Response | None) -> None:
        variables = self._learning_plan.activation(request, response)
        values = {name: item.value_in(variables) for name, item in self._metadata}
        learnt = {name: value for name, value in values.items() if value is not None}
        known = request.state.get("metadata")
        request.state["metadata"] = {**known, **learnt} if isinstance(known, Mapping) else learnt


def _all_headers(present: Headers, value: object) -> Headers:
    """The header list of a computed map; framing is the gateway's own and survives."""
    result = Headers(item for item in present if item[0] in fields.FRAMING)
    if isinstance(value, Mapping):
        for name, texts in value.items():
            result.extend(fields.computed(name, texts))
    return result


def _replace_body(request: Request, response: Response | None, body: bytes) -> None:
    if response is None:
        if request.upgrade:
            # What follows the head of an upgrade is no body.
            return
        request.body.close()
        request.body = FixedBody(body, request.body.trailers)
        request.headers.remove_all(b"content-length")
        return
    if response.tunnel is not None:
        return
    response.headers.remove_all(b"content-length")
    # A response that cannot have a body keeps its empty one.
    if request.method != "HEAD" and response.status not in _BODILESS and response.status >= 200:
        response.body.close()
        response.body = FixedBody(body, response.body.trailers)


KIND = PolicyKind("transformations", Config, Transformations)
