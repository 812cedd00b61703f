"""`llm` mode: the model that a request names decides who serves it.

Source: spec/llm.md sections 0 (error codes), 3.4 and 3.5; spec/config.md section 5.3.

A virtual model's targets are members of their own, for each name that they are asked by, so that
what is known of the health of one says nothing of the others. All of them are made at compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, final
from urllib.parse import unquote

import orjson

from sidecar.config.llm import ROUTER
from sidecar.errors import ConfigError, RequestError
from sidecar.gateway import llm_direct
from sidecar.gateway.direct import Handover
from sidecar.gateway.endpoints import Endpoints, Place
from sidecar.gateway.exchange import Exchange
from sidecar.gateway.llm_allowed import allowed_of, check_allowed
from sidecar.gateway.llm_attempts import Asker
from sidecar.gateway.llm_body import read_request, request_at_hand
from sidecar.gateway.llm_call import Member, client_call
from sidecar.gateway.llm_choice import Ranks
from sidecar.gateway.llm_detect import opaque, sniffed
from sidecar.gateway.llm_edits import REQUEST
from sidecar.gateway.llm_facts import Record
from sidecar.gateway.llm_form import form_model
from sidecar.gateway.plan import Attempt, Route
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.llm.chat import paths
from sidecar.llm.chat.base import Json
from sidecar.llm.chat.formats import CHAT
from sidecar.llm.chat.paths import RouteTypes
from sidecar.llm.names import ModelError
from sidecar.llm.router import Choice, Model, Resolution, Router
from sidecar.net.dialer import Address
from sidecar.net.host import Cancellable
from sidecar.policies.authorization import Authorization
from sidecar.policies.base import Services
from sidecar.policies.order import make
from sidecar.policies.schema import nested

Data = Mapping[str, Any]
_LISTS: Final = ("/v1/models", "/models")
_GOOGLE: Final = frozenset(("generateContent", "geminiCountTokens"))
_MISSING: Final = "LLM request body is missing string field 'model'"
_MISSING_IN_QUERY: Final = "a realtime session names its `model` in the query"
_USER_MODEL: Final = "agentgateway_user_model"


@final
class LlmRouter:
    """The backend of the `llm` section. See plan.Serve."""

    __slots__ = (
        "_asker",
        "_direct",
        "_endpoints",
        "_has_rules",
        "_members",
        "_random",
        "_ranks",
        "_router",
        "_rules",
        "_services",
        "_types",
    )

    def __init__(
        self,
        target: Data,
        members: Sequence[Member],
        asker: Asker,
        types: RouteTypes,
        services: Services,
        random: Callable[[], float],
        endpoints: Endpoints,
    ) -> None:
        """`members`: one for each of `target["models"]`. Raises: ConfigError."""
        created = services.clock.time_ns() // 1_000_000_000
        virtual = target.get("virtualModels") or ()
        self._router = Router(target["models"], virtual, services.cel, random, created)
        self._asker = asker
        self._types = types
        self._services = services
        self._random = random
        self._endpoints = endpoints
        self._members = tuple(members)
        self._direct = tuple(self._ranked([[member]]) for member in members)
        self._ranks: dict[tuple[tuple[tuple[int, str], ...], ...], Ranks] = {}
        self._rules = tuple(
            _rules(data, index, services) for index, data in enumerate(target["models"])
        )
        self._has_rules = any(self._rules)

    def _ranked(self, groups: Sequence[Sequence[Member]]) -> Ranks:
        return Ranks(groups, self._services.clock, self._random, self._endpoints)

    async def serve(
        self, request: Request, exchange: Exchange, route: Route, attempt: Attempt
    ) -> Response:
        """See plan.Serve."""
        path = request.path
        if path.startswith(_LISTS) and (found := self._listing(path, request)) is not None:
            return found
        kind = self._types.resolve(path)
        if kind == "realtime":
            return await self._session(request, exchange, route, attempt)
        shared = self._asker.shared
        raw = await read_request(request, shared.limit_bytes)
        name, body = self._named(kind, path, raw, request)
        resolution = self._found(name, kind, request, raw)
        ranks = self._ranks_of(resolution)
        if kind == "passthrough":
            detects = resolution.groups[0][0].model.data.get("passthrough") == "detect"
            kind = "detect" if detects else kind
        failover = self._asker.failover
        if kind == "passthrough":
            return await opaque(kind, ranks, failover, request, exchange, route, attempt, raw)
        record = Record(request, route, shared.clock, shared.metrics, shared.prices)
        if kind == "detect":
            return await sniffed(
                ranks,
                failover,
                raw,
                record,
                request,
                exchange,
                route,
                attempt,
                shared.limit_bytes,
            )
        client = client_call(kind, raw, request, body)
        return await self._asker.asked(client, record, ranks, request, exchange, route, attempt)

    async def _session(
        self, request: Request, exchange: Exchange, route: Route, attempt: Attempt
    ) -> Response:
        """A realtime session: its model is in the query. Raises: SidecarError, ModelError 400."""
        name = paths.model_of_query(request.target.partition("?")[2])
        if not name:
            raise ModelError(400, "missing_model", _MISSING_IN_QUERY)
        shared = self._asker.shared
        raw = b""
        if not request.upgrade and allowed_of(request) is not None:
            # An offer of WebRTC: its body may name a model as well.
            raw = await read_request(request, shared.limit_bytes)
        resolution = self._found(name, "realtime", request, raw)
        record: Record | None = None
        if request.upgrade == "websocket":
            record = Record(request, route, shared.clock, shared.metrics, shared.prices)
        ranks, failover = self._ranks_of(resolution), self._asker.failover
        return await opaque(
            "realtime", ranks, failover, request, exchange, route, attempt, record=record
        )

    def start(self, request: Request, route: Route, handover: Handover) -> Cancellable | None:
        """See plan.Start."""
        path = request.path
        kind = self._types.resolve(path)
        if kind not in CHAT:
            return None
        raw = request_at_hand(request, self._asker.shared.limit_bytes)
        if raw is None:
            return None
        name, body = self._named(kind, path, raw, request)
        resolution = self._found(name, kind, request, raw)
        ranks = self._ranks_of(resolution)
        client = client_call(kind, raw, request, body)
        return llm_direct.start(self._asker, client, ranks, request, route, handover)

    def _found(self, name: str, kind: str, request: Request, raw: bytes) -> Resolution:
        """Who may serve a request for the model. Raises: ModelError."""
        state = request.state
        known = state.get("metadata")
        told = {_USER_MODEL: name}
        state["metadata"] = {**known, **told} if isinstance(known, Mapping) else told
        allowed = allowed_of(request)
        if allowed is not None:
            check_allowed(allowed, kind, request, raw)
        may_use = self._allowance(request) if self._has_rules else None
        return self._router.resolve(name, request, allowed, may_use)

    # --- names ----------------------------------------------------------------------------

    @staticmethod
    def _named(kind: str, path: str, raw: bytes, request: Request) -> tuple[str, Json | None]:
        """The client's model, and the body. Raises: ModelError 400."""
        in_path = paths.model_of(path)
        if in_path is not None and kind in _GOOGLE:
            return in_path, None
        form = form_model(request.headers.get(b"content-type"), raw)
        if form:
            return form, None
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            if in_path is not None:
                return in_path, None
            text = "the request's body is not JSON"
            raise ModelError(400, "invalid_request_body", text) from error
        if not isinstance(body, dict):
            text = "the request's body is not a JSON object"
            raise ModelError(400, "invalid_request_body", text)
        request.state[REQUEST] = body
        name = body.get("model")
        if isinstance(name, str) and name:
            return name, body
        if in_path is not None:
            return in_path, body
        raise ModelError(400, "missing_model", _MISSING)

    def _allowance(self, request: Request) -> Callable[[Model], bool] | None:
        """Whether the caller may use a model; None when no model has rules."""
        if not self._has_rules:
            return None

        def is_allowed(model: Model) -> bool:
            rules = self._rules[model.index]
            if rules is None:
                return True
            try:
                rules.on_request(request)
            except RequestError:
                return False
            return True

        return is_allowed

    def _ranks_of(self, resolution: Resolution) -> Ranks:
        if not resolution.virtual:
            return self._direct[resolution.groups[0][0].model.index]
        key = tuple(
            tuple((choice.model.index, choice.name) for choice in group)
            for group in resolution.groups
        )
        found = self._ranks.get(key)
        # The names come from the configuration, so there are only so many combinations.
        if found is None:
            groups = [[self._target(choice) for choice in group] for group in resolution.groups]
            found = self._ranks[key] = self._ranked(groups)
        return found

    def _target(self, choice: Choice) -> Member:
        member = self._members[choice.model.index]
        place = Place(f"ai/{ROUTER}", 0, Address(f"{member.name}={choice.name}", 0))
        return replace(member, asked=choice.name, endpoint=self._endpoints.get(place, 1))

    # --- lists ----------------------------------------------------------------------------

    def _listing(self, path: str, request: Request) -> Response | None:
        """The answer to a question for models; None for another path."""
        for start in _LISTS:
            if path.rstrip("/") == start:
                listed = self._router.listing(allowed_of(request), self._allowance(request))
                return _json(request, listed)
            if path.startswith(f"{start}/") and ":" not in path:
                name = unquote(path[len(start) + 1 :])
                detail = self._router.detail(name, allowed_of(request), self._allowance(request))
                return _json(request, detail)
        return None


def _json(request: Request, value: object) -> Response:
    if request.method not in ("GET", "HEAD"):
        raise RequestError(405, "InvalidRequest", "method not allowed")
    headers = Headers(((b"content-type", b"application/json"),))
    return Response(200, headers, FixedBody(orjson.dumps(value)), reason="DirectResponse")


def _rules(data: Data, index: int, services: Services) -> Authorization | None:
    payload = data.get("authorization")
    if payload is None:
        return None
    try:
        made = make("authorization", payload, services)
    except ConfigError as problem:
        raise nested(f"llm.models[{index}]", problem) from problem
    assert isinstance(made, Authorization)
    return made
