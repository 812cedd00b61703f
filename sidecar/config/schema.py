"""The JSON schema of the configuration file, for editors and for the `schema` command.

Descriptions are the models' docstrings. Those of fields are read from the source here, because
having pydantic read them would cost half a second at every start.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from sidecar.config.model.base import Model, Renamed, camel
from sidecar.config.model.root import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema, plain data."""
    schema = Config.model_json_schema(by_alias=True)
    definitions = {Config.__name__: schema, **schema["$defs"]}
    for model in _models(Model):
        definition = definitions.get(re.sub(r"[^\w.-]", "_", model.__name__))
        if definition is not None and "properties" in definition:
            _describe(model, definition["properties"])
            _add_other_names(model, definition["properties"])
            # Marks meant for our own reading: what is open takes other keys.
            if definition.pop("x-open", False):
                definition.pop("additionalProperties", None)
    return {"$schema": DIALECT, **schema}


def _models(root: type[Model]) -> Iterator[type[Model]]:
    for model in root.__subclasses__():
        yield model
        yield from _models(model)


def _describe(model: type[Model], properties: dict[str, Any]) -> None:
    for base in reversed(model.__mro__):
        # A parametrised generic has no source of its own; its origin stands behind it.
        if issubclass(base, Model) and "[" not in base.__name__:
            for name, text in _field_docs(base).items():
                field = model.model_fields.get(name)
                # Fields of a forward reference carry no alias of their own.
                key = (field.alias if field else None) or camel(name)
                if key in properties:
                    properties[key]["description"] = text


def _field_docs(model: type[Model]) -> dict[str, str]:
    """Field name → the string that follows it in the class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    body = definition.body
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _add_other_names(model: type[Model], properties: dict[str, Any]) -> None:
    if issubclass(model, Renamed):
        for other, name in model.OTHER_NAMES.items():
            if name in properties:
                properties[other] = {**properties[name], "deprecated": True}
