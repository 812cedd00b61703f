"""Entries in the file's words are checked by the file's schema, and run without files.

Source: spec config 0.1, step 4, and 0.7.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ValidationError

from istio.errors import ResourceError
from istio.xds.documents.backend import PEM_MARK
from istio.xds.documents.plain import Json
from sidecar.config.explain import findings
from sidecar.config.problems import render_path
from sidecar.config.run import Known, Run
from sidecar.errors import ConfigError

_KNOWN: Final = Known(unsure=frozenset(("backend", "service", "group")))
"""What a resource refers to may come later: a reference to what is not there is no fault."""


def checked(model: type[BaseModel], document: Json) -> Json:
    """The document as the schema takes it. Raises: ResourceError."""
    try:
        valid = model.__pydantic_validator__.validate_python(document)
    except ValidationError as error:
        found = findings(model, error.errors(include_url=False), ())
        raise ResourceError(
            "; ".join(f"{render_path(one.parts)}: {one.message}" for one in found[:3])
        ) from None
    data: Json = model.__pydantic_serializer__.to_python(
        valid, by_alias=True, exclude_unset=True, exclude_none=True, warnings=False
    )
    return data


def run_of(document: Json, problems: list[ConfigError]) -> Run:
    """PEM texts of the document go where the run looks for files, and leave names behind."""
    contents: dict[str, bytes] = {}
    _take_pem(document, contents)

    def read(path: str) -> bytes:
        if path not in contents:
            raise OSError("a control plane cannot name files")
        return contents[path]

    return Run(problems, _KNOWN, read)


def _take_pem(node: Any, contents: dict[str, bytes]) -> None:
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if isinstance(value, str) and value.startswith(PEM_MARK):
            name = f"the PEM text of {key}"
            while name in contents:
                name += "'"
            contents[name] = value.removeprefix(PEM_MARK).encode()
            node[key] = name
        elif isinstance(value, dict | list):
            _take_pem(value, contents)


def raise_first(problems: list[ConfigError]) -> None:
    """Raises ResourceError with the first problems, if there are any."""
    if problems:
        raise ResourceError("; ".join(str(one).removeprefix(": ") for one in problems[:3]))


def key_of(one: Any) -> str:
    """The resource's own name. Raises: ResourceError without one."""
    if not one.key:
        raise ResourceError("key is missing")
    return str(one.key)
