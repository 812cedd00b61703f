"""An OpenAPI document: which version it is, and what its references point at.

Source: OpenAPI 3.0.4 and 3.1.1; RFC 6901 (JSON pointers).

Places are JSON pointers from the root (`#/paths/~1pets/get`); every fault names one. References
lead nowhere but into the document: nothing is fetched because a document says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final
from urllib.parse import unquote

from sidecar.errors import ConfigError

_CHAIN_MAX: Final = 32
"""References that point at references."""
ROOT: Final = "#"

Node = Mapping[str, Any]


def fault(place: str, message: str) -> ConfigError:
    """What is wrong with a document, and where."""
    return ConfigError("", f"OpenAPI document, {place}: {message}")


def below(place: str, *keys: str | int) -> str:
    """The place of what stands under these keys."""
    steps = (str(key).replace("~", "~0").replace("/", "~1") for key in keys)
    return "/".join((place, *steps))


@final
class Document:
    """A checked version, and references followed."""

    __slots__ = ("data", "has_nullable")

    def __init__(self, data: Node) -> None:
        """`data`: as config.openapi.parse_document gives it. Raises: ConfigError."""
        if "swagger" in data:
            hint = "convert it to OpenAPI 3, for instance with swagger2openapi"
            raise fault(below(ROOT, "swagger"), f"Swagger 2.0 is not supported; {hint}")
        version = data.get("openapi")
        if not isinstance(version, str) or not version.startswith(("3.0", "3.1", "3.2")):
            raise fault(below(ROOT, "openapi"), "expected a version 3.0, 3.1 or 3.2, as text")
        self.data = data
        self.has_nullable = version.startswith("3.0")
        """Whether schemas are those of 3.0; later ones are JSON Schema 2020-12."""

    def mapping(self, node: object, place: str) -> Node:
        """The node, which has to be a mapping. Raises: ConfigError."""
        if not isinstance(node, Mapping):
            raise fault(place, "expected a mapping")
        return node

    def section(self, node: Node, key: str, place: str) -> Node:
        """A mapping below, empty when it is not there. Raises: ConfigError."""
        found = node.get(key)
        return {} if found is None else self.mapping(found, below(place, key))

    def entries(self, node: Node, key: str, place: str) -> list[Any]:
        """A list below, empty when it is not there. Raises: ConfigError."""
        found = node.get(key)
        if found is None:
            return []
        if not isinstance(found, list):
            raise fault(below(place, key), "expected a list")
        return found

    def followed(self, node: object, place: str) -> tuple[Node, str]:
        """What the node is, or refers to, which has to be a mapping; and the place of that.

        Raises: ConfigError.
        """
        for _ in range(_CHAIN_MAX):
            found = self.mapping(node, place)
            reference = found.get("$ref")
            if not isinstance(reference, str):
                return found, place
            node, place = self.pointed(reference, below(place, "$ref"))
        raise fault(place, f"a chain of more than {_CHAIN_MAX} references")

    def pointed(self, reference: str, place: str) -> tuple[Any, str]:
        """What a reference points at, and the place of that. Raises: ConfigError."""
        if not reference.startswith("#"):
            raise fault(place, f"`{reference[:200]}` leads out of the document; bundle it into one")
        if reference != ROOT and not reference.startswith("#/"):
            raise fault(place, f"`{reference[:200]}` is no JSON pointer; anchors are not supported")
        node: Any = self.data
        target = ROOT
        for step in reference.split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            target = below(target, key)
            if isinstance(node, Mapping) and key in node:
                node = node[key]
            elif isinstance(node, list) and key.isascii() and key.isdigit() and len(key) < 8:
                node = node[int(key)] if int(key) < len(node) else None
            else:
                node = None
            if node is None:
                raise fault(place, f"`{reference[:200]}` points at nothing")
        return node, target
