"""Readiness: 200 when traffic may come, else 500 and what is missing.

Source: spec/config.md section 8.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

_PATH = "/healthz/ready"


def readiness_app(pending: Callable[[], Sequence[str]]) -> Starlette:
    """`pending` names what is not ready yet; nothing means ready."""

    async def ready(request: Request) -> Response:
        waiting = pending()
        if waiting:
            return PlainTextResponse(f"not ready, pending: {', '.join(waiting)}", 500)
        return PlainTextResponse("ready\n")

    return Starlette(routes=[Route(_PATH, ready, methods=["GET"])])
