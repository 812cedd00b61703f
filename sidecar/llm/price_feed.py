"""A catalogue of prices from a URL: one blocking request, with a deadline and a cap.

Source: spec llm section 4.7; RFC 9110 section 13.1.2 (If-None-Match).
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple, final

import httpx

from sidecar.errors import ConfigError, UpstreamError
from sidecar.llm.prices import parse_text

SECONDS: Final = 30.0
MAX_BYTES: Final = 16 * 1024 * 1024


@final
class Feed(NamedTuple):
    """What a URL holds. `etag`: "" when the server gives none."""

    text: str
    etag: str


def fetch(url: str, etag: str = "", *, seconds: float = SECONDS) -> Feed | None:
    """The catalogue at a URL, checked; None when it is the one with that `etag` still.

    Redirects are not followed: prices come from where the operator said, or not at all.
    Raises: UpstreamError, also for what is no catalogue.
    """
    headers = {"accept": "application/json", "if-none-match": etag} if etag else {}
    try:
        with (
            httpx.Client(timeout=seconds, follow_redirects=False) as client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            if answer.status_code == 304 and etag:
                return None
            if answer.status_code != 200:
                raise _failed(f"answered {answer.status_code}")
            raw = _read(answer, time.monotonic() + seconds)
            found = answer.headers.get("etag", "")
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise _failed(type(exc).__name__) from exc
    try:
        text = raw.decode()
        parse_text(text, "the catalogue")
    except UnicodeDecodeError as exc:
        raise _failed("the answer is not UTF-8 text") from exc
    except ConfigError as exc:
        raise _failed(str(exc)) from exc
    return Feed(text, found)


def _read(answer: httpx.Response, deadline: float) -> bytes:
    """The body without its coding; a bomb, or a server that trickles, is given up."""
    parts: list[bytes] = []
    size = 0
    for part in answer.iter_bytes():
        size += len(part)
        if size > MAX_BYTES:
            raise _failed("the answer is too large")
        if time.monotonic() > deadline:
            raise _failed("the answer takes too long")
        parts.append(part)
    return b"".join(parts)


def _failed(reason: str) -> UpstreamError:
    return UpstreamError(502, "UpstreamFailure", reason)
