"""Pages of servers' lists: those kept, those asked for, and what whole lists say of a name.

Source: spec/mcp_a2a.md sections 2.2 (`never`), 2.3, 2.7 and 5.2 rows 8, 9, 12 and 13.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Container, Iterable, Mapping
from typing import Final, final

from sidecar import jsonrpc
from sidecar.errors import SidecarError
from sidecar.http.headers import Headers
from sidecar.jsonrpc import INVALID_PARAMS, Json, JsonRpcError
from sidecar.mcp import cursors
from sidecar.mcp.asking import Asking, is_asked, seen_from_outside
from sidecar.mcp.era import HEADER_MISMATCH
from sidecar.mcp.gathered import Answers, failure_of, is_unknown_method
from sidecar.mcp.lanes import Caller
from sidecar.mcp.lists import LISTS, Page, merged
from sidecar.mcp.mirrored import header_arguments, mirrored_params
from sidecar.mcp.names import Kind
from sidecar.mcp.rules import Evaluation
from sidecar.mcp.streams import Ready
from sidecar.mcp.upstream.base import Messages, Refused

_PAGES_MAX: Final = 64
"""Of one server, when its whole list is wanted."""
LIST_OF: Final[Mapping[Kind, str]] = {
    "tool": "tools/list",
    "prompt": "prompts/list",
    "resource": "resources/list",
    "template": "resources/templates/list",
    "task": "tasks/list",
}


@final
class Pages:
    """The lists of one backend's servers."""

    __slots__ = ("_asking", "_lanes", "_listing", "_names", "_terms")

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._lanes = asking.lanes
        self._names = asking.names
        self._listing = asking.listing
        self._terms = asking.terms

    # --- a list for a client --------------------------------------------------------------

    async def listed(
        self, message: Json, caller: Caller, evaluation: Evaluation | None
    ) -> Messages:
        """The answer to a list's request. Raises: JsonRpcError, UpstreamError, Refused."""
        method: str = message["method"]
        asked, identity = self._cursors(message, caller), message["id"]
        names = self._names
        if names.is_several and not names.has_prefixes and not any(asked.values()):
            result = await self._joined(method, asked, caller, evaluation)
            return Ready.of(jsonrpc.result(identity, result))
        kept = self._kept(method, asked, caller)

        def finish(answers: Answers) -> Json:
            # A kept page is an answer: a server that fails is judged as beside one that answers.
            for name, page in kept.items():
                answers.results[name] = page.result
            pages = dict(kept)
            for name, result in answers.settle(tuple(asked), fails_open=self._terms.fails_open):
                if name not in pages:
                    pages[name] = self._taken(
                        name, method, asked[name], caller, result, marks[name]
                    )
            found = [pages[name] for name in asked if name in pages]
            return jsonrpc.result(
                identity, self._merged(method, found, caller, evaluation, answers)
            )

        missing = [name for name in asked if name not in kept]
        marks = {name: self._listing.mark(name, method) for name in missing}
        if not missing:
            return Ready.of(finish(Answers({}, {})))
        sent = {name: _with_cursor(message, asked[name]) for name in missing}
        return await self._asking.gathered(sent, caller, finish)

    def _kept(self, method: str, asked: Mapping[str, str], caller: Caller) -> dict[str, Page]:
        pages: dict[str, Page] = {}
        for name, cursor in asked.items():
            page = self._listing.find(name, method, cursor, caller.era, caller.principal)
            if page is not None:
                pages[name] = page
        return pages

    def _taken(
        self, name: str, method: str, cursor: str, caller: Caller, result: Json, mark: int
    ) -> Page:
        era, who = caller.era, caller.principal
        return self._listing.take(name, method, cursor, era, who, result, mark)

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

    def _merged(
        self,
        method: str,
        pages: list[Page],
        caller: Caller,
        evaluation: Evaluation | None,
        answers: Answers,
    ) -> Json:
        return merged(
            method,
            pages,
            self._names,
            evaluation,
            is_modern=caller.era == "modern",
            server_info=self._terms.server_info,
            is_partial=not all(map(is_unknown_method, answers.failures.values())),
        )

    async def _joined(
        self, method: str, asked: Mapping[str, str], caller: Caller, evaluation: Evaluation | None
    ) -> Json:
        """All pages as one: whether a name without a prefix means one thing, only whole lists
        tell."""
        answers = Answers({}, {})
        lists = await self._of_all(method, asked, caller, answers)
        answers.settle(tuple(asked), fails_open=self._terms.fails_open)
        pages = [
            page if page is listed[-1] else page._replace(cursor="")
            for listed in lists.values()
            for page in listed
        ]
        return self._merged(method, pages, caller, evaluation, answers)

    # --- pinned tools ---------------------------------------------------------------------

    async def is_approved(self, target: str, name: str, caller: Caller) -> bool:
        """Whether a server's tool may be called as far as it is pinned.

        Raises: JsonRpcError that says why not, where so configured; UpstreamError, Refused.
        """
        pins = self._listing.pins_of(target)
        if pins is None:
            return True
        if pins.is_due(name):
            await self.whole(target, LIST_OF["tool"], caller, is_fresh=True)
        return pins.check(name)

    # --- arguments in headers -------------------------------------------------------------

    async def repeated(
        self, target: str, params: Json, fixed: Container[str], caller: Caller
    ) -> Headers:
        """The client's headers, and those in which a server wants the `fixed` arguments of a call
        repeated. Raises: JsonRpcError, UpstreamError, Refused."""
        for page in await self.whole(target, LIST_OF["tool"], caller):
            for tool in page.result["tools"]:
                if isinstance(tool, dict) and tool.get("name") == params["name"]:
                    try:
                        wanted = header_arguments(tool.get("inputSchema"))
                    except ValueError:
                        return caller.headers
                    ours = {name: path for name, path in wanted.items() if path[0] in fixed}
                    return mirrored_params(caller.headers, params["arguments"], ours)
        return caller.headers

    # --- whole lists ----------------------------------------------------------------------

    async def owner(
        self, kind: Kind, name: str, candidates: Iterable[str], caller: Caller
    ) -> tuple[str, str] | None:
        """Server and own name of what a client names without telling its server.

        None when no server has it, or several do. Raises: JsonRpcError, UpstreamError, Refused.
        """
        method = LIST_OF[kind]
        found: set[tuple[str, str]] = set()
        key = LISTS[method].name
        answers = Answers({}, {})
        lists = await self._of_all(method, candidates, caller, answers)
        if not self._terms.fails_open or not lists:
            for failure in answers.failures.values():
                if not is_unknown_method(failure):
                    raise failure
        for target, pages in lists.items():
            for page in pages:
                found.update(
                    (target, entry.own_name) for entry in page.entries if entry.item[key] == name
                )
        return found.pop() if len(found) == 1 else None

    async def _of_all(
        self, method: str, targets: Iterable[str], caller: Caller, answers: Answers
    ) -> dict[str, list[Page]]:
        """The lists of all that have one, in this order; `answers` tells of the others."""
        asked = [name for name in targets if is_asked(caller, name, method)]
        taken = await asyncio.gather(*(self._noted(one, method, caller, answers) for one in asked))
        return {name: pages for name, pages in zip(asked, taken, strict=True) if pages}

    async def _noted(self, name: str, method: str, caller: Caller, answers: Answers) -> list[Page]:
        try:
            pages = await self.whole(name, method, caller)
        except Refused as error:
            answers.failures[name] = seen_from_outside(error)
            return []
        except (SidecarError, JsonRpcError) as error:
            answers.failures[name] = error
            return []
        answers.results[name] = pages[0].result
        return pages

    async def whole(
        self, name: str, method: str, caller: Caller, *, is_fresh: bool = False
    ) -> list[Page]:
        """All pages of a server. `is_fresh`: as it gives them now, none that was kept.

        Raises: JsonRpcError, UpstreamError, Refused.
        """
        pages: list[Page] = []
        cursor = ""
        while len(pages) < _PAGES_MAX:
            page = None
            if not is_fresh:
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
            # Of its own: calls of one session, in any worker, may ask the same server at once.
            "id": f"agw-resolve-{os.urandom(8).hex()}",
            "method": method,
            "params": params,
        }
        answers = Answers({}, {})
        mark = self._listing.mark(name, method)
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
        return self._taken(name, method, cursor, caller, answers.results.get(name, {}), mark)


def is_mismatch(error: Refused) -> bool:
    """Whether a server misses a header that repeats its message."""
    failure = seen_from_outside(error)
    return isinstance(failure, JsonRpcError) and failure.code == HEADER_MISMATCH


def _with_cursor(message: Json, cursor: str) -> Json:
    params = message.get("params", {})
    if params.get("cursor") == cursor or (not cursor and "cursor" not in params):
        return message
    params = {key: value for key, value in params.items() if key != "cursor"}
    if cursor:
        params["cursor"] = cursor
    return {**message, "params": params}
