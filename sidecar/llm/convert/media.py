"""Images and documents inside chats: the same file as OpenAI and as Anthropic say it.

Source: OpenAI API reference (chat content parts, responses input items); Anthropic API reference
(image and document blocks); RFC 2397 (data URLs).
"""

from __future__ import annotations

from base64 import b64decode
from typing import Final

from sidecar.llm.convert.base import Context, Json
from sidecar.llm.shape import ShapeError, to_object, to_objects, to_text

_PDF: Final = "application/pdf"
_TEXT: Final = "text/plain"


def parse_data_url(url: str) -> tuple[str, str] | None:
    """Media type and base64 text of a data URL; None for any other URL."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None
    return head[len("data:") : -len(";base64")].partition(";")[0], data


def image_source(url: str) -> Json:
    """An image URL as Anthropic's source."""
    parsed = parse_data_url(url)
    if parsed is None:
        return {"type": "url", "url": url}
    # A name that many write and Anthropic refuses.
    media_type = "image/jpeg" if parsed[0] == "image/jpg" else parsed[0]
    return {"type": "base64", "media_type": media_type, "data": parsed[1]}


def source_url(source: Json, where: str) -> str | None:
    """Anthropic's base64 or url source as an URL; None for another kind. Raises: ShapeError."""
    kind = source.get("type")
    if kind == "base64":
        media_type = to_text(source.get("media_type"), f"{where}.media_type")
        return f"data:{media_type};base64,{to_text(source.get('data'), f'{where}.data')}"
    return to_text(source.get("url"), f"{where}.url") if kind == "url" else None


def document_block(file: Json, where: str, context: Context) -> Json | None:
    """OpenAI's file (`file_data` or `file_url`, `filename`) as a document block, if it can be one.

    Anthropic reads PDF and plain text; an id of OpenAI's file store means nothing elsewhere.
    """
    url = to_text(file.get("file_url"), f"{where}.file_url")
    source: Json | None = {"type": "url", "url": url} if url else None
    parsed = parse_data_url(to_text(file.get("file_data"), f"{where}.file_data"))
    if parsed is not None and parsed[0] == _PDF:
        source = {"type": "base64", "media_type": _PDF, "data": parsed[1]}
    elif parsed is not None and parsed[0] == _TEXT:
        source = {"type": "text", "media_type": _TEXT, "data": _decoded(parsed[1])}
    if source is None:
        context.drop("file")
        return None
    block: Json = {"type": "document", "source": source}
    if file.get("filename") is not None:
        block["title"] = to_text(file["filename"], f"{where}.filename")
    return block


def _decoded(data: str) -> str:
    try:
        return b64decode(data).decode(errors="replace")
    except ValueError as exc:
        raise ShapeError("file_data", "base64") from exc


def document_file(block: Json, where: str) -> Json | None:
    """A document block with base64 data as OpenAI's `{filename, file_data}`. Raises: ShapeError."""
    source = to_object(block.get("source"), f"{where}.source")
    if source.get("type") != "base64":
        return None
    title = to_text(block.get("title"), f"{where}.title")
    return {
        "filename": title or "document.pdf",
        "file_data": source_url(source, f"{where}.source"),
    }


def document_text(block: Json, where: str) -> str | None:
    """The text of a document block that is plain text or consists of texts. Raises: ShapeError."""
    source = to_object(block.get("source"), f"{where}.source")
    if source.get("type") == "text":
        return to_text(source.get("data"), f"{where}.source.data")
    content = source.get("content") if source.get("type") == "content" else None
    if isinstance(content, str):
        return content
    parts = to_objects(content, f"{where}.source.content")
    if not parts or any(part.get("type") != "text" for part in parts):
        return None
    return "\n".join(to_text(part.get("text"), f"{where}.source.content") for part in parts)
