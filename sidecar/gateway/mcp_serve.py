"""Serves the requests of an `mcp` backend: Streamable HTTP of every revision on one endpoint.

Source: spec/mcp_a2a.md sections 1.3, 1.4, 2.4 and 2.6; design section 5.

One request: who may ask → era (mcp.era) → session (mcp.sessions) → the servers (mcp.federation) →
JSON or events. Any worker serves any of a session's requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import orjson

from shm.errors import ShmError
from sidecar import jsonrpc
from sidecar.errors import RequestError, UpstreamError
from sidecar.gateway.llm_body import read_request
from sidecar.gateway.mcp_facts import Facts, McpMetrics
from sidecar.gateway.mcp_http import (
    BODY_BYTES,
    LIMITED,
    check_get,
    check_json,
    check_origin,
    check_post,
    failed,
    limited,
    no_session,
    not_allowed,
    passed_on,
    proofs,
    refusal,
    refused,
    shown,
)
from sidecar.gateway.mcp_old import MAX_STREAMS, PATH, OldStream, place_of, posted
from sidecar.gateway.mcp_stream import EventBody, answer, document, logging_of, stream
from sidecar.http.message import FixedBody, PrefixedBody, Request, Response
from sidecar.http.sse import encode_event
from sidecar.jsonrpc import INVALID_REQUEST, Id, Json, JsonRpcError
from sidecar.mcp import era, event_ids, event_log
from sidecar.mcp.era import BATCHES, Legacy, Modern, era_of, version_of
from sidecar.mcp.federation import Federation, new_uuid
from sidecar.mcp.lanes import Caller
from sidecar.mcp.sessions import (
    HEADER,
    Live,
    Sessions,
    SessionsFullError,
    principal_of,
    seen_by_servers,
)
from sidecar.mcp.streams import Answering, Merged, Ready
from sidecar.mcp.upstream.base import Inbound, Messages, Refused, Scope

if TYPE_CHECKING:
    from sidecar.gateway.exchange import Exchange
    from sidecar.gateway.mcp_worker import McpWorker
    from sidecar.gateway.plan import Attempt, Route

_METHODS: Final = b"GET, POST, DELETE"
_BATCH_MAX: Final = 64


@final
@dataclass(frozen=True, slots=True)
class Admission:
    """Who may ask, and how strictly the form is looked at."""

    is_local_only: bool = False
    """`dnsRebindingProtection`."""
    origins: frozenset[str] | None = None
    """Those of browsers that may ask; None: any."""
    is_strict: bool = True
    """Whether mirrored headers must be there and agree."""


@final
class McpServe:
    """An `mcp` backend. See plan.Serve."""

    __slots__ = ("_admission", "_federation", "_metrics", "_sessions", "_worker")

    def __init__(
        self,
        federation: Federation,
        worker: McpWorker,
        admission: Admission,
        metrics: McpMetrics,
    ) -> None:
        assert worker.sessions is not None, "McpWorker.serving comes first"
        self._federation = federation
        self._worker = worker
        self._sessions: Sessions = worker.sessions
        self._admission = admission
        self._metrics = metrics

    async def serve(
        self, request: Request, exchange: Exchange, route: Route, attempt: Attempt
    ) -> Response:
        """See plan.Serve."""
        admission = self._admission
        check_origin(request, admission.origins, is_local_only=admission.is_local_only)
        clock = exchange.worker.clock.monotonic_ns
        exchange.upstream_started_ns = clock()
        try:
            return await self._served(request, route)
        except Refused as error:
            return refused(error)
        except (SessionsFullError, ShmError) as error:
            text = "no room for another session" if isinstance(error, SessionsFullError) else ""
            raise RequestError(
                503, "Overload", text or "sessions failed", headers=((b"retry-after", b"5"),)
            ) from error
        finally:
            exchange.upstream_ended_ns = clock()

    async def _served(self, request: Request, route: Route) -> Response:
        method = request.method
        if request.path == PATH and self._federation.is_stateful:
            if method == "GET" and not request.headers.has(HEADER):
                return self._opened(request)
            if method == "POST" and not request.headers.has(HEADER):
                return await self._told(request, route)
        if method == "POST":
            return await self._posted(request, route)
        if method == "GET":
            return await self._listening(request)
        if method == "DELETE":
            return await self._deleted(request)
        return not_allowed(_METHODS)

    # --- POST -----------------------------------------------------------------------------

    async def _posted(self, request: Request, route: Route) -> Response:
        check_post(request)
        raw = await read_request(request, BODY_BYTES)
        facts = Facts(request)
        try:
            document = jsonrpc.parse(raw)
            if isinstance(document, list):
                return await self._batch(document, request, route, facts)
            return await self._message(document, request, route, facts)
        except JsonRpcError as error:
            facts.failed(error.code, error)
            return refusal(error, request)

    async def _message(
        self, message: Json, request: Request, route: Route, facts: Facts
    ) -> Response:
        kind = jsonrpc.kind_of(message)
        spoken = era_of(request.headers, message, kind, is_strict=self._admission.is_strict)
        if kind in ("request", "notification"):
            facts.asks(message)
        identity = jsonrpc.id_of(message) if kind == "request" else None
        try:
            if message.get("method") == "initialize" and identity is not None:
                return await self._greeted(message, request, facts)
            caller = self._caller(request, spoken, facts)
            if isinstance(caller, Response):
                return caller
            if identity is None:
                await self._federation.tell(message, caller)
                return Response(202)
            messages = await self._federation.request(message, caller, facts.goes_to)
            return await answer(
                messages, identity, facts.seen, logging_of(self._worker.logs, caller)
            )
        except JsonRpcError as error:
            error.identity = identity
            raise
        except UpstreamError as error:
            facts.failed(jsonrpc.INTERNAL_ERROR, error)
            return failed(error, identity)
        except RequestError as error:
            facts.failed(LIMITED, error)
            return limited(error, identity)
        finally:
            if "methodName" in facts.state:
                self._metrics.count(route, facts.labels())

    def _caller(self, request: Request, spoken: Legacy | Modern, facts: Facts) -> Caller | Response:
        """Who asks; or how it is refused that there is no such session."""
        principal = self._principal(request)
        is_trusted = self._federation.lanes.shows_credentials
        # A session is not bound to it: tokens change as long as it lives.
        who = seen_by_servers(self._worker.key, principal, shown(request, is_trusted=is_trusted))
        headers, own = passed_on(request)
        owner = self._sessions.owner.worker
        if isinstance(spoken, Modern):
            scope = Scope("principal", who, owner)
            return Caller(
                request, headers, who, "modern", spoken.version, scope, None, own, spoken.meta
            )
        if not self._federation.is_stateful:
            scope = Scope("principal", who, owner)
            version = spoken.version or era.ASSUMED
            return Caller(request, headers, who, "legacy", version, scope, None, own)
        live = self._session(request, principal)
        if isinstance(live, Response):
            return live
        facts.state["sessionId"] = live.shown
        scope = Scope("session", live.key, live.row.owner.worker)
        version = live.claims.version
        return Caller(request, headers, who, "legacy", version, scope, live, own)

    def _session(self, request: Request, principal: bytes) -> Live | Response:
        given = request.headers.get_all(HEADER)
        if len(given) != 1:
            return no_session(400)
        text = given[0].decode("latin-1")
        live = self._sessions.open(text, self._federation.key, principal)
        return no_session(404) if live is None else live

    def _principal(self, request: Request) -> bytes:
        return principal_of(self._worker.key, proofs(request))

    async def _greeted(self, message: Json, request: Request, facts: Facts) -> Response:
        principal = self._principal(request)
        headers, own = passed_on(request)
        uuid = new_uuid()
        sessions = self._sessions
        scope = Scope("session", sessions.key_of(uuid), sessions.owner.worker)
        caller = Caller(request, headers, principal, "legacy", "", scope, None, own)
        greeting = await self._federation.greet(message, caller, uuid)
        response = await answer(greeting.messages, message["id"], facts.seen)
        if greeting.live is not None:
            facts.state["sessionId"] = greeting.live.shown
            self._worker.opened(self._federation, greeting.live)
            response.headers.append((HEADER, greeting.live.text.encode()))
        return response

    # --- HTTP+SSE -------------------------------------------------------------------------

    def _opened(self, request: Request) -> Response:
        """A stream of the older transport."""
        check_get(request)
        if len(self._worker.streams) >= MAX_STREAMS:
            raise RequestError(503, "Overload", "no room for another stream")
        made = OldStream(self._worker, self._federation, self._principal(request))
        self._worker.streams.add(made)
        place = made.endpoint(self._sessions.owner.worker)
        response = stream(EventBody(made, None, _unseen, has_ids=False))
        response.body = PrefixedBody(encode_event(place.encode(), b"endpoint"), response.body)
        return response

    async def _told(self, request: Request, route: Route) -> Response:
        """A message to such a stream, on which its answer comes."""
        check_json(request)
        principal, backend = self._principal(request), self._federation.key
        place = place_of(self._sessions, request, principal, backend)
        if place is None:
            return no_session(404)
        facts = Facts(request)
        try:
            message = jsonrpc.parse(await read_request(request, BODY_BYTES))
            if not isinstance(message, dict):
                raise JsonRpcError(INVALID_REQUEST, "Invalid request: not a message")
            if jsonrpc.kind_of(message) in ("request", "notification"):
                facts.asks(message)
            await self._worker.deliver(posted(message, request, place, self._federation.state))
        except JsonRpcError as error:
            facts.failed(error.code, error)
            return refusal(error, request)
        except (Refused, UpstreamError):
            # Its worker, or its connection, is gone.
            return no_session(404)
        finally:
            if "methodName" in facts.state:
                self._metrics.count(route, facts.labels())
        return Response(202)

    # --- batches --------------------------------------------------------------------------

    async def _batch(
        self, given: list[Any], request: Request, route: Route, facts: Facts
    ) -> Response:
        """Several messages, in the one version that has them; answered by one JSON list."""
        header = version_of(request.headers)
        caller = self._caller(request, Legacy(header or BATCHES), facts)
        if isinstance(caller, Response):
            return caller
        if caller.version != BATCHES or header not in ("", BATCHES):
            raise JsonRpcError(INVALID_REQUEST, "Invalid request: batches are not supported")
        if len(given) > _BATCH_MAX:
            raise JsonRpcError(INVALID_REQUEST, f"Invalid request: more than {_BATCH_MAX} messages")
        sources = await self._all_of_batch(given, caller, request, route)
        if not sources:
            return Response(202)
        if not all(source.is_json for source in sources):
            return stream(EventBody(Merged(sources), None, facts.seen, has_ids=False))
        taken = [await source.next() for source in sources]
        response = document({})
        response.body = FixedBody(orjson.dumps([one.message for one in taken if one is not None]))
        return response

    async def _all_of_batch(
        self, given: list[Any], caller: Caller, request: Request, route: Route
    ) -> list[Messages]:
        sources: list[Messages] = []
        try:
            for message in given:
                source = await self._of_batch(message, caller, request, route)
                if source is not None:
                    sources.append(source)
        except BaseException:
            # A server wants the client to begin anew, or to log in: nobody reads the others.
            for source in sources:
                source.close()
            raise
        return sources

    async def _of_batch(
        self, message: object, caller: Caller, request: Request, route: Route
    ) -> Messages | None:
        """What answers one of several; None for what has no answer."""
        identity: Id | None = None
        facts = Facts(request, caller.live.shown if caller.live is not None else "")
        try:
            kind = jsonrpc.kind_of(message)
            assert isinstance(message, dict)
            if kind in ("request", "notification"):
                facts.asks(message)
            if kind != "request":
                await self._federation.tell(message, caller)
                return None
            identity = jsonrpc.id_of(message)
            if message["method"] == "initialize":
                raise JsonRpcError(INVALID_REQUEST, "Invalid request: initialize in a batch")
            messages = await self._federation.request(message, caller, facts.goes_to)
            return Answering(messages, identity)
        except JsonRpcError as error:
            return Ready.of(jsonrpc.error(identity, error.code, str(error), error.data))
        except UpstreamError as error:
            return Ready.of(jsonrpc.error(identity, jsonrpc.INTERNAL_ERROR, str(error)))
        except RequestError as error:
            return Ready.of(jsonrpc.error(identity, LIMITED, str(error)))
        finally:
            if "methodName" in facts.state:
                self._metrics.count(route, facts.labels())

    # --- GET and DELETE -------------------------------------------------------------------

    async def _listening(self, request: Request) -> Response:
        check_get(request)
        caller = self._session_caller(request)
        if isinstance(caller, Response):
            return caller
        last = request.headers.get(b"last-event-id") or b""
        place = event_ids.parse(last)
        earlier: list[Inbound] = []
        if isinstance(place, event_ids.Logged):
            try:
                found = await self._worker.logged(place, last, caller)
            except (UpstreamError, Refused):
                # An empty stream: the client asks again.
                found = None if place.listens else Ready(())
            if not place.listens or (found is not None and not found.is_json):
                left = found or event_log.lost(place.identity)
                return stream(EventBody(left, None, _unseen, has_ids=True))
            while found is not None and (inbound := await found.next()) is not None:
                earlier.append(inbound)
            last = next((one.event_id for one in reversed(earlier) if one.event_id), b"")
        await self._worker.listens_anew(caller)
        try:
            messages = await self._federation.listen(caller, last)
        except UpstreamError as error:
            return failed(error, None)
        if messages is None and not earlier:
            return not_allowed(b"POST, DELETE")
        logging = logging_of(self._worker.logs, caller, earlier)
        body = EventBody(messages or Ready(()), None, _unseen, has_ids=True, logging=logging)
        return stream(body)

    async def _deleted(self, request: Request) -> Response:
        caller = self._session_caller(request)
        if isinstance(caller, Response):
            return caller
        assert caller.live is not None
        if not self._sessions.delete(caller.live):
            return no_session(404)
        self._worker.closed(caller.live)
        # Nobody else tells the servers: the session is deleted, and not only left.
        await self._worker.surely(partial(self._federation.end, caller))
        return Response(200)

    def _session_caller(self, request: Request) -> Caller | Response:
        """Whose stream or session it is; or the refusal."""
        try:
            version = version_of(request.headers)
        except JsonRpcError as error:
            return refusal(error, request)
        if version == era.MODERN or not self._federation.is_stateful:
            return not_allowed(b"POST")
        if version and version not in era.LEGACY:
            return refusal(era.unsupported(version, (era.MODERN, *era.LEGACY)), request)
        return self._caller(request, Legacy(version), Facts(request))


def _unseen(message: Json) -> None:
    """A stream that answers nothing: no fact of the request is in it."""
