"""Streams of what servers say of their own accord, those of all servers as one.

Source: spec/mcp_a2a.md sections 1.3, 1.4 (`subscriptions/listen`) and 2.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final, final

from sidecar import jsonrpc
from sidecar.errors import SidecarError, UpstreamError
from sidecar.jsonrpc import Id, Json
from sidecar.mcp import event_ids, rewrite
from sidecar.mcp.asking import Asking, is_open, seen_from_outside
from sidecar.mcp.gathered import Answers, failure_of
from sidecar.mcp.lanes import Caller
from sidecar.mcp.streams import Changed, Merged, close_one, opened
from sidecar.mcp.upstream.base import Inbound, Messages, Refused

ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
_ACK_SECONDS: Final = 30.0


@final
class Listener:
    """The streams of one backend."""

    __slots__ = ("_asking", "_lanes", "_names", "_terms")

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._lanes = asking.lanes
        self._names = asking.names
        self._terms = asking.terms

    async def listen(self, caller: Caller, last_event_id: bytes) -> Messages | None:
        """Raises: JsonRpcError, UpstreamError, Refused."""
        names = [name for name in self._names.targets if is_open(caller, name)]
        last = dict.fromkeys(names, b"")
        if last_event_id:
            parsed = event_ids.parse(last_event_id)
            if isinstance(parsed, event_ids.Composite):
                last = {name: parsed.last[name] for name in names if name in parsed.last}
            elif isinstance(parsed, bytes) and not self._names.is_several:
                last = {names[0]: parsed}
        answers = Answers({}, {})
        taken = await opened(
            (self._listening(name, caller, at, answers) for name, at in last.items()), close_one
        )
        sources = {name: one for name, one in zip(last, taken, strict=True) if one is not None}
        if answers.failures and (not sources or not self._terms.fails_open):
            for source in sources.values():
                source.close()
            raise next(iter(answers.failures.values()))
        if not sources:
            return None
        if not self._names.is_several:
            ((only, source),) = sources.items()
            return Changed(source, self._asking.change(only))
        latest = {name: last[name] for name in sources}
        placed = [Changed(one, self._placed(name, latest)) for name, one in sources.items()]
        return Merged(placed, is_fragile=not self._terms.fails_open)

    def _placed(self, target: str, latest: dict[str, bytes]) -> Callable[[Inbound], Inbound]:
        """A change that gives events ids by which all of the stream's servers are resumed."""
        change = self._asking.change(target)

        def placed(inbound: Inbound) -> Inbound:
            told = change(inbound)
            if not inbound.event_id:
                return told
            latest[target] = inbound.event_id
            return replace(told, event_id=event_ids.composite(latest))

        return placed

    async def _listening(
        self, name: str, caller: Caller, last_event_id: bytes, answers: Answers
    ) -> Messages | None:
        try:
            return await self._lanes.listen(name, caller, last_event_id)
        except (Refused, SidecarError) as error:
            answers.failures[name] = error
            return None

    # --- subscriptions/listen -------------------------------------------------------------

    async def subscribed(self, message: Json, caller: Caller) -> Messages:
        """The stream that a modern client asks for. Raises: JsonRpcError, UpstreamError, Refused.

        Its first message is one acknowledgement for all servers; its answer comes when all have
        ended.
        """
        names, identity = self._names, message["id"]
        parts = rewrite.listen_parts(names, message.get("params", {}))
        answers = Answers({}, {})
        taken = await opened(
            (
                self._subscribing(name, {**message, "params": params}, caller, answers)
                for name, params in parts.items()
            ),
            lambda one: close_one(None if one is None else one[1]),
        )
        sources = {name: one for name, one in zip(parts, taken, strict=True) if one is not None}
        if answers.failures and (not sources or not self._terms.fails_open):
            for _, source in sources.values():
                source.close()
            raise next(iter(answers.failures.values()))
        agreed = [(name, agreed) for name, (agreed, _) in sources.items()]
        told = Inbound(_acknowledgement(identity, rewrite.acknowledged(names, agreed)))
        streams = [
            Changed(source, self._without_answer(name)) for name, (_, source) in sources.items()
        ]
        merged = Merged(streams, is_fragile=not self._terms.fails_open)
        return _Subscribed(told, merged, identity)

    async def _subscribing(
        self, name: str, message: Json, caller: Caller, answers: Answers
    ) -> tuple[Json, Messages] | None:
        """What a server agreed to, and what follows."""
        try:
            messages = (await self._lanes.request(name, message, caller)).messages
        except Refused as error:
            answers.failures[name] = seen_from_outside(error)
            return None
        except SidecarError as error:
            answers.failures[name] = error
            return None
        try:
            async with asyncio.timeout(_ACK_SECONDS):
                first = await messages.next()
        except (SidecarError, TimeoutError) as error:
            messages.close()
            text = f"MCP target {name} did not acknowledge: {error}"
            answers.failures[name] = UpstreamError(502, "UpstreamFailure", text)
            return None
        except BaseException:
            messages.close()
            raise
        found = first.message if first is not None else {}
        if found.get("method") != ACKNOWLEDGED:
            messages.close()
            text = f"MCP target {name} did not acknowledge a subscription"
            is_error = isinstance(found.get("error"), dict)
            failure = failure_of(found) if is_error else None
            answers.failures[name] = failure or UpstreamError(502, "UpstreamFailure", text)
            return None
        agreed = found.get("params", {}).get("notifications")
        return (agreed if isinstance(agreed, dict) else {}), messages

    def _without_answer(self, name: str) -> Callable[[Inbound], Inbound | None]:
        change = self._asking.change(name)

        def told(inbound: Inbound) -> Inbound | None:
            return change(inbound) if "method" in inbound.message else None

        return told


@final
class _Subscribed:
    """An acknowledgement, what follows, and the answer at the end. See Messages."""

    __slots__ = ("_after", "_answer", "_first", "is_json", "retry_ms")

    def __init__(self, first: Inbound, after: Messages, identity: Id) -> None:
        self.is_json = False
        self.retry_ms: int | None = None
        self._first: Inbound | None = first
        self._after = after
        meta = {SUBSCRIPTION: identity}
        answer = jsonrpc.result(identity, {"resultType": "complete", "_meta": meta})
        self._answer: Inbound | None = Inbound(answer)

    async def next(self) -> Inbound | None:
        """See Messages."""
        first, self._first = self._first, None
        inbound = first or await self._after.next()
        if inbound is None:
            inbound, self._answer = self._answer, None
        return inbound

    def close(self) -> None:
        """See Messages."""
        self._after.close()
        self._first = self._answer = None


def _acknowledgement(identity: Id, agreed: Json) -> Json:
    params = {"notifications": agreed, "_meta": {SUBSCRIPTION: identity}}
    return {"jsonrpc": "2.0", "method": ACKNOWLEDGED, "params": params}
