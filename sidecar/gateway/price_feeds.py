"""Catalogues of prices that are fetched: when each is due, and what came of it.

Source: spec/llm.md section 4.7; spec/config.md section 10.1 (again 15 s after a failure).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from sidecar.config.snapshot import Resource
from sidecar.errors import UpstreamError

if TYPE_CHECKING:
    from sidecar.llm.price_feed import Feed

Data = Mapping[str, Any]
Fetch = Callable[[str, str], "Feed | None"]
_KIND: Final = "catalog"
_NAME: Final = "prices"
_AFTER_FAILURE_SECONDS: Final = 15.0

_log = logging.getLogger(__name__)


@final
@dataclass(slots=True)
class _State:
    due: float = 0.0
    etag: str = ""
    is_failing: bool = False


@final
class PriceFeeds:
    """Keeps `texts`, by URL, up to date: the last good catalogue of each stays until a newer one
    comes."""

    def __init__(
        self,
        texts: MutableMapping[str, str],
        fetch: Fetch,
        monotonic: Callable[[], float],
        count: Callable[[str], None],
    ) -> None:
        """`fetch` blocks (llm.price_feed.fetch). `count`: told how a look ended."""
        self._texts = texts
        self._fetch = fetch
        self._monotonic = monotonic
        self._count = count
        self._states: dict[str, _State] = {}

    async def refresh(self, sources: Iterable[Data]) -> bool:
        """Fetch what is due of the sources with a `url`; whether any has changed."""
        wanted = {str(one["url"]): float(one["refresh"]) for one in sources if "url" in one}
        for url in self._states.keys() - wanted.keys():
            del self._states[url]
        has_changed = False
        for url, seconds in wanted.items():
            state = self._states.setdefault(url, _State())
            if self._monotonic() >= state.due:
                has_changed |= await self._look(url, state, seconds)
        return has_changed

    async def _look(self, url: str, state: _State, seconds: float) -> bool:
        # What an etag is of may have been left behind with an earlier process.
        etag = state.etag if url in self._texts else ""
        try:
            found = await asyncio.to_thread(self._fetch, url, etag)
        except UpstreamError as error:
            state.due = self._monotonic() + min(seconds, _AFTER_FAILURE_SECONDS)
            if not state.is_failing:
                _log.warning("prices at %s: %s; trying again until they come", _shown(url), error)
            state.is_failing = True
            self._count("failed")
            return False
        state.due = self._monotonic() + seconds
        if state.is_failing:
            _log.info("prices at %s can be had again", _shown(url))
        state.is_failing = False
        if found is None or found.text == self._texts.get(url):
            self._count("unchanged")
            return False
        state.etag = found.etag
        self._texts[url] = found.text
        self._count("changed")
        return True


def fetch_prices(url: str, etag: str) -> Feed | None:
    """See llm.price_feed.fetch; its HTTP client is loaded by the first who fetches."""
    from sidecar.llm.price_feed import fetch

    return fetch(url, etag)


def sources_of(resources: Mapping[str, Resource]) -> Sequence[Data]:
    """`config.modelCatalog` as it was normalised."""
    found = resources.get(f"{_KIND}/{_NAME}")
    if found is None:
        return ()
    sources = found.data["sources"]
    assert isinstance(sources, list)
    return sources


def texts_of(resources: Mapping[str, Resource]) -> dict[str, str]:
    """What was fetched of their URLs."""
    return {one["url"]: one["inline"] for one in sources_of(resources) if "url" in one}


def repriced(resources: Mapping[str, Resource], texts: Mapping[str, str]) -> dict[str, Resource]:
    """The same resources with these texts for their URLs."""
    sources = [
        {**one, "inline": texts.get(one["url"], one["inline"])} if "url" in one else dict(one)
        for one in sources_of(resources)
    ]
    made = Resource.of(_KIND, _NAME, {"sources": sources})
    return {**resources, f"{_KIND}/{_NAME}": made}


def _shown(url: str) -> str:
    # Without the query, which may hold a token.
    return url.partition("?")[0]
