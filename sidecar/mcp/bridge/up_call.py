"""A legacy client's call, and its stream, at a modern server.

Source: spec/mcp_a2a.md sections 1.3 and 1.4 (multi-round-trip requests, `subscriptions/listen`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from typing import TYPE_CHECKING, Final, final

from sidecar import jsonrpc
from sidecar.errors import SidecarError, UpstreamError
from sidecar.jsonrpc import INTERNAL_ERROR, Id, Json
from sidecar.mcp.bridge import words
from sidecar.mcp.bridge.state import Client
from sidecar.mcp.upstream.base import Inbound, Messages, Outbound

if TYPE_CHECKING:
    from sidecar.mcp.bridge.up import Up

ANSWER_SECONDS: Final = 300.0
"""How long a client may take to answer what the server asked."""
_ROUNDS_MAX: Final = 32
_QUESTIONS_MAX: Final = 32
_DECLINED: Final[Json] = {"action": "cancel"}
_TASK: Final = "the server made a task of the call, which it was not offered"


@final
class Call:
    """See Messages. A server that wants to know something is asked again when the client told."""

    __slots__ = (
        "_client",
        "_first",
        "_identity",
        "_is_closed",
        "_items",
        "_outbound",
        "_params",
        "_reading",
        "_rounds",
        "_source",
        "_up",
        "_waiting",
        "is_json",
        "retry_ms",
    )

    def __init__(self, up: Up, outbound: Outbound, client: Client) -> None:
        self.is_json = False
        self.retry_ms: int | None = None
        self._up = up
        self._outbound = outbound
        self._client = client
        self._identity: Id = outbound.message["id"]
        self._items: deque[Inbound] = deque()
        self._source: Messages | None = None
        self._first: Inbound | None = None
        self._waiting: dict[str, tuple[str, Json, asyncio.Future[Json]]] = {}
        """Questions that were put: the server's key, the question, and what will be the answer, by
        the gateway's ids."""
        self._rounds = 0
        self._params: Json = {}
        """Of the next round."""
        self._reading: asyncio.Task[Inbound | None] | None = None
        self._is_closed = False

    async def begin(self) -> None:
        """Send it; what is at hand decides the form of the answer.

        Raises: UpstreamError, Refused.
        """
        source = await self._ask(self._outbound.message.get("params") or {})
        if source.is_json:
            self._first = await source.next()
            found = self._first.message if self._first is not None else {}
            self.is_json = not _asks(found)

    async def _ask(self, params: Json) -> Messages:
        self._rounds += 1
        if self._rounds > _ROUNDS_MAX:
            raise UpstreamError(502, "UpstreamFailure", "the server asks without end")
        source = await self._up.ask(self._outbound, params, self._client)
        if self._is_closed:
            source.close()
        self._source = source
        return source

    async def next(self) -> Inbound | None:
        """See Messages."""
        while not self._items:
            if self._is_closed:
                return None
            try:
                await self._more()
            except BaseException:
                self.close()
                raise
        return self._items.popleft()

    async def _more(self) -> None:
        if self._waiting:
            await self._told()
            return
        first, self._first = self._first, None
        inbound = first or await self._read()
        if inbound is None:
            self._end()
            return
        message = inbound.message
        if "method" in message:
            self._items.append(Inbound(message))
        elif _asks(message):
            self._put(message["result"])
        else:
            result = message.get("result")
            told = {**message, "id": self._identity}
            if isinstance(result, dict) and words.is_task(result):
                told = jsonrpc.error(self._identity, INTERNAL_ERROR, _TASK)
            elif isinstance(result, dict):
                told["result"] = words.plain(result)
            self._items.append(Inbound(told))
            self._end()

    async def _read(self) -> Inbound | None:
        """The server's next message; None at its end, and when the client cancels meanwhile."""
        assert self._source is not None
        reading = self._reading = _reading(self._source)
        try:
            await asyncio.wait((reading,))
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.wait((reading,))
        return None if reading.cancelled() else reading.result()

    # --- questions ------------------------------------------------------------------------

    def _put(self, result: Json) -> None:
        """Ask the client what the server wants to know."""
        self._params = _retried(self._outbound.message.get("params") or {}, result)
        questions = result.get("inputRequests")
        questions = questions if isinstance(questions, dict) else {}
        loop = asyncio.get_running_loop()
        for key, question in list(questions.items())[:_QUESTIONS_MAX]:
            if not isinstance(question, dict) or question.get("method") not in words.ASKING:
                continue
            identity = f"agw-{secrets.token_hex(8)}"
            answer: asyncio.Future[Json] = loop.create_future()
            self._waiting[identity] = (key, question, answer)
            self._client.asked[identity] = answer
            asked = {
                "jsonrpc": "2.0",
                "id": identity,
                "method": question["method"],
                "params": question.get("params") or {},
            }
            self._items.append(Inbound(asked))
        if not self._waiting:
            # Nothing to ask: it wants to be asked again, with its own state.
            self._waiting[""] = ("", {}, loop.create_future())
            self._waiting[""][2].set_result({})

    async def _told(self) -> None:
        """Wait for the client, and ask the server again. Raises: UpstreamError, Refused."""
        waiting = self._waiting
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                for _, _, answer in waiting.values():
                    await answer
        except TimeoutError as error:
            text = "the client did not answer what the server asked"
            raise UpstreamError(504, "Timeout", text) from error
        finally:
            self._waiting = {}
            for identity in waiting:
                self._client.asked.pop(identity, None)
        if self._is_closed:
            return
        responses: Json = {}
        for key, question, answer in waiting.values():
            if not question:
                continue
            told = answer.result().get("result")
            if isinstance(told, dict):
                responses[key] = told
            elif question["method"] == "elicitation/create":
                responses[key] = dict(_DECLINED)
            else:
                text = "the client refused what the server asked"
                self._items.append(Inbound(jsonrpc.error(self._identity, INTERNAL_ERROR, text)))
                self._end()
                return
        if responses:
            self._params["inputResponses"] = responses
        await self._ask(self._params)

    # --- the end --------------------------------------------------------------------------

    def _end(self) -> None:
        self._is_closed = True
        identity = self._identity
        if self._client.calls.get((type(identity), identity)) is self:
            del self._client.calls[type(identity), identity]

    def close(self) -> None:
        """See Messages. To the server that is how it is cancelled."""
        if not self._is_closed:
            self._end()
            self._items.clear()
        if self._reading is not None:
            self._reading.cancel()
        if self._source is not None:
            self._source.close()
        for identity, (_, _, answer) in self._waiting.items():
            # Here too: nobody may read this call any more.
            self._client.asked.pop(identity, None)
            if not answer.done():
                answer.set_result({})


def _reading(source: Messages) -> asyncio.Task[Inbound | None]:
    async def read() -> Inbound | None:
        return await source.next()

    return asyncio.get_running_loop().create_task(read())


def _asks(message: Json) -> bool:
    result = message.get("result")
    return isinstance(result, dict) and result.get("resultType") == words.INPUT


def _retried(params: Json, result: Json) -> Json:
    """The request once more, with the server's own state."""
    told = {
        key: one for key, one in params.items() if key not in ("inputResponses", "requestState")
    }
    if "requestState" in result:
        told["requestState"] = result["requestState"]
    return told


@final
class Listening:
    """A session's stream. See Messages. It is asked for anew when the client wants other things."""

    __slots__ = ("_client", "_is_closed", "_outbound", "_source", "_up", "is_json", "retry_ms")

    def __init__(self, up: Up, outbound: Outbound, client: Client) -> None:
        self.is_json = False
        self.retry_ms: int | None = None
        self._up = up
        self._outbound = outbound
        self._client = client
        self._source: Messages | None = None
        self._is_closed = False

    async def begin(self) -> bool:
        """Subscribe; False when the server does not let us. Raises: UpstreamError."""
        self._source = await self._up.subscribed(self._outbound, self._client)
        return self._source is not None

    async def next(self) -> Inbound | None:
        """See Messages."""
        loop = asyncio.get_running_loop()
        while not self._is_closed and self._source is not None:
            reading = _reading(self._source)
            changing = loop.create_task(self._client.changed.wait())
            try:
                await asyncio.wait((reading, changing), return_when=asyncio.FIRST_COMPLETED)
            finally:
                changing.cancel()
                if not reading.done():
                    reading.cancel()
                    await asyncio.wait((reading,))
            if self._client.is_over:
                self.close()
                return None
            if reading.cancelled():
                await self._again()
                continue
            inbound = reading.result()
            if inbound is None or "method" not in inbound.message:
                self._is_closed = True
                return None
            if inbound.message["method"] != words.ACKNOWLEDGED:
                return Inbound(words.without_tag(inbound.message))
        return None

    async def _again(self) -> None:
        """Another subscription, before the one that is left ends. Raises: UpstreamError."""
        before = self._source
        try:
            self._source = await self._up.subscribed(self._outbound, self._client)
        except SidecarError:
            self._is_closed = True
            raise
        finally:
            if before is not None:
                before.close()

    def close(self) -> None:
        """See Messages."""
        self._is_closed = True
        if self._source is not None:
            self._source.close()
