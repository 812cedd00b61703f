"""`subscriptions/listen` at a legacy server: its stream, and subscriptions of one session.

Source: spec/mcp_a2a.md sections 1.3 and 1.4 (`subscriptions/listen`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, final

from sidecar import jsonrpc
from sidecar.errors import SidecarError
from sidecar.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, Id, Json, JsonRpcError
from sidecar.mcp.bridge import words
from sidecar.mcp.bridge.state import URIS_MAX, Session
from sidecar.mcp.streams import Ready
from sidecar.mcp.upstream.base import Inbound, Messages, Outbound, Target

if TYPE_CHECKING:
    from sidecar.mcp.bridge.down import Down

_LISTS: Final = {
    "toolsListChanged": ("tools", "notifications/tools/list_changed"),
    "promptsListChanged": ("prompts", "notifications/prompts/list_changed"),
    "resourcesListChanged": ("resources", "notifications/resources/list_changed"),
}
_UPDATED: Final = "notifications/resources/updated"
_URIS: Final = "resourceSubscriptions"


async def listened(inner: Target, down: Down, outbound: Outbound, session: Session) -> Messages:
    """The subscription's stream. Raises: UpstreamError, Refused."""
    message = outbound.message
    wanted = (message.get("params") or {}).get("notifications")
    if not isinstance(wanted, dict):
        down.leave(session)
        refused = JsonRpcError(INVALID_PARAMS, "Invalid params: notifications")
        return Ready.of(jsonrpc.error(message["id"], refused.code, str(refused)))
    source = await inner.listen(down.outbound(outbound, session, {}))
    if source is None:
        down.leave(session)
        text = "Method not found: the server tells nothing of its own accord"
        return Ready.of(jsonrpc.error(message["id"], METHOD_NOT_FOUND, text))
    try:
        agreed = await _agreed(inner, down, outbound, session, wanted)
    except BaseException:
        source.close()
        raise
    return _Subscribed(down, outbound, session, source, agreed)


async def _agreed(
    inner: Target, down: Down, outbound: Outbound, session: Session, wanted: Json
) -> Json:
    """What of it the server does, which is asked to do it."""
    offered = session.greeting.get("capabilities") or {}
    agreed: Json = {}
    for key, (kind, _) in _LISTS.items():
        if wanted.get(key) is True and (offered.get(kind) or {}).get("listChanged"):
            agreed[key] = True
    uris = wanted.get(_URIS)
    if isinstance(uris, list) and (offered.get("resources") or {}).get("subscribe"):
        # Each once, and each a request: as many as a legacy client may ask for.
        asked = dict.fromkeys(uri for uri in uris if isinstance(uri, str))
        taken = [
            uri
            for uri in list(asked)[:URIS_MAX]
            if await _subscribe(inner, down, outbound, session, uri)
        ]
        if taken:
            agreed[_URIS] = taken
    return agreed


async def _subscribe(
    inner: Target, down: Down, outbound: Outbound, session: Session, uri: str
) -> bool:
    asked = {
        "jsonrpc": "2.0",
        "id": down.number(),
        "method": "resources/subscribe",
        "params": {"uri": uri},
    }
    answered = await inner.request(down.outbound(outbound, session, asked))
    found: Json = {}
    try:
        while (inbound := await answered.messages.next()) is not None:
            found = inbound.message
    finally:
        answered.messages.close()
    return "result" in found


@final
class _Subscribed:
    """See Messages: the acknowledgement, what was agreed on, and the answer at the end."""

    __slots__ = (
        "_agreed",
        "_down",
        "_identity",
        "_is_done",
        "_items",
        "_outbound",
        "_session",
        "_source",
        "is_json",
        "retry_ms",
    )

    def __init__(
        self, down: Down, outbound: Outbound, session: Session, source: Messages, agreed: Json
    ) -> None:
        self.is_json = False
        self.retry_ms: int | None = None
        self._down = down
        self._outbound = outbound
        self._session = session
        self._source = source
        self._agreed = agreed
        self._identity: Id = outbound.message["id"]
        self._is_done = False
        acknowledged = {"notifications": agreed, "_meta": self._tag()}
        first = {"jsonrpc": "2.0", "method": words.ACKNOWLEDGED, "params": acknowledged}
        self._items = deque((Inbound(first),))

    def _tag(self) -> Json:
        return {words.SUBSCRIPTION: self._identity}

    async def next(self) -> Inbound | None:
        """See Messages."""
        while not self._items:
            if self._is_done:
                return None
            try:
                inbound = await self._source.next()
            except SidecarError:
                self._ended()
                raise
            if inbound is None:
                self._ended()
                result = {"resultType": "complete", "_meta": self._tag()}
                return Inbound(jsonrpc.result(self._identity, result))
            self._take(inbound.message)
        return self._items.popleft()

    def _take(self, message: Json) -> None:
        method = message.get("method")
        if method is not None and "id" in message:
            answer = (
                jsonrpc.result(message["id"], {})
                if method == "ping"
                else jsonrpc.error(message["id"], METHOD_NOT_FOUND, "nobody to be asked listens")
            )
            self._down.tell(self._outbound, self._session, answer)
            return
        params = message.get("params") or {}
        is_agreed = any(
            method == told for key, (_, told) in _LISTS.items() if key in self._agreed
        ) or (method == _UPDATED and params.get("uri") in self._agreed.get(_URIS, ()))
        if is_agreed:
            meta = {**(params.get("_meta") or {}), **self._tag()}
            self._items.append(Inbound({**message, "params": {**params, "_meta": meta}}))

    def _ended(self) -> None:
        if not self._is_done:
            self._is_done = True
            # Its subscriptions end with it.
            self._down.leave(self._session, is_lost=True)

    def close(self) -> None:
        """See Messages."""
        self._items.clear()
        self._source.close()
        self._ended()
