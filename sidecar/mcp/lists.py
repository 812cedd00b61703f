"""Lists of tools, prompts, resources, templates and tasks: those of servers made one.

Source: spec/mcp_a2a.md sections 1.4 (caching), 2.2, 2.3 and 5.2, rows 8 and 12.

API: `prepare(method, target, result, names, …)` for the page of each server, which may be kept as
long as the server's answer may; `merged(method, pages, names, evaluation, …)` for each client's
request. Between the two lies all that depends on who asks.

The order of things: pins see the server's own definitions, rules its own names, then the operator's
changes of tools apply, then names get their prefixes. Items keep the order of their servers, and
servers that of the configuration. A name that could mean two servers' things is in no list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, final

from sidecar.errors import UpstreamError
from sidecar.jsonrpc import Json
from sidecar.mcp.cursors import encode
from sidecar.mcp.merge import SERVER_INFO, cache_hints
from sidecar.mcp.names import Kind, Names
from sidecar.mcp.rules import Evaluation
from sidecar.mcp.tools import Control


class Approved(Protocol):
    """Which tools clients may know of (mcp.pins, mcp.pinned)."""

    def kept(self, tools: list[Json]) -> list[Json]:
        """Those of a page."""


class Shape(NamedTuple):
    """Where a list method keeps what."""

    key: str
    kind: Kind
    name: str


LISTS: Final[Mapping[str, Shape]] = {
    "tools/list": Shape("tools", "tool", "name"),
    "prompts/list": Shape("prompts", "prompt", "name"),
    "resources/list": Shape("resources", "resource", "uri"),
    "resources/templates/list": Shape("resourceTemplates", "template", "uriTemplate"),
    "tasks/list": Shape("tasks", "task", "taskId"),
}

_MODERN: Final = ("resultType", "ttlMs", "cacheScope")


class Entry(NamedTuple):
    """One item of a server's list."""

    own_name: str
    """The server's own, by which rules judge it."""
    item: Json
    """As clients get it."""
    ui: str
    """The server's own URI of the resource that shows it (MCP Apps); "" without."""


@final
class Page(NamedTuple):
    """One page of one server, ready for any client."""

    target: str
    result: Json
    """As the server gave it."""
    entries: list[Entry]
    items: list[Json]
    """Those of the entries; the server's own list object when nothing was changed."""
    has_bare_names: bool
    """Whether a client's name of some item does not tell its server."""
    cursor: str
    """The server's `nextCursor`; "" on its last page."""


def prepare(
    method: str,
    target: str,
    result: Json,
    names: Names,
    *,
    control: Control | None = None,
    pins: Approved | None = None,
) -> Page:
    """The page that a server answered. `control` and `pins` are for tools only.

    Items without a name are left out, and of several servers what one lists twice.
    Raises: UpstreamError when there is no list in it.
    """
    shape = LISTS[method]
    given = result.get(shape.key)
    if not isinstance(given, list):
        raise UpstreamError(502, "mcp_list", f"{target}: {method} without `{shape.key}`")
    cursor = result.get("nextCursor")
    entries: list[Entry] = []
    has_bare_names = False
    seen: set[str] = set()
    known = [one for one in given if isinstance(one, dict) and isinstance(one.get(shape.name), str)]
    for own in known if pins is None else pins.kept(known):
        item = own if control is None else control.listed(own)
        if item is None:
            continue
        listed = item[shape.name]
        if listed in seen and names.is_several:
            continue
        seen.add(listed)
        client = names.to_client(shape.kind, target, listed)
        if client == listed:
            has_bare_names = True
        else:
            item = {**item, shape.name: client}
        ui = ""
        if shape.kind == "tool" and "_meta" in item:
            item, ui = _with_ui(item, names, target)
        entries.append(Entry(own[shape.name], item, ui))
    items = [entry.item for entry in entries]
    if len(items) == len(given) and all(map(_is, items, given)):
        items = given
    return Page(
        target,
        result,
        entries,
        items,
        has_bare_names and names.is_several,
        cursor if isinstance(cursor, str) else "",
    )


def merged(
    method: str,
    pages: Sequence[Page],
    names: Names,
    evaluation: Evaluation | None,
    *,
    is_modern: bool,
    server_info: Json,
    is_partial: bool = False,
) -> Json:
    """The result for one client. With one target it is that one's, as far as nothing is hidden.

    `pages`: in the order of the configuration. A client's name that several of them have is left
    out, so names that do not tell their server need the pages of whole lists.
    `is_partial`: a server was skipped as it failed (failOpen), so nobody may keep the result.
    Raises: UpstreamError for cursors that are too long.
    """
    shape = LISTS[method]
    if len(names.targets) == 1 and len(pages) == 1:
        return _of_one(shape, pages[0], evaluation, is_modern=is_modern)
    items: list[Json] = []
    for page in pages:
        items += page.items if evaluation is None else _permitted(shape.kind, page, evaluation)
    if any(page.has_bare_names for page in pages):
        # Also what is hidden from this client makes a name ambiguous, for calls find it too.
        clashes = _clashes(shape.name, pages)
        items = [item for item in items if item[shape.name] not in clashes]
    result: Json = {shape.key: items}
    cursor = encode(method, {page.target: page.cursor for page in pages if page.cursor})
    if cursor is not None:
        result["nextCursor"] = cursor
    if is_modern:
        hints = cache_hints(
            () if is_partial else [page.result for page in pages],
            is_filtered=evaluation is not None,
        )
        result = {
            "resultType": "complete",
            **result,
            **hints,
            "_meta": {SERVER_INFO: server_info},
        }
    return result


def _of_one(shape: Shape, page: Page, evaluation: Evaluation | None, *, is_modern: bool) -> Json:
    items = page.items if evaluation is None else _permitted(shape.kind, page, evaluation)
    result = page.result
    if items is not result[shape.key]:
        result = {**result, shape.key: items}
    if not is_modern:
        if any(key in result for key in _MODERN):
            result = {key: value for key, value in result.items() if key not in _MODERN}
        return result
    if evaluation is None and all(key in result for key in _MODERN):
        return result
    hints = cache_hints((page.result,), is_filtered=evaluation is not None)
    return {"resultType": "complete", **result, **hints}


def _permitted(kind: Kind, page: Page, evaluation: Evaluation) -> list[Json]:
    shows, target = evaluation.shows, page.target
    return [
        item if not ui or shows("resource", target, ui) else _without_ui(item)
        for own_name, item, ui in page.entries
        if shows(kind, target, own_name)
    ]


def _clashes(name: str, pages: Iterable[Page]) -> set[str]:
    owner: dict[str, str] = {}
    return {
        item[name]
        for page in pages
        for item in page.items
        if owner.setdefault(item[name], page.target) != page.target
    }


def _with_ui(item: Json, names: Names, target: str) -> tuple[Json, str]:
    """The tool with the URI of its view as clients name it, and that URI as its server does."""
    meta = item["_meta"]
    if not isinstance(meta, dict):
        return item, ""
    ui, old = meta.get("ui"), meta.get("ui/resourceUri")
    uri = ui.get("resourceUri") if isinstance(ui, dict) else None
    changed = dict(meta)
    own = ""
    if isinstance(old, str):
        own, changed["ui/resourceUri"] = old, names.to_client("resource", target, old)
    if isinstance(ui, dict) and isinstance(uri, str):
        own = uri
        changed["ui"] = {**ui, "resourceUri": names.to_client("resource", target, uri)}
    return (item, own) if changed == meta else ({**item, "_meta": changed}, own)


def _without_ui(item: Json) -> Json:
    """The tool without its view, which this client may not read."""
    meta = {key: value for key, value in item["_meta"].items() if key != "ui/resourceUri"}
    if isinstance(ui := meta.get("ui"), dict):
        meta["ui"] = {key: value for key, value in ui.items() if key != "resourceUri"}
    return {**item, "_meta": meta}


def _is(left: object, right: object) -> bool:
    return left is right
