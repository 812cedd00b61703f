"""What the servers of a backend say of themselves, when a client begins or discovers.

Source: spec/mcp_a2a.md sections 1.3, 1.4, 2.3 and 2.7.
"""

from __future__ import annotations

import asyncio
from typing import final

from sidecar import jsonrpc
from sidecar.errors import SidecarError
from sidecar.jsonrpc import Json
from sidecar.mcp import merge
from sidecar.mcp.asking import Asking, seen_from_outside
from sidecar.mcp.gathered import Answers, failure_of
from sidecar.mcp.lanes import Caller, Opened
from sidecar.mcp.upstream.base import Messages, Refused


@final
class Greeter:
    """Asks all servers."""

    __slots__ = ("_asking", "_lanes", "_names", "_terms")

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._lanes = asking.lanes
        self._names = asking.names
        self._terms = asking.terms

    async def greet(self, message: Json, caller: Caller) -> tuple[dict[str, Opened], Json]:
        """What each server that takes part said, and the answer to the client.

        Raises: JsonRpcError, UpstreamError, Refused.
        """
        names = self._names.targets
        answers = Answers({}, {})
        opened: dict[str, Opened] = {}
        try:
            await asyncio.gather(
                *(self._open(name, message, caller, answers, opened) for name in names)
            )
            found = {name: opened[name] for name in names if name in opened}
            results = answers.settle(names, fails_open=self._terms.fails_open)
            if len(names) == 1:
                return found, found[names[0]].answer
            result = merge.initialize(
                results,
                self._terms.server_info,
                is_stateful=self._terms.is_stateful,
                has_prefixes=self._names.has_prefixes,
            )
        except BaseException:
            for name, one in opened.items():
                self._left(name, one, caller)
            raise
        return found, jsonrpc.result(message["id"], result)

    def _left(self, name: str, opened: Opened, caller: Caller) -> None:
        held = opened.held
        self._lanes.later(lambda: self._lanes.end(name, caller, held))

    async def _open(
        self,
        name: str,
        message: Json,
        caller: Caller,
        answers: Answers,
        opened: dict[str, Opened],
    ) -> None:
        try:
            one = await self._lanes.open(name, message, caller)
        except Refused as error:
            answers.failures[name] = seen_from_outside(error)
            return
        except SidecarError as error:
            answers.failures[name] = error
            return
        if one.result is None:
            answers.failures[name] = failure_of(one.answer)
            return
        opened[name] = one
        answers.results[name] = one.result

    # --- server/discover ------------------------------------------------------------------

    async def discover(self, message: Json, caller: Caller) -> Messages:
        """Raises: JsonRpcError, UpstreamError, Refused.

        Also where failures are let pass: a server that does not know the method is a legacy one,
        and the client, told so, falls back to `initialize` and has all of them.
        """
        names, terms = self._names, self._terms

        def finish(answers: Answers) -> Json:
            for failure in answers.failures.values():
                raise failure
            results = [(name, answers.results[name]) for name in names.targets]
            if len(results) == 1:
                return jsonrpc.result(message["id"], results[0][1])
            merged = merge.discover(results, terms.server_info, has_prefixes=names.has_prefixes)
            return jsonrpc.result(message["id"], merged)

        sent = dict.fromkeys(names.targets, message)
        return await self._asking.gathered(sent, caller, finish)
