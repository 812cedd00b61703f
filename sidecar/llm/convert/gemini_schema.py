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
from sidecar.llm.shape import to_json, to_list, to_object

MAX_DEPTH: Final = 64
MAX_NODES: Final = 10_000
"""Schemas that refer to themselves grow when they are inlined."""
MAX_INLINED_BYTES: Final = 4 * 1024 * 1024
"""Of all schemas of a request: a long text is repeated wherever it is referred to."""
_MAX_REPEATED_CHARS: Final = 4096
"""Of a description that the options of a choice repeat."""
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
_TYPES: Final = {bool: "boolean", int: "integer", float: "number"}
_NULLABLE: Final = "nullable"
_HELD: Final = {"object": "properties", "array": "items"}


@final
class Inlined:
    """What the schemas of one request have inlined so far."""

    __slots__ = ("total_bytes",)

    def __init__(self) -> None:
        self.total_bytes = 0


def clean_schema(schema: object, where: str, inlined: Inlined | None = None) -> Json:
    """The schema as Gemini takes it. The given one is not changed.

    `inlined`: shared by the schemas of one request. Raises: ShapeError, RequestError 400 for one
    that is too large once inlined.
    """
    root = to_object(schema, where)
    return _Cleaner(root, where, inlined or Inlined()).clean(root, ())


@final
class _Cleaner:
    """One schema under cleaning. `seen`: the references that lead to a place."""

    __slots__ = ("_inlined", "_nodes", "_root", "_sizes", "_where")

    def __init__(self, root: Json, where: str, inlined: Inlined) -> None:
        self._root = root
        self._where = where
        self._inlined = inlined
        self._nodes = 0
        self._sizes: dict[str, int] = {}
        """Reference → how many bytes it stands for."""

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
            raise self._too_large()

    def _too_large(self) -> RequestError:
        return RequestError(400, "InvalidRequest", f"{self._where}: the schema is too large")

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
        target: Json = found if isinstance(found, dict) else {}
        if reference not in self._sizes:
            self._sizes[reference] = len(to_json(target, self._where))
        self._inlined.total_bytes += self._sizes[reference]
        if self._inlined.total_bytes > MAX_INLINED_BYTES:
            raise self._too_large()
        return target

    # --- keywords ---

    def _type(self, schema: Json, out: Json) -> None:
        kind = schema.get("type")
        if isinstance(kind, list):
            kinds = [name for name in kind if name != "null"]
            if len(kinds) < len(kind):
                out[_NULLABLE] = True
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
                    out[_NULLABLE] = True
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
        out[_NULLABLE] = True
    if values and "anyOf" not in out and out.get("type", "string") == "string":
        out["type"] = "string"
        out["enum"] = values
    kinds = {_TYPES.get(type(value)) for value in given if value is not None} - {None}
    if len(kinds) == 1 and not values and "type" not in out and "anyOf" not in out:
        out["type"] = kinds.pop()


def settled_schema(schema: Json, default: str = "object") -> Json:
    """A clean schema as Vertex AI takes it, which is stricter than the Gemini API: beside `anyOf`
    nothing stands, and what has no `anyOf` has a type, `default` where none is known.

    Where the choice is only about properties or items that stand beside it, these are what is left.
    """
    out = dict(schema)
    if _HELD.get(out.get("type", "")) in out:
        out.pop("anyOf", None)
    if "anyOf" in out:
        known = out.get("type", _DEFAULT_ITEMS)
        options = [settled_schema(_filled(option, out), known) for option in out["anyOf"]]
        return _chosen(options, {key: out[key] for key in ("description", _NULLABLE) if key in out})
    out.setdefault("type", default)
    if "properties" in out:
        properties = out["properties"].items()
        out["properties"] = {
            name: settled_schema(value, _DEFAULT_ITEMS) for name, value in properties
        }
    if "items" in out:
        out["items"] = settled_schema(out["items"], _DEFAULT_ITEMS)
    return out


def _filled(option: Json, held: Json) -> Json:
    """An option that is only a type, with what stands beside the choice about it: once."""
    key = _HELD.get(option.get("type", ""))
    if key is None or key in option or key not in held:
        return option
    return {**option, key: held.pop(key)}


def _chosen(options: list[Json], kept: Json) -> Json:
    """A choice whose options say what stood beside it: a long text only the first."""
    length = len(str(kept.get("description", "")))
    if length * sum(map(_leaves, options)) <= _MAX_REPEATED_CHARS:
        return {"anyOf": [_described(option, kept) for option in options]}
    rest = {key: value for key, value in kept.items() if key == _NULLABLE}
    described = [_described(option, rest) for option in options]
    first = described[0]
    while "anyOf" in first:
        first = first["anyOf"][0]
    first.setdefault("description", kept["description"])
    return {"anyOf": described}


def _leaves(option: Json) -> int:
    return sum(map(_leaves, option["anyOf"])) if "anyOf" in option else 1


def _described(option: Json, kept: Json) -> Json:
    if "anyOf" in option:
        return {"anyOf": [_described(inner, kept) for inner in option["anyOf"]]}
    return kept | option
