"""Another service processes messages: Envoy's protocol, over one stream an exchange.

Source: spec/config.md sections 3.2, 3.9, 0.4, 0.5 and 11; envoy.service.ext_proc.v3.
"""

from __future__ import annotations

from typing import Annotated, final

from pydantic import Discriminator, RootModel, Tag

from sidecar.http.message import Request, Response
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.conditional import Choice, alternatives
from sidecar.policies.processing import Processing
from sidecar.policies.processing_exchange import Exchange
from sidecar.policies.processor import Processor
from sidecar.policies.schema import LIST, OBJECT, ROOT, PolicyConfig, alternative_form


class Entry(Processing):
    """One alternative."""

    condition: str | None = None
    """CEL; the entry acts when it is true. Default: it is the fallback and comes last."""


class Alternatives(PolicyConfig):
    """A list of processors."""

    conditional: list[Entry]
    """1 to 64 alternatives; the first whose condition is true for the request acts, else none."""


class Config(
    RootModel[
        Annotated[
            Annotated[Processing, Tag(OBJECT)] | Annotated[Alternatives, Tag(LIST)],
            Discriminator(alternative_form),
        ]
    ]
):
    """A plain processor, or a list of alternatives."""

    model_config = ROOT


@final
class ExtProc:
    """Both hooks; a response is shown to the processor of its request."""

    __slots__ = ("_choice", "_key", "needs_request_body", "needs_response_body")

    def __init__(self, config: Config, services: Services) -> None:
        if isinstance(config.root, Processing):
            self._choice = Choice([(None, Processor(config.root, services))])
        else:
            self._choice = alternatives(config.root.conditional, Processor, services)
        self._key = f"extProc/{id(self):x}"
        processors = self._choice.items
        self.needs_request_body = self._choice.needs_request_body or any(
            one.needs_request_body for one in processors
        )
        self.needs_response_body = any(one.needs_response_body for one in processors)

    async def on_request(self, request: Request) -> Response | None:
        """Show the request; a Response when the processor answers itself. Raises: RequestError."""
        processor = self._choice.pick(request)
        if processor is None:
            return None
        exchange = Exchange(processor, request)
        request.state[self._key] = exchange
        request.endings += (exchange.end,)
        return await exchange.on_request()

    async def on_response(self, request: Request, response: Response) -> None:
        """Show a response that a backend made. Raises: RequestError."""
        exchange = request.state.get(self._key)
        if isinstance(exchange, Exchange) and response.reason == "Upstream":
            await exchange.on_response(response)


KIND = PolicyKind("extProc", Config, ExtProc)
