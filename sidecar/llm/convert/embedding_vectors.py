"""OpenAI's embeddings list, out of vectors as providers send them.

Source: OpenAI API reference (embeddings); spec llm section 2.13.
"""

from __future__ import annotations

import base64
import sys
from array import array
from typing import Any, Final

from sidecar.errors import RequestError
from sidecar.llm.convert.base import Context, Json
from sidecar.llm.shape import ShapeError, to_list

_ENCODING: Final = "encoding_format"


def inputs_of(body: Json) -> list[str]:
    """The texts to embed. Raises: ShapeError, RequestError 400 for lists of token numbers."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else to_list(given, "input")
    if not texts:
        raise ShapeError("input", "a string or a list of strings")
    if any(not isinstance(text, str) for text in texts):
        raise RequestError(
            400, "InvalidRequest", "input: this provider embeds texts only, not token numbers"
        )
    return texts


def only_input(body: Json) -> str:
    """The text, for models that embed one at a time. Raises: as above."""
    texts = inputs_of(body)
    if len(texts) > 1:
        raise RequestError(400, "InvalidRequest", "input: this model embeds one text at a time")
    return str(texts[0])


def remember_encoding(body: Json, context: Context) -> None:
    """Keep the encoding that the client asked for. Raises: ShapeError."""
    wanted = body.get(_ENCODING)
    if wanted not in (None, "float", "base64"):
        raise ShapeError(_ENCODING, "`float` or `base64`")
    context.asked[_ENCODING] = wanted


def embeddings(vectors: list[object], tokens: int, context: Context) -> Json:
    """The client's body. Numbers are of single precision, as models compute and OpenAI sends them.

    Raises: ShapeError.
    """
    is_packed = context.asked.get(_ENCODING) == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(vector, is_packed)}
        for index, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": context.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(vector: object, is_packed: bool) -> Any:
    try:
        numbers = array("f", to_list(vector, "embedding"))
    except (TypeError, OverflowError) as exc:
        raise ShapeError("embedding", "a list of numbers") from exc
    if not is_packed:
        return numbers.tolist()
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
