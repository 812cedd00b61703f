"""What the models of all policies share: strictness, durations, and how a problem reads.

Source: spec/config.md sections 0.2 (scalars), 0.4 and 0.6 (messages).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from sidecar.config.scalars import duration_seconds
from sidecar.errors import ConfigError

OBJECT = "<object>"
"""Tag of the mapping form of a key that also has a plain form. Tags stay out of problem paths."""
PLAIN = "<plain>"
"""Tag of the plain form (a string)."""
LIST = "<list>"
"""Tag of the form that is, or holds, a list."""

C = TypeVar("C", bound=BaseModel)


class PolicyConfig(BaseModel):
    """Base of every model: camelCase keys, unknown keys refused, no coercion between types."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        # A problem may quote a credential: pydantic must never print what it was given.
        hide_input_in_errors=True,
    )


ROOT = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)
"""Settings of a model that is one of several shapes."""


def _seconds(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError("invalid type: expected a duration such as `500ms` or `1m30s`")
    return duration_seconds(value)


Seconds = Annotated[float, BeforeValidator(_seconds)]
"""A duration string in the configuration, seconds in the program."""


def form(value: object) -> str:
    """Discriminator between the mapping form of a key and its plain form."""
    return OBJECT if isinstance(value, dict | BaseModel) else PLAIN


def alternative_form(value: object) -> str:
    """Discriminator between a plain policy and its `conditional` form (section 0.5)."""
    return LIST if isinstance(value, dict) and "conditional" in value else OBJECT


def exactly_one(model: BaseModel) -> None:
    """Check a model whose fields exclude each other. Raises: ValueError."""
    names = [field.alias or name for name, field in type(model).model_fields.items()]
    if sum(value is not None for _, value in model) != 1:
        raise ValueError("must set exactly one of " + ", ".join(f"`{name}`" for name in names))


def parse(model: type[C], payload: object) -> C:
    """Check a payload against a model. Raises: ConfigError, its path relative to the payload."""
    try:
        return model.model_validate(payload)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        location = [part for part in first["loc"] if part not in (OBJECT, PLAIN, LIST)]
        kind, name = first["type"], str(location[-1]) if location else ""
        if kind == "extra_forbidden":
            message = f"unknown field `{name}`"
        elif kind == "missing":
            message = f"missing field `{name}`"
        else:
            message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(dotted(location), message) from None


def dotted(location: Sequence[int | str]) -> str:
    """`["rules", 0, "allow"]` as `rules[0].allow`."""
    path = ""
    for part in location:
        path = f"{path}[{part}]" if isinstance(part, int) else child(path, part)
    return path


def child(path: str, key: str) -> str:
    """The path of a key below `path`; one that could forge a line of a log is quoted (case 40)."""
    if not key.isprintable():
        return f"{path}[{key!a}]"
    return f"{path}.{key}" if path else key


def nested(path: str, problem: ConfigError) -> ConfigError:
    """The same problem seen from one level further out."""
    if not problem.path:
        return ConfigError(path, problem.message)
    joint = "" if problem.path.startswith("[") else "."
    return ConfigError(f"{path}{joint}{problem.path}", problem.message)
