"""Requests where messages do not pass as they are: to one server of several, or to all of them.

Source: spec/mcp_a2a.md sections 2.2, 2.3, 2.7 and 2.8.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol, final

from sidecar import jsonrpc
from sidecar.errors import SidecarError
from sidecar.jsonrpc import Json, JsonRpcError
from sidecar.mcp import guards, rewrite
from sidecar.mcp.asking import Asking, is_asked, is_open
from sidecar.mcp.calls import Called, Calls
from sidecar.mcp.gathered import Answers
from sidecar.mcp.guards import Guard
from sidecar.mcp.lanes import Caller
from sidecar.mcp.lists import LISTS
from sidecar.mcp.pages import Pages, is_mismatch
from sidecar.mcp.rules import Rules, unknown
from sidecar.mcp.streams import Changed
from sidecar.mcp.upstream.base import Messages, Refused


class About(Protocol):
    """Told which server a request goes to, and what about in its words, where they differ."""

    def __call__(self, target: str, called: Called | None = None, /) -> None:
        """See above."""


@final
class Fanout:
    """See federation.Federation, for all backends but the plainest."""

    __slots__ = ("_asking", "_calls", "_guard", "_lanes", "_names", "_pages", "_rules", "_terms")

    def __init__(
        self, asking: Asking, calls: Calls, rules: Rules, guard: Guard | None = None
    ) -> None:
        """`guard`: of requests that name something; of the others see federation.Federation."""
        self._asking = asking
        self._guard = guard
        self._lanes = asking.lanes
        self._calls = calls
        self._names = asking.names
        self._rules = rules
        self._pages = Pages(asking)
        self._terms = asking.terms

    async def request(self, message: Json, caller: Caller, about: About) -> Messages:
        """Raises: JsonRpcError, UpstreamError, Refused."""
        method: str = message["method"]
        if method in LISTS:
            await self._asking.admit(caller)
            evaluation = self._rules.evaluation(caller.request)
            return await self._pages.listed(message, caller, evaluation)
        asked = rewrite.named(message)
        if asked is not None:
            return await self._named(message, asked, caller, about)
        await self._asking.admit(caller)
        return await self._everywhere(message, caller)

    # --- one server -----------------------------------------------------------------------

    async def _named(
        self, message: Json, asked: rewrite.Named, caller: Caller, about: About
    ) -> Messages:
        guard = self._guard
        if guard is not None:
            return await self._guarded(guard, message, asked, caller, about)
        evaluation = self._rules.evaluation(caller.request)
        called = await self._found(asked, caller)
        given = message["params"].get("arguments") if asked.kind == "tool" else None
        called = self._calls.check(called, asked, evaluation, given)
        if called.kind == "tool" and not await self._pages.is_approved(*called[1:], caller):
            raise unknown(*asked)
        about(called.target, called)
        await self._asking.admit(caller)
        arguments = self._calls.arguments(called, given)
        sent = rewrite.for_target(
            self._names,
            message,
            called.name,
            arguments=None if arguments is given or arguments is None else dict(arguments),
        )
        try:
            answered = await self._lanes.request(called.target, sent, caller, may_poll=True)
        except Refused as error:
            fixed = set(arguments or ()) - set(given or ())
            if not fixed or not is_mismatch(error):
                raise
            # The client could not repeat in headers what it does not know of.
            headers = await self._pages.repeated(called.target, sent["params"], fixed, caller)
            told = replace(caller, headers=headers)
            answered = await self._lanes.request(called.target, sent, told, may_poll=True)
        change = self._asking.change(called.target, message["method"])
        return Changed(answered.messages, change)

    async def _guarded(
        self, guard: Guard, message: Json, asked: rewrite.Named, caller: Caller, about: About
    ) -> Messages:
        """The same where guards look at messages: before rules do, which may ask what they told.

        Limits come first: what those refuse costs no call.
        """
        found = await self._found(asked, caller)
        if found is None:
            raise unknown(*asked)
        about(found.target, found)
        await self._asking.admit(caller)
        sent, called, caller = await self._checked(guard, message, asked, found, caller)
        if called.kind == "tool" and not await self._pages.is_approved(*called[1:], caller):
            raise unknown(*asked)
        about(called.target, called)
        # A stream that the client took up by itself would come without its guard.
        may_poll = not guard.responses
        answered = await self._lanes.request(called.target, sent, caller, may_poll=may_poll)
        messages = guards.answered(guard, message, (called.target,), caller, answered.messages)
        return Changed(messages, self._asking.change(called.target, message["method"]))

    async def _checked(
        self, guard: Guard, message: Json, asked: rewrite.Named, found: Called, caller: Caller
    ) -> tuple[Json, Called, Caller]:
        """What goes to the server, what it is about, and in whose name."""
        calls, called, is_tool = self._calls, found, found.kind == "tool"
        given = message["params"].get("arguments") if is_tool else None
        shown = calls.seen(called, given)
        own = rewrite.for_target(self._names, message, called.name, arguments=_as_object(shown))
        sent, caller = await guards.asked(guard, own, (called.target,), caller)
        if sent is not own:
            called = self._renamed(found, asked, sent)
            shown = sent["params"].get("arguments") if is_tool else None
        # After guards, for rules may ask what they told; and before what else could be told of it.
        evaluation = self._rules.evaluation(caller.request)
        called = calls.check(called, asked, evaluation, shown)
        calls.arguments(found, given)
        fixed = calls.seen(called, shown)
        if fixed is not shown:
            sent = {**sent, "params": {**sent["params"], "arguments": fixed}}
        changed = guards.changed_arguments(given, fixed)
        if is_tool and changed and caller.era == "modern":
            params = {**sent["params"], "arguments": fixed or {}}
            headers = await self._pages.repeated(called.target, params, changed, caller)
            caller = replace(caller, headers=headers)
        return sent, called, caller

    def _renamed(self, found: Called, asked: rewrite.Named, sent: Json) -> Called:
        """What a request is about after a guard's change. Raises: JsonRpcError."""
        try:
            told = rewrite.named(sent)
        except JsonRpcError as error:
            raise guards.misguided("the name is missing") from error
        arguments = sent["params"].get("arguments")
        if told is None or told.kind != found.kind or not isinstance(arguments or {}, dict):
            raise guards.misguided("the request means something else")
        called = self._calls.renamed(found, told.name)
        if called is None:
            raise unknown(*asked)
        return called

    async def _found(self, asked: rewrite.Named, caller: Caller) -> Called | None:
        """What a request is about; None for what is not there for this client."""
        called = await self._called(asked, caller)
        return called if called is None or is_open(caller, called.target) else None

    async def _called(self, asked: rewrite.Named, caller: Caller) -> Called | None:
        found = self._names.to_target(asked.kind, asked.name)
        if found is not None:
            return self._calls.own(asked.kind, *found)
        candidates = self._names.candidates(asked.kind, asked.name)
        if not candidates:
            return None
        own = await self._pages.owner(asked.kind, asked.name, candidates, caller)
        return None if own is None else Called(asked.kind, *own)

    # --- all servers ----------------------------------------------------------------------

    async def _everywhere(self, message: Json, caller: Caller) -> Messages:
        """`ping`, `logging/setLevel` and their like: done when all have done it."""
        method, identity = message["method"], message["id"]
        names = [name for name in self._names.targets if is_asked(caller, name, method)]

        def finish(answers: Answers) -> Json:
            results = answers.settle(names, fails_open=self._terms.fails_open)
            return jsonrpc.result(identity, results[0][1] if results else {})

        return await self._asking.gathered(dict.fromkeys(names, message), caller, finish)

    # --- without an answer ----------------------------------------------------------------

    async def tell(self, message: Json, caller: Caller) -> None:
        """Raises: UpstreamError, Refused."""
        names = self._names
        method = message.get("method")
        if method is None or method == "notifications/progress":
            found = (rewrite.answer_for if method is None else rewrite.progress_for)(names, message)
            # Of what nobody asked there is nobody to tell.
            if found is not None and is_open(caller, found[0]):
                await self._lanes.send(found[0], found[1], caller)
            return
        open_ones = [name for name in names.targets if is_open(caller, name)]
        told = rewrite.for_target(names, message)
        answers = Answers({}, {})
        await asyncio.gather(*(self._told(name, told, caller, answers) for name in open_ones))
        if len(answers.failures) == len(open_ones) or not self._terms.fails_open:
            for failure in answers.failures.values():
                raise failure

    async def _told(self, name: str, message: Json, caller: Caller, answers: Answers) -> None:
        try:
            await self._lanes.send(name, message, caller)
        except (Refused, SidecarError) as error:
            answers.failures[name] = error


def _as_object(arguments: Json | None) -> Json | None:
    """Arguments to be put into a message; None for what stays there as it is."""
    return arguments if isinstance(arguments, dict) else None
