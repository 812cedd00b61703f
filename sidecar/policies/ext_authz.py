"""Another service decides whether a request may pass: Envoy's protocol, or plain HTTP.

Source: spec/config.md sections 3.2, 3.8, 0.4, 0.5 and 11; envoy.service.auth.v3.
"""

from __future__ import annotations

from typing import Annotated, final

from pydantic import Discriminator, RootModel, Tag

from sidecar.http.message import Request, Response
from sidecar.policies.authorizer import Authorizer
from sidecar.policies.authz import Authorization
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.conditional import Choice, alternatives
from sidecar.policies.schema import LIST, OBJECT, ROOT, PolicyConfig, alternative_form


class Entry(Authorization):
    """One alternative."""

    condition: str | None = None
    """CEL; the entry acts when it is true. Default: it is the fallback and comes last."""


class Alternatives(PolicyConfig):
    """A list of services."""

    conditional: list[Entry]
    """1 to 64 alternatives; the first whose condition is true is asked, else nobody is."""


class Config(
    RootModel[
        Annotated[
            Annotated[Authorization, Tag(OBJECT)] | Annotated[Alternatives, Tag(LIST)],
            Discriminator(alternative_form),
        ]
    ]
):
    """A plain authorization, or a list of alternatives."""

    model_config = ROOT


@final
class ExtAuthz:
    """The question for each request."""

    __slots__ = ("_choice", "needs_request_body")

    def __init__(self, config: Config, services: Services) -> None:
        if isinstance(config.root, Authorization):
            self._choice = Choice([(None, Authorizer(config.root, services))])
        else:
            self._choice = alternatives(config.root.conditional, Authorizer, services)
        self.needs_request_body = self._choice.needs_request_body or any(
            one.needs_body for one in self._choice.items
        )

    async def on_request(self, request: Request) -> Response | None:
        """Ask; a Response or RequestError when the answer is no, or nobody can tell."""
        authorizer = self._choice.pick(request)
        return None if authorizer is None else await authorizer.judge(request)


KIND = PolicyKind("extAuthz", Config, ExtAuthz)
