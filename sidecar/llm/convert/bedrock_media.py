"""Images and documents as Bedrock's Converse takes them: bytes in base64, named by format.

Source: Amazon Bedrock API reference (ImageBlock, DocumentBlock); spec llm section 2.9.
"""

from __future__ import annotations

import re
from typing import Final, final

from sidecar.errors import RequestError
from sidecar.llm.convert.base import Context, Json
from sidecar.llm.convert.media import document_text, parse_data_url
from sidecar.llm.shape import to_object, to_text

_IMAGES: Final = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_OFFICE: Final = "application/vnd.openxmlformats-officedocument"
_DOCUMENTS: Final = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    f"{_OFFICE}.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    f"{_OFFICE}.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_EXTENSIONS: Final = frozenset(_DOCUMENTS.values())
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9()\[\]-]+")
_MAX_NAME_CHARS: Final = 190
"""Bedrock takes 200; the rest is for a number."""


def image_of_url(url: str, where: str) -> Json:
    """A data URL as an image block. Raises: RequestError 400 for any other URL."""
    parsed = parse_data_url(url)
    if parsed is None:
        raise RequestError(
            400, "InvalidRequest", f"{where}: Bedrock takes images as data URLs in base64 only"
        )
    return image(parsed[0], parsed[1], where)


def image(media_type: str, data: str, where: str) -> Json:
    """An image block. Raises: RequestError 400 for a type that Bedrock does not know."""
    kind = _IMAGES.get(media_type.lower())
    if kind is None:
        raise RequestError(
            400, "InvalidRequest", f"{where}: Bedrock takes png, jpeg, gif and webp images only"
        )
    return {"image": {"format": kind, "source": {"bytes": data}}}


def image_of_source(source: Json, where: str) -> Json:
    """Anthropic's source as an image block. Raises: ShapeError, RequestError 400."""
    if source.get("type") != "base64":
        raise RequestError(
            400, "InvalidRequest", f"{where}: Bedrock takes images as base64 data only"
        )
    media_type = to_text(source.get("media_type"), f"{where}.media_type")
    return image(media_type, to_text(source.get("data"), f"{where}.data"), where)


@final
class Documents:
    """The documents of one request, whose names must differ."""

    __slots__ = ("_context", "_names", "_numbers")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._names: set[str] = set()
        self._numbers: dict[str, int] = {}
        """Name → the last number behind it: thousands may share one."""

    def of_file(self, file: Json, where: str) -> Json | None:
        """OpenAI's `{filename, file_data}`; None, and told, when there are no bytes Bedrock reads.

        Raises: ShapeError.
        """
        data = to_text(file.get("file_data"), f"{where}.file_data")
        name = to_text(file.get("filename"), f"{where}.filename")
        media_type = ""
        parsed = parse_data_url(data)
        if parsed is not None:
            media_type, data = parsed
        return self._block(media_type, name, data)

    def of_block(self, block: Json, where: str) -> Json | None:
        """Anthropic's document block, on the same terms. Raises: ShapeError."""
        source = to_object(block.get("source"), f"{where}.source")
        name = to_text(block.get("title"), f"{where}.title")
        text = document_text(block, where)
        if text is not None:
            return self._document("txt", name, {"text": text})
        data = to_text(source.get("data"), f"{where}.source.data")
        media_type = to_text(source.get("media_type"), f"{where}.source.media_type")
        return self._block(media_type, name, data if source.get("type") == "base64" else "")

    def _block(self, media_type: str, name: str, data: str) -> Json | None:
        extension = name.rpartition(".")[2].lower()
        kind = _DOCUMENTS.get(media_type) or (extension if extension in _EXTENSIONS else "")
        if not data or not kind or data.startswith(("http:", "https:", "data:")):
            self._context.drop("file")
            return None
        return self._document(kind, name, {"bytes": data})

    def _document(self, kind: str, name: str, source: Json) -> Json:
        return {"document": {"format": kind, "name": self._name(name), "source": source}}

    def _name(self, name: str) -> str:
        stem, dot, extension = name.rpartition(".")
        if dot and extension.lower() in _EXTENSIONS:
            name = stem
        base = _FOREIGN.sub(" ", name).strip()[:_MAX_NAME_CHARS] or "document"
        unique, number = base, self._numbers.get(base, 1)
        while unique in self._names:
            number += 1
            unique = f"{base} ({number})"
        self._names.add(unique)
        self._numbers[base] = number
        return unique
