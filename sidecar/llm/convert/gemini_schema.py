"""JSON Schema cut down to what Gemini takes for tools and structured output.

References are inlined, `allOf` is merged, `const` becomes an `enum`, `null` among types becomes
`nullable`, and keywords that Gemini refuses are left out. What is left says less than the schema
did, never something else.

Source: Gemini API reference (Schema); JSON Schema 2020-12; spec llm section 2.11.
"""

from __future__ import annotations

from typing import Any, Final, final

from sidecar.errors import RequestError
from sidecar.llm.convert.base import Json
from sidecar.llm.shape import to_list, to_object

MAX_DEPTH: Final = 64
MAX_NODES: Final = 10_000
"""Schemas that refer to themselves grow when they are inlined."""
_KEPT: Final = frozenset(
    (
        "title",
        "description",
        "maxItems",
        "minItems",
        "minProperties",
        "maxProperties",
        "minLength",
        "maxLength",
        "pattern",
        "example",
        "propertyOrdering",
        "default",
        "minimum",
        "maximum",
        "nullable",
    )
)
_FORMATS: Final = ("enum", "date-time")
_DEFAULT_ITEMS: Final = "string"


def clean_schema(schema: object, where: str) -> Json:
    """The schema as Gemini takes it. The given one is not changed.

    Raises: ShapeError, RequestError 400 for one that is too large once inlined.
    """
    root = to_object(schema, where)
    return _Cleaner(root, where).clean(root, ())


@final
class _Cleaner:
    """One schema under cleaning. `seen`: the references that lead to a place."""

    __slots__ = ("_nodes", "_root", "_where")

    def __init__(self, root: Json, where: str) -> None:
        self._root = root
        self._where = where
        self._nodes = 0

    def clean(self, given: Json, seen: tuple[str, ...], depth: int = 0) -> Json:
        self._count(depth)
        schema, seen = self._flat(given, seen, depth)
        out: Json = {key: value for key, value in schema.items() if key in _KEPT}
        self._type(schema, out)
        self._choices(schema, out, seen, depth)
        if "enum" in schema or "const" in schema:
            _enum(schema, out, self._where)
        if schema.get("format") in _FORMATS:
            out["format"] = schema["format"]
        if schema.get("properties") is not None:
            self._properties(schema, out, seen, depth)
        self._items(schema, out, seen, depth)
        return out

    def _count(self, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise RequestError(400, "InvalidRequest", f"{self._where}: the schema is too large")

    # --- references and allOf ---

    def _flat(self, given: Json, seen: tuple[str, ...], depth: int) -> tuple[Json, tuple[str, ...]]:
        """The schema with what it refers to and what it is `allOf` in it."""
        schema = given
        while isinstance(schema.get("$ref"), str):
            self._count(len(seen))
            reference = schema["$ref"]
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            if reference in seen:
                # It refers to itself: what it holds at this depth is anything.
                return {"type": "object"} | beside, seen
            seen = (*seen, reference)
            schema = self._target(reference) | beside
        if "allOf" not in schema:
            return schema, seen
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in to_list(schema["allOf"], self._where):
            self._count(depth + 1)
            flat, seen = self._flat(to_object(part, self._where), seen, depth + 1)
            _merge(merged, flat, self._where)
        return merged, seen

    def _target(self, reference: str) -> Json:
        """What a reference into this schema names; anything, when it names nothing here."""
        found: Any = self._root if reference.startswith("#") else None
        for step in reference.removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    # --- keywords ---

    def _type(self, schema: Json, out: Json) -> None:
        kind = schema.get("type")
        if isinstance(kind, list):
            kinds = [name for name in kind if name != "null"]
            if len(kinds) < len(kind):
                out["nullable"] = True
            kind = kinds[0] if len(kinds) == 1 else None
            if len(kinds) > 1:
                out["anyOf"] = [{"type": name} for name in kinds if isinstance(name, str)]
        if isinstance(kind, str):
            out["type"] = kind
        elif "anyOf" not in out and "properties" in schema:
            out["type"] = "object"

    def _choices(self, schema: Json, out: Json, seen: tuple[str, ...], depth: int) -> None:
        options: list[Json] = []
        for key in ("anyOf", "oneOf"):
            for option in to_list(schema.get(key), self._where):
                option = to_object(option, self._where)
                if option.get("type") == "null":
                    out["nullable"] = True
                else:
                    options.append(self.clean(option, seen, depth + 1))
        if len(options) == 1:
            for key, value in options[0].items():
                out.setdefault(key, value)
        elif options:
            out["anyOf"] = options

    def _properties(self, schema: Json, out: Json, seen: tuple[str, ...], depth: int) -> None:
        given = to_object(schema["properties"], self._where)
        out["properties"] = {
            name: self.clean(to_object(value if value is not True else None, name), seen, depth + 1)
            for name, value in given.items()
            if value is not False
        }
        required = to_list(schema.get("required"), self._where)
        # Gemini refuses a required name that is no property.
        names = [name for name in required if isinstance(name, str) and name in out["properties"]]
        if names:
            out["required"] = names

    def _items(self, schema: Json, out: Json, seen: tuple[str, ...], depth: int) -> None:
        items = schema.get("items")
        if isinstance(items, dict):
            out["items"] = self.clean(items, seen, depth + 1)
        elif out.get("type") == "array":
            out["items"] = {"type": _DEFAULT_ITEMS}
        if out.get("items") == {}:
            out["items"] = {"type": _DEFAULT_ITEMS}


def _merge(into: Json, part: Json, where: str) -> None:
    """Another of `allOf`: properties and required add up, the first word on the rest stands."""
    for key, value in part.items():
        if key == "properties":
            into[key] = to_object(into.get(key), where) | to_object(value, where)
        elif key == "required":
            known = to_list(into.get(key), where)
            into[key] = known + [name for name in to_list(value, where) if name not in known]
        else:
            into.setdefault(key, value)


def _enum(schema: Json, out: Json, where: str) -> None:
    """Gemini knows choices of strings only."""
    given = [schema["const"]] if "const" in schema else to_list(schema["enum"], where)
    values = [value for value in given if isinstance(value, str)]
    if None in given:
        out["nullable"] = True
    if values and out.get("type", "string") == "string":
        out["type"] = "string"
        out["enum"] = values
