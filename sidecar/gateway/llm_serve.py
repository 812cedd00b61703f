"""Serves the requests of an `ai` backend, each as the kind that its path means.

Source: spec/llm.md section 0.
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.gateway import llm_direct
from sidecar.gateway.direct import Handover
from sidecar.gateway.exchange import Exchange
from sidecar.gateway.llm_allowed import allowed_of, check_allowed
from sidecar.gateway.llm_attempts import Asker
from sidecar.gateway.llm_body import read_request, request_at_hand
from sidecar.gateway.llm_call import client_call
from sidecar.gateway.llm_choice import Ranks
from sidecar.gateway.llm_detect import opaque, sniffed
from sidecar.gateway.llm_facts import Record
from sidecar.gateway.plan import Attempt, Route
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.llm.chat.formats import CHAT, FORMATS
from sidecar.llm.chat.paths import RouteTypes
from sidecar.net.host import Cancellable

_OPENAI: Final = frozenset(("completions", "responses", "embeddings", "rerank", "detect"))
_NOT_BUILT: Final = b'{"error":"Route \'Models\' not implemented"}'


@final
class LlmServe:
    """An `ai` backend. See plan.Serve."""

    __slots__ = ("_asker", "_ranks", "_types")

    def __init__(self, ranks: Ranks, types: RouteTypes, asker: Asker) -> None:
        self._ranks = ranks
        self._types = types
        self._asker = asker

    async def serve(
        self, request: Request, exchange: Exchange, route: Route, attempt: Attempt
    ) -> Response:
        """See plan.Serve."""
        kind = self._types.resolve(request.path)
        if kind == "models":
            headers = Headers(((b"content-type", b"application/json"),))
            return Response(501, headers, FixedBody(_NOT_BUILT), reason="Internal")
        shared = self._asker.shared
        allowed = allowed_of(request)
        if allowed is not None:
            # A body that nobody would look at otherwise; an upgrade has none.
            held = b"" if request.upgrade else await read_request(request, shared.limit_bytes)
            check_allowed(allowed, kind, request, held)
        if kind == "passthrough":
            failover = self._asker.failover
            return await opaque(kind, self._ranks, failover, request, exchange, route, attempt)
        if kind == "realtime":
            return await self._session(request, exchange, route, attempt)
        raw = await read_request(request, shared.limit_bytes)
        record = Record(request, route, shared.clock, shared.metrics, shared.prices)
        if kind == "detect":
            return await sniffed(
                self._ranks,
                self._asker.failover,
                raw,
                record,
                request,
                exchange,
                route,
                attempt,
                shared.limit_bytes,
            )
        client = client_call(kind, raw, request)
        return await self._asker.asked(
            client, record, self._ranks, request, exchange, route, attempt
        )

    async def _session(
        self, request: Request, exchange: Exchange, route: Route, attempt: Attempt
    ) -> Response:
        shared, failover = self._asker.shared, self._asker.failover
        record: Record | None = None
        if request.upgrade == "websocket":
            record = Record(request, route, shared.clock, shared.metrics, shared.prices)
        return await opaque(
            "realtime", self._ranks, failover, request, exchange, route, attempt, record=record
        )

    def start(self, request: Request, route: Route, handover: Handover) -> Cancellable | None:
        """See plan.Start."""
        kind = self._types.resolve(request.path)
        if kind not in CHAT:
            return None
        raw = request_at_hand(request, self._asker.shared.limit_bytes)
        if raw is None:
            return None
        allowed = allowed_of(request)
        if allowed is not None:
            check_allowed(allowed, kind, request, raw)
        client = client_call(kind, raw, request)
        return llm_direct.start(self._asker, client, self._ranks, request, route, handover)


@final
class ErrorShape:
    """See plan.ErrorShape."""

    __slots__ = ("_types",)

    def __init__(self, types: RouteTypes) -> None:
        self._types = types

    def __call__(self, request: Request, status: int, message: str, code: str) -> bytes | None:
        """See plan.ErrorShape. Codes of models (`model_not_found`) are lower case."""
        kind = self._types.resolve(request.received_path)
        wire_format = FORMATS.get(kind) or FORMATS["completions"]
        if not code.islower():
            return orjson.dumps(wire_format.error(status, message))
        # As the reference: whatever is wrong with a model's name is an invalid request.
        kind = "invalid_request_error" if wire_format.name in _OPENAI else ""
        return orjson.dumps(wire_format.error(status, message, kind, code))
