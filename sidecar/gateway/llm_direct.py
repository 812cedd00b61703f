"""A call of a model in callbacks: no task, no future, and the connections' octets sent in one go.

Source: spec/llm.md section 0; sidecar.gateway.direct.

It serves a chat that is wholly at hand, asked of a provider for whom nobody has to be waited for:
no guard, no token to fetch, a kept HTTP/1.1 connection. A whole success is answered from here;
whatever else comes (a stream, an error, a failure that another provider may mend) goes on in the
connection's task, from the answer's head on. The provider is asked once either way.
"""

from __future__ import annotations

from typing import final

from sidecar.errors import SidecarError, UpstreamError
from sidecar.gateway.direct import Handover
from sidecar.gateway.llm_attempts import Asker, Begun
from sidecar.gateway.llm_call import ClientCall, Prepared, edited
from sidecar.gateway.llm_choice import Ranks
from sidecar.gateway.llm_facts import Record
from sidecar.gateway.llm_outgoing import head_at_once
from sidecar.gateway.plan import Route
from sidecar.gateway.upstream import Picked
from sidecar.http.message import Request, Response
from sidecar.net.h1_client import H1Client


def start(
    asker: Asker,
    client: ClientCall,
    ranks: Ranks,
    request: Request,
    route: Route,
    handover: Handover,
) -> DirectAsk | None:
    """Ask the first provider; None when that takes waiting. Raises: SidecarError, nothing sent."""
    member = ranks.first()
    if not asker.is_direct(member):
        return None
    shared = asker.shared
    record = Record(request, route, shared.clock, shared.metrics, shared.prices)
    body = edited(client, member, request)
    call = asker.prepared(client, body, member, record, request)
    head = head_at_once(call, request, route)
    if head is None:
        return None
    picked = call.backend.upstream.pick_nowait(request)
    connection = picked.pool.take_kept() if picked is not None else None
    if picked is None or connection is None:
        return None
    ask = DirectAsk(asker, client, call, record, ranks, route, handover, picked, connection)
    ask.begin(head, request)
    return ask


@final
class DirectAsk:
    """The call under way. See h1_client.Answer and net.host.Cancellable."""

    __slots__ = (
        "_asker",
        "_begun",
        "_call",
        "_client",
        "_connection",
        "_handover",
        "_is_done",
        "_picked",
        "_ranks",
        "_record",
        "_route",
    )

    def __init__(
        self,
        asker: Asker,
        client: ClientCall,
        call: Prepared,
        record: Record,
        ranks: Ranks,
        route: Route,
        handover: Handover,
        picked: Picked,
        connection: H1Client,
    ) -> None:
        self._asker = asker
        self._client = client
        self._call = call
        self._record = record
        self._ranks = ranks
        self._route = route
        self._handover = handover
        self._picked = picked
        self._connection = connection
        self._is_done = False
        self._begun: Begun | None = None
        """What waits for the task to go on with it."""

    def begin(self, head: bytes, request: Request) -> None:
        """Send it."""
        exchange = self._handover.exchange
        exchange.endpoint = self._picked.label
        exchange.upstream_started_ns = exchange.worker.clock.monotonic_ns()
        self._picked.begin()
        self._record.under_way.begin(self._call.member.endpoint.state)
        self._connection.begin(head, self._call.body, request, "POST", self, self._handover.outbox)

    def done(self) -> bool:
        """Whether it has ended."""
        return self._is_done

    def set_result(self, response: Response) -> None:
        """The provider answered."""
        self._end(response, None)
        try:
            answer = self._asker.answers.at_once(response, self._call, self._record)
        except Exception as error:  # whatever it is, the task tells it as it would its own
            self._record.under_way.end()
            self._go_on(Begun(self._call, failure=error))
            return
        if answer is None:
            self._go_on(Begun(self._call, response))
            return
        self._record.under_way.end()
        self._handover.answer(answer)

    def set_exception(self, error: Exception) -> None:
        """The call failed."""
        failure = error if isinstance(error, SidecarError) else None
        self._end(None, failure)
        self._record.under_way.end()
        if isinstance(error, UpstreamError):
            error.sent = True  # a POST may have been acted on
        self._go_on(Begun(self._call, failure=error))

    def _end(self, response: Response | None, failure: SidecarError | None) -> None:
        self._is_done = True
        exchange = self._handover.exchange
        ended = exchange.upstream_ended_ns = exchange.worker.clock.monotonic_ns()
        took_ns = ended - exchange.upstream_started_ns
        self._picked.end(took_ns, response, failure)
        self._ranks.record(self._call.member, took_ns / 1e9, response, failure)

    def _go_on(self, begun: Begun) -> None:
        self._begun = begun
        self._handover.go_on(self._resume)

    async def _resume(self) -> Response:
        begun, self._begun = self._begun, None
        handover = self._handover
        exchange = handover.exchange
        return await self._asker.asked(
            self._client,
            self._record,
            self._ranks,
            exchange.request,
            exchange,
            self._route,
            handover.attempt,
            begun,
        )

    def cancel(self) -> None:
        """The client left."""
        if not self._is_done:
            self._is_done = True
            self._picked.end(0, None, None)
            self._connection.close()
            self._handover.exchange.finish_cancelled()
        elif self._begun is not None:
            begun, self._begun = self._begun, None
            if begun.response is not None:
                begun.response.body.close()
            self._handover.exchange.finish_cancelled()
