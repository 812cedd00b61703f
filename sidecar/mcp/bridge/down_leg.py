"""The part of a legacy server's call that one request of a modern client sees.

Source: spec/mcp_a2a.md sections 1.3 and 1.4 (multi-round-trip requests).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from sidecar import jsonrpc
from sidecar.errors import SidecarError
from sidecar.jsonrpc import METHOD_NOT_FOUND, Id, Json
from sidecar.mcp.bridge import words
from sidecar.mcp.bridge.state import Session
from sidecar.mcp.upstream.base import Inbound, Messages, Outbound

if TYPE_CHECKING:
    from sidecar.mcp.bridge.down import Down

_QUESTION: Final = "1"


@final
class Leg:
    """See Messages. It ends with the answer, or with a question to the client."""

    __slots__ = (
        "_down",
        "_info",
        "_is_done",
        "_method",
        "_outbound",
        "_session",
        "_source",
        "_wire",
        "is_json",
        "retry_ms",
    )

    def __init__(
        self,
        down: Down,
        outbound: Outbound,
        session: Session,
        wire: Id,
        source: Messages,
        info: object,
    ) -> None:
        """`wire`: the call's id at the server. `info`: the server's, of itself."""
        self.is_json = source.is_json
        self.retry_ms: int | None = None
        self._down = down
        self._outbound = outbound
        self._session = session
        self._wire = wire
        self._source = source
        self._info = info
        self._method: str = outbound.message["method"]
        self._is_done = False

    async def next(self) -> Inbound | None:
        """See Messages."""
        while not self._is_done:
            try:
                inbound = await self._source.next()
            except SidecarError:
                self._ended()
                raise
            if inbound is None:
                self._ended()
                return None
            told = self._told(inbound.message)
            if told is not None:
                return Inbound(told)
        return None

    def _told(self, message: Json) -> Json | None:
        if "method" not in message:
            self._ended()
            return self._answer(message)
        if "id" in message:
            return self._question(message)
        return self._notification(message)

    def _answer(self, message: Json) -> Json:
        identity = self._outbound.message["id"]
        result, error = message.get("result"), message.get("error")
        if isinstance(result, dict):
            return jsonrpc.result(identity, words.complete(self._method, result, self._info))
        questions = words.wanted_urls(error)
        if questions and "elicitation" in self._capabilities():
            result = words.input_required(questions, self._down.again())
            return jsonrpc.result(identity, result)
        error = error or {}
        if self._method == "tools/call":
            told = words.of_call(error, self._session.greeting)
        else:
            told = words.modern_error(error)
        return {"jsonrpc": "2.0", "id": identity, "error": told}

    def _notification(self, message: Json) -> Json | None:
        params = message.get("params") or {}
        meta = (self._outbound.message.get("params") or {}).get("_meta") or {}
        if message["method"] == "notifications/progress":
            token = meta.get("progressToken")
            if token is None or params.get("progressToken") != self._wire:
                return None
            return {**message, "params": {**params, "progressToken": token}}
        if message["method"] == "notifications/message":
            is_wanted = words.is_loud(params.get("level"), meta.get(words.LEVEL_META))
            return message if is_wanted else None
        # The rest is of no request, and told to who listens.
        return None

    def _question(self, message: Json) -> Json | None:
        """What the server asks of the client; None when that is answered here."""
        method, down = message["method"], self._down
        if method == "ping":
            down.tell(self._outbound, self._session, jsonrpc.result(message["id"], {}))
            return None
        if words.ASKING.get(method) not in self._capabilities():
            text = f"Method not found: the client does not know {method[:128]}"
            refused = jsonrpc.error(message["id"], METHOD_NOT_FOUND, text)
            down.tell(self._outbound, self._session, refused)
            return None
        token = down.park(self._outbound, self._session, self._wire, message, self._source)
        if token is None:
            text = "too many calls wait for their clients"
            refused = jsonrpc.error(message["id"], jsonrpc.INTERNAL_ERROR, text)
            down.tell(self._outbound, self._session, refused)
            return None
        # The call goes on where it is parked, with its session.
        self._is_done = True
        params = message.get("params") or {}
        questions = {_QUESTION: {"method": method, "params": params}}
        result = words.input_required(questions, token)
        return jsonrpc.result(self._outbound.message["id"], result)

    def _capabilities(self) -> Json:
        params = self._outbound.message.get("params") or {}
        return words.capabilities_of(params.get("_meta") or {})

    def _ended(self) -> None:
        if not self._is_done:
            self._is_done = True
            self._down.leave(self._session)

    def close(self) -> None:
        """See Messages. To a modern client that is how it cancels."""
        if self._is_done:
            return
        self._is_done = True
        self._source.close()
        self._down.cancel(self._outbound, self._session, self._wire)
