"""Asking servers: what all parts of a federation have in common.

Source: spec/mcp_a2a.md sections 2.2, 2.3 and 2.7.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, final

from sidecar.errors import SidecarError, UpstreamError
from sidecar.http.message import Request
from sidecar.jsonrpc import Json
from sidecar.mcp import event_ids, rewrite
from sidecar.mcp.capabilities import offers
from sidecar.mcp.gathered import Answers, Failure, Gathered, failure_of_refusal
from sidecar.mcp.lanes import Caller, Lanes
from sidecar.mcp.listing import Listing
from sidecar.mcp.names import Names
from sidecar.mcp.streams import close_one, opened
from sidecar.mcp.upstream.base import Inbound, Messages, Refused

Admit = Callable[[Request], Coroutine[Any, Any, None]]


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """How a backend federates."""

    server_info: Json
    fails_open: bool = False
    is_stateful: bool = True


@final
class Asking:
    """The servers of one backend."""

    __slots__ = ("_admit", "lanes", "listing", "names", "terms")

    def __init__(
        self,
        lanes: Lanes,
        names: Names,
        listing: Listing,
        terms: Terms,
        admit: Admit | None = None,
    ) -> None:
        """`admit`: limits of single messages."""
        self._admit = admit
        self.lanes = lanes
        self.names = names
        self.listing = listing
        self.terms = terms

    async def admit(self, caller: Caller) -> None:
        """Whether the message may go on, when it is known what it is about: `request.state["mcp"]`
        tells. Raises: RequestError 429; 500 and 503 by failure mode."""
        if self._admit is not None:
            await self._admit(caller.request)

    def change(self, target: str, method: str = "") -> Callable[[Inbound], Inbound]:
        """How messages of a server come to the client. `method`: of the request they are about."""
        names, listing = self.names, self.listing

        def change(inbound: Inbound) -> Inbound:
            message = inbound.message
            if "method" in message:
                listing.hear(target, message)
            if not names.is_several:
                return inbound
            told = rewrite.to_client(names, target, message, method)
            identity = inbound.event_id
            if identity:
                identity = event_ids.composite({target: identity})
            return Inbound(told, identity, inbound.retry_ms)

        return change

    async def gathered(
        self, sent: Mapping[str, Json], caller: Caller, finish: Callable[[Answers], Json]
    ) -> Messages:
        """Raises: what `finish` raises, when that is known before anything was said."""
        answers = Answers({}, {})
        taken = await opened(
            (self._asked(name, message, caller, answers) for name, message in sent.items()),
            close_one,
        )
        sources = {name: one for name, one in zip(sent, taken, strict=True) if one is not None}
        changes = {name: self.change(name) for name in sources}

        def change(name: str, inbound: Inbound) -> Inbound:
            # Without its id: by that the client would get the one server's answer alone.
            return Inbound(changes[name](inbound).message)

        gathered = Gathered(sources, answers, change, finish)
        await gathered.whole()
        return gathered

    async def _asked(
        self, name: str, message: Json, caller: Caller, answers: Answers
    ) -> Messages | None:
        try:
            return (await self.lanes.request(name, message, caller)).messages
        except Refused as error:
            answers.failures[name] = seen_from_outside(error)
        except SidecarError as error:
            answers.failures[name] = error
        return None


def seen_from_outside(error: Refused) -> Failure:
    """One of several servers refused: what the client gets, for whom there is only the gateway."""
    failure = failure_of_refusal(error)
    if not isinstance(failure, Refused) or failure.status in (400, 404):
        return failure
    return UpstreamError(502, "UpstreamFailure", f"an MCP target answered {failure.status}")


def is_open(caller: Caller, name: str) -> bool:
    """Whether the session was begun at a server."""
    live = caller.live
    if live is None:
        return True
    found = live.upstreams.get(name)
    return found is not None and bool(found.version)


def is_asked(caller: Caller, name: str, method: str) -> bool:
    """Whether a server is asked what all are asked."""
    live = caller.live
    if live is None:
        return True
    found = live.upstreams.get(name)
    return found is not None and bool(found.version) and offers(found.capabilities, method)
