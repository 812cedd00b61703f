"""The text of an OpenAPI document as plain data: JSON, or else YAML, in bounds.

Source: OpenAPI 3.1.1 section 4.3 (format); spec/config.md section 0.2.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import orjson

from sidecar.config.yaml import Builder, YamlError, parse
from sidecar.errors import ConfigError

MAX_BYTES: Final = 16 * 1024 * 1024
"""Of a document: the largest in public use are near 12 MiB as JSON."""


def document_text(schema: str | dict[str, Any]) -> str:
    """A document of the configuration, given as text or as structure, as JSON.

    So it is in a snapshot, for workers that hold it as structure would hold ten times as much.
    Raises: ConfigError without a path.
    """
    return _known_text(schema) if isinstance(schema, str) else _written(schema)


# A reload for another reason would spend seconds on a large YAML.
@lru_cache(maxsize=16)
def _known_text(text: str) -> str:
    return _written(parse_document(text))


def _written(document: dict[str, Any]) -> str:
    try:
        return orjson.dumps(document).decode()
    except TypeError as error:
        raise ConfigError("", "the OpenAPI document cannot be written as JSON") from error


def parse_document(text: str | bytes) -> dict[str, Any]:
    """The document. Raises: ConfigError without a path."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > MAX_BYTES:
        raise ConfigError("", f"the OpenAPI document is larger than {MAX_BYTES} bytes")
    # Fast path: JSON, which a hundred times slower could be read as YAML too.
    if raw.lstrip()[:1] == b"{":
        try:
            return _checked(orjson.loads(raw))
        except orjson.JSONDecodeError as error:
            return _of_yaml(raw, f"neither JSON ({error.msg}, line {error.lineno}) nor YAML")
    return _of_yaml(raw, "neither JSON nor YAML")


def _of_yaml(raw: bytes, what: str) -> dict[str, Any]:
    try:
        found = parse(raw.decode(), Builder())
    except UnicodeDecodeError as error:
        raise ConfigError("", "the OpenAPI document is not UTF-8 text") from error
    except YamlError as error:
        fault = error.faults[0]
        where = "" if fault.place is None else f", line {fault.place.line + 1}"
        text = f"the OpenAPI document is {what} ({fault.message}{where})"
        raise ConfigError("", text) from error
    return _checked(found)


def _checked(found: object) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ConfigError("", "the OpenAPI document is not a mapping")
    return found
