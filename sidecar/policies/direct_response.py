"""Answers without a backend.

Source: spec/config.md sections 3.4 and 0.5 (conditional).
"""

from __future__ import annotations

from typing import Annotated, Self, final

from pydantic import Discriminator, Field, RootModel, Tag, model_validator

from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies import fields
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.conditional import Choice, alternatives
from sidecar.policies.expressions import Expression, shared_plan
from sidecar.policies.schema import LIST, OBJECT, PLAIN, ROOT, PolicyConfig, alternative_form

Octet = Annotated[int, Field(ge=0, le=255)]
BytesText = Annotated[
    Annotated[str, Tag(PLAIN)] | Annotated[list[Octet], Tag(LIST)],
    Discriminator(lambda value: LIST if isinstance(value, list) else PLAIN),
]
_BODILESS = frozenset((204, 205, 304))


class Answer(PolicyConfig):
    """One answer."""

    status: int = Field(ge=200, le=999)
    """Status code, 200 to 999: an interim status cannot end an exchange."""
    body: BytesText | None = None
    """The body, text (sent as UTF-8) or a list of octets. Default: empty."""
    body_expression: str | None = None
    """CEL that gives the body instead of `body`; empty when it fails."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Name → CEL that gives the value; a header whose expression fails is left out."""

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if self.body is not None and self.body_expression is not None:
            raise ValueError("only one of `body` and `bodyExpression` may be set")
        has_body = bool(self.body) or self.body_expression is not None
        if has_body and self.status in _BODILESS:
            raise ValueError(f"a {self.status} response has no body")
        return self


class Entry(Answer):
    """One alternative."""

    condition: str | None = None
    """CEL; the entry acts when it is true. Default: it is the fallback and comes last."""


class Alternatives(PolicyConfig):
    """A list of answers."""

    conditional: list[Entry]
    """1 to 64 alternatives; the first whose condition is true answers, else the request goes on."""


class Config(
    RootModel[
        Annotated[
            Annotated[Answer, Tag(OBJECT)] | Annotated[Alternatives, Tag(LIST)],
            Discriminator(alternative_form),
        ]
    ]
):
    """A plain answer, or a list of alternatives."""

    model_config = ROOT


@final
class DirectResponse:
    """Ready answers behind their conditions."""

    __slots__ = ("_choice", "needs_request_body")

    def __init__(self, config: Config, services: Services) -> None:
        if isinstance(config.root, Answer):
            self._choice = Choice([(None, _Ready(config.root, services))])
        else:
            self._choice = alternatives(config.root.conditional, _Ready, services)
        self.needs_request_body = self._choice.needs_request_body or any(
            ready.needs_request_body for ready in self._choice.items
        )

    def on_request(self, request: Request) -> Response | None:
        """Answer with the first alternative that applies; None when none does."""
        ready = self._choice.pick(request)
        return None if ready is None else ready.respond(request)


@final
class _Ready:
    """An answer with its constants encoded and its expressions compiled."""

    __slots__ = ("_body", "_expression", "_headers", "_plan", "_status", "needs_request_body")

    def __init__(self, answer: Answer, services: Services) -> None:
        self._status = answer.status
        body = "" if answer.body is None else answer.body
        self._body = body.encode() if isinstance(body, str) else bytes(body)
        source = answer.body_expression
        self._expression = (
            None if source is None else Expression(source, services, "bodyExpression")
        )
        self._headers = tuple(
            (name, Expression(text, services, f"headers.{name.decode()}"))
            for name, text in fields.names(answer.headers, "headers").items()
        )
        expressions = [expression for _, expression in self._headers]
        if self._expression is not None:
            expressions.append(self._expression)
        self._plan = shared_plan(expressions) if expressions else None
        self.needs_request_body = any(item.needs_request_body for item in expressions)

    def respond(self, request: Request) -> Response:
        """The answer to this request."""
        headers, body = Headers(), self._body
        if self._plan is not None:
            variables = self._plan.activation(request)
            for name, expression in self._headers:
                value = expression.encoded_in(variables)
                field = None if value is None else fields.checked(value)
                if field is not None:
                    headers.append((name, field))
            if self._expression is not None:
                body = self._expression.encoded_in(variables) or b""
        return Response(self._status, headers, FixedBody(body), reason="DirectResponse")


KIND = PolicyKind("directResponse", Config, DirectResponse)
