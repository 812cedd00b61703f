"""How many calls each provider is busy with: from the call until its answer's last octet.

Source: spec/llm.md section 3.1 (power of two choices by calls under way).
"""

from __future__ import annotations

from typing import final

from sidecar.http.message import Request, Response
from sidecar.routing.balance import EndpointState


@final
class UnderWay:
    """The call that one request has under way, of one provider after the other."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: EndpointState | None = None
        """Of the provider that is busy; None: nobody is."""

    def begin(self, state: EndpointState) -> None:
        """A provider is asked; the one before, if there was one, has nothing to do any more."""
        if self.state is not None:
            self.end()
        state.begin()
        # That of the beginning: a reload may put another in its endpoint's place.
        self.state = state

    def end(self) -> None:
        """The provider is done, or has failed."""
        state, self.state = self.state, None
        if state is not None:
            state.end()

    def __call__(self, request: Request, response: Response | None) -> None:
        """See http.message.Ending."""
        self.end()


__all__ = ["UnderWay"]
