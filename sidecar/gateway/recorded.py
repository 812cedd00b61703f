"""Exchanges whose bodies are put on record, for expressions that read them at the end.

Which kind of exchange a configuration has is chosen when it is compiled: one without such an
expression makes plain ones, and its requests pass nothing of this file.

Source: spec/config.md section 7.6.
"""

from __future__ import annotations

from sidecar.gateway.exchange import Exchange, MakeExchange, WorkerState
from sidecar.http.message import FixedBody, Request, Response
from sidecar.telemetry.bodies import STATE, Bodies, Recorder


def exchanges(recorder: Recorder | None) -> MakeExchange:
    """What makes the exchanges of a configuration."""
    if recorder is None:
        return Exchange

    def make(request: Request, worker: WorkerState) -> Exchange:
        return RecordedExchange(request, worker, recorder)

    return make


class RecordedExchange(Exchange):
    """One request, with its bodies on record. `TracedExchange` (gateway.traced) tells more."""

    __slots__ = ("_bodies", "_recorder")

    def __init__(self, request: Request, worker: WorkerState, recorder: Recorder) -> None:
        super().__init__(request, worker)
        self._recorder = recorder
        self._bodies = Bodies()
        request.state[STATE] = self._bodies
        # What follows the head of an upgrade or a CONNECT is a tunnel's.
        if recorder.wants_request and not request.upgrade and request.method != "CONNECT":
            request.body, self._bodies.request = recorder.recorded(request.body)

    def answer(self, response: Response) -> None:
        """See Exchange."""
        super().answer(response)
        if not self._recorder.wants_response or response.tunnel is not None:
            return
        if self.request.method == "HEAD" or response.status in (204, 304):
            # The client gets none, whatever there is, and nobody may ever read it.
            _, self._bodies.response = self._recorder.recorded(FixedBody())
            return
        response.body, self._bodies.response = self._recorder.recorded(response.body)
