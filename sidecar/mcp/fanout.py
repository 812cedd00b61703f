"""Requests where messages do not pass as they are: to one server of several, or to all of them.

Source: spec/mcp_a2a.md sections 2.2, 2.3, 2.7 and 2.8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final, Protocol, final

from sidecar import jsonrpc
from sidecar.errors import SidecarError
from sidecar.jsonrpc import INVALID_PARAMS, Json, JsonRpcError
from sidecar.mcp import cursors, rewrite
from sidecar.mcp.asking import Asking, is_asked, is_open
from sidecar.mcp.calls import Called, Calls
from sidecar.mcp.gathered import Answers, failure_of
from sidecar.mcp.lanes import Caller
from sidecar.mcp.lists import LISTS, Page, merged
from sidecar.mcp.names import Kind
from sidecar.mcp.rules import Rules
from sidecar.mcp.streams import Changed, Ready
from sidecar.mcp.upstream.base import Messages, Refused

_PAGES_MAX: Final = 64
"""Of one server, when a name is looked for."""


class About(Protocol):
    """Told which server a request goes to, and what about in its words, where they differ."""

    def __call__(self, target: str, called: Called | None = None, /) -> None:
        """See above."""


@final
class Fanout:
    """See federation.Federation, for all backends but the plainest."""

    __slots__ = ("_asking", "_calls", "_lanes", "_listing", "_names", "_rules", "_terms")

    def __init__(self, asking: Asking, calls: Calls, rules: Rules) -> None:
        self._asking = asking
        self._lanes = asking.lanes
        self._calls = calls
        self._names = asking.names
        self._rules = rules
        self._listing = asking.listing
        self._terms = asking.terms

    async def request(self, message: Json, caller: Caller, about: About) -> Messages:
        """Raises: JsonRpcError, UpstreamError, Refused."""
        method: str = message["method"]
        if method in LISTS:
            return await self._listed(message, caller)
        asked = rewrite.named(message)
        if asked is not None:
            return await self._named(message, asked, caller, about)
        return await self._everywhere(message, caller)

    # --- one server -----------------------------------------------------------------------

    async def _named(
        self, message: Json, asked: rewrite.Named, caller: Caller, about: About
    ) -> Messages:
        evaluation = self._rules.evaluation(caller.request)
        called = await self._called(asked, caller)
        if called is not None and not is_open(caller, called.target):
            called = None
        given = message["params"].get("arguments") if asked.kind == "tool" else None
        called = self._calls.check(called, asked, evaluation, given)
        about(called.target, called)
        arguments = self._calls.arguments(called, given)
        sent = rewrite.for_target(
            self._names,
            message,
            called.name,
            arguments=None if arguments is given or arguments is None else dict(arguments),
        )
        answered = await self._lanes.request(called.target, sent, caller)
        change = self._asking.change(called.target, message["method"])
        return Changed(answered.messages, change)

    async def _called(self, asked: rewrite.Named, caller: Caller) -> Called | None:
        found = self._names.to_target(asked.kind, asked.name)
        if found is not None:
            return self._calls.own(asked.kind, *found)
        candidates = self._names.candidates(asked.kind, asked.name)
        if not candidates:
            return None
        return await self._looked_up(asked, candidates, caller)

    async def _looked_up(
        self, asked: rewrite.Named, candidates: Iterable[str], caller: Caller
    ) -> Called | None:
        """What of the servers' lists a name means; None when none has it, or several do."""
        method = _LIST_OF[asked.kind]
        found: set[tuple[str, str]] = set()
        open_ones = [name for name in candidates if is_asked(caller, name, method)]
        pages = await asyncio.gather(*(self._all(name, method, caller) for name in open_ones))
        for name, listed in zip(open_ones, pages, strict=True):
            for page in listed:
                key = LISTS[method].name
                found.update(
                    (name, entry.own_name)
                    for entry in page.entries
                    if entry.item[key] == asked.name
                )
        if len(found) != 1:
            return None
        target, own = found.pop()
        return Called(asked.kind, target, own)

    async def _all(self, name: str, method: str, caller: Caller) -> list[Page]:
        """All pages of a server. Raises: as `_failed` says."""
        pages: list[Page] = []
        cursor = ""
        while len(pages) < _PAGES_MAX:
            page = self._listing.find(name, method, cursor, caller.era, caller.principal)
            if page is None:
                page = await self._page(name, method, cursor, caller)
            pages.append(page)
            cursor = page.cursor
            if not cursor:
                break
        return pages

    async def _page(self, name: str, method: str, cursor: str, caller: Caller) -> Page:
        params: Json = {"cursor": cursor} if cursor else {}
        if caller.era == "modern":
            params["_meta"] = dict(caller.meta)
        asked = {
            "jsonrpc": "2.0",
            "id": f"agw-resolve-{method}",
            "method": method,
            "params": params,
        }
        answers = Answers({}, {})
        messages = (await self._lanes.request(name, asked, caller)).messages
        try:
            while (inbound := await messages.next()) is not None:
                found = inbound.message
                if isinstance(found.get("result"), dict):
                    answers.results[name] = found["result"]
                elif isinstance(found.get("error"), dict):
                    answers.failures[name] = failure_of(found)
        finally:
            messages.close()
        answers.settle((name,), fails_open=False)
        result = answers.results.get(name, {})
        return self._listing.take(name, method, cursor, caller.era, caller.principal, result)

    # --- lists ----------------------------------------------------------------------------

    async def _listed(self, message: Json, caller: Caller) -> Messages:
        method: str = message["method"]
        asked, identity = self._cursors(message, caller), message["id"]
        evaluation = self._rules.evaluation(caller.request)
        pages: dict[str, Page] = {}
        for name, cursor in asked.items():
            page = self._listing.find(name, method, cursor, caller.era, caller.principal)
            if page is not None:
                pages[name] = page

        def finish(answers: Answers) -> Json:
            fails_open = self._terms.fails_open or bool(pages)
            for name, result in answers.settle(tuple(asked), fails_open=fails_open):
                if name not in pages:
                    pages[name] = self._listing.take(
                        name, method, asked[name], caller.era, caller.principal, result
                    )
            result = merged(
                method,
                [pages[name] for name in asked if name in pages],
                self._names,
                evaluation,
                is_modern=caller.era == "modern",
                server_info=self._terms.server_info,
            )
            return jsonrpc.result(identity, result)

        missing = [name for name in asked if name not in pages]
        if not missing:
            return Ready.of(finish(Answers({}, {})))
        sent = {name: _with_cursor(message, asked[name]) for name in missing}
        return await self._asking.gathered(sent, caller, finish)

    def _cursors(self, message: Json, caller: Caller) -> dict[str, str]:
        """Whom to ask, and from where on."""
        method: str = message["method"]
        cursor = message.get("params", {}).get("cursor")
        if cursor is None:
            return {name: "" for name in self._names.targets if is_asked(caller, name, method)}
        if not self._names.is_several:
            if not isinstance(cursor, str):
                raise JsonRpcError(INVALID_PARAMS, "Invalid params: cursor")
            return {self._names.targets[0]: cursor}
        return cursors.decode(method, cursor, self._names.targets)

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


_LIST_OF: Final[Mapping[Kind, str]] = {
    "tool": "tools/list",
    "prompt": "prompts/list",
    "resource": "resources/list",
    "template": "resources/templates/list",
    "task": "tasks/list",
}


def _with_cursor(message: Json, cursor: str) -> Json:
    params = message.get("params", {})
    if params.get("cursor") == cursor or (not cursor and "cursor" not in params):
        return message
    params = {key: value for key, value in params.items() if key != "cursor"}
    if cursor:
        params["cursor"] = cursor
    return {**message, "params": params}
