"""`POST /api/cel`: evaluates an expression on sample data, and explains the result.

Source: spec/config.md section 8.4: `{expression, data?}` → `{result, error}`. `explanation` is
ours.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sidecar.cel.engine import Engine
from sidecar.cel.explain import Explanation, explain
from sidecar.cel.sample import DEFAULT, variables
from sidecar.errors import ConfigError

MAX_BYTES: Final = 1024 * 1024
_HEADERS: Final = {"cache-control": "no-store"}


def evaluated(expression: str, data: Any, engine: Engine) -> Explanation:
    """The explanation; sample data that is wrong is its error. `data`: None for the default."""
    try:
        if data is not None and not isinstance(data, dict):
            raise ConfigError("data", "expected a map of variables")
        sample = DEFAULT if data is None else data
        activation = variables(sample, engine.context, engine.sensitive_headers)
    except ConfigError as error:
        return Explanation(error=f"data.{error.path}: {error.message}")
    return explain(engine, expression, activation)


def cel_routes(engine: Engine) -> tuple[Route, ...]:
    """The routes. `engine`: with the custom functions of the configuration that runs."""

    async def evaluate(request: Request) -> Response:
        raw = bytearray()
        async for piece in request.stream():
            raw += piece
            if len(raw) > MAX_BYTES:
                return _refused(413, f"the request is larger than {MAX_BYTES} octets")
        try:
            asked = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            return _refused(400, f"not JSON: {error}")
        if not isinstance(asked, dict) or not isinstance(asked.get("expression"), str):
            return _refused(400, "expected `{expression, data?}`, the expression as text")
        found = evaluated(asked["expression"], asked.get("data"), engine)
        return JSONResponse(found.to_json(), headers=_HEADERS)

    return tuple(Route(path, evaluate, methods=["POST"]) for path in ("/api/cel", "/cel"))


def _refused(status: int, why: str) -> Response:
    return JSONResponse({"result": None, "error": why}, status, _HEADERS)
