"""Whether a request may ask for its model with the API key that it came with.

Source: spec/llm.md section 4.4 (`allowedModels`).

A model can be named in the path, the query, a form and the body, and a provider may believe
another of them than we do: so every name that is there has to be allowed, and a request that names
none is one for anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qs

from sidecar.errors import RequestError
from sidecar.gateway.llm_form import form_model
from sidecar.http.message import Request
from sidecar.llm.chat import paths
from sidecar.llm.names import ALLOWED, AllowedModels, ModelError
from sidecar.llm.shape import parse_object

_GOOGLE: Final = frozenset(("generateContent", "geminiCountTokens"))
"""Formats whose body's `model` is never looked at."""
_MAX_FIELDS: Final = 1000
_MAX_SHOWN: Final = 200


def allowed_of(request: Request) -> AllowedModels | None:
    """The models of the request's key; None: any."""
    found = request.state.get(ALLOWED)
    return found if isinstance(found, AllowedModels) else None


def check_allowed(allowed: AllowedModels, kind: str, request: Request, raw: bytes) -> None:
    """`raw`: the body without its coding. Raises: ModelError 403."""
    names = set(_names(kind, request, raw)) or {""}
    for name in sorted(names):
        if not allowed.allows(name):
            text = f"Model '{name[:_MAX_SHOWN]}' is not allowed"
            raise ModelError(403, "model_not_allowed", text)


def _names(kind: str, request: Request, raw: bytes) -> Iterator[str]:
    path, _, query = request.target.partition("?")
    in_path = paths.model_of(path)
    if in_path:
        yield in_path
        if kind in _GOOGLE:
            return
    elif paths.with_model(path, "-") != path:
        # One that nobody reads, but whoever it is forwarded to.
        yield ""
    if "model" in query or "%" in query:
        yield from _queried(query)
    form = form_model(request.headers.get(b"content-type"), raw)
    if form is not None:
        yield form
    body = parse_object(raw) if raw else None
    if body is None:
        return
    # Fast path: the body can name the model once only. (An escape may spell the name otherwise.)
    named = [body.get("model")]
    if raw.count(b'"model"') > 1 or b"\\u00" in raw:
        named = _repeated(raw)
    for name in named:
        if isinstance(name, str) and name:
            yield name


def _repeated(raw: bytes) -> list[object]:
    """Every value of `model` in the object, also where a later one hides it from our parser.

    Raises: RequestError 400 for what another parser cannot read.
    """
    outermost: list[tuple[str, object]] = []

    def seen(pairs: list[tuple[str, object]]) -> None:
        nonlocal outermost
        outermost = pairs  # the last object to end is the outermost

    try:
        json.loads(raw, object_pairs_hook=seen)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "InvalidRequest", "the body cannot be read twice alike") from error
    return [value for name, value in outermost if name == "model"]


def _queried(query: str) -> list[str]:
    try:
        return parse_qs(query, max_num_fields=_MAX_FIELDS).get("model", [])
    except ValueError:
        # Too many to look at.
        return [""]
