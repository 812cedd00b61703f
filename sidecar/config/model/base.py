"""What every model shares: strictness, key spelling, choices, and "not supported yet".

Source: spec config sections 0.1, 0.2, 0.5 and 0.6; Appendix A.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar, final

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from sidecar.config.scalars import Expression

MAX_CONDITIONAL = 64
NOT_YET = "not_yet"
"""Type of the error that `NotYet` raises."""
NOTHING_CHOSEN = "nothing_chosen"
"""Type of the error of a `Choice` none of whose fields is given."""
TAG_MARK = "\0"
"""Begins the name of every union branch, so that error locations can be told from keys."""


def camel(name: str) -> str:
    """The configuration's spelling of a field: `request_timeout` → `requestTimeout`."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


class Model(BaseModel):
    """A mapping with a fixed set of keys. Types are exact: no text is taken for a number."""

    # Deferred: what nests a model builds it too, and most are never used by themselves.
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=camel, defer_build=True)


OPEN = ConfigDict(json_schema_extra={"x-open": True})
"""For the entries in which the reference ignores unknown keys (spec 0.1, step 4).

Here such a key is ignored too, with a warning; but one that looks like a slip of a known key is
refused, since a policy lost to a typing error fails open.
"""


class Renamed(Model):
    """A mapping some of whose fields have a second spelling, which validation makes the first."""

    OTHER_NAMES: ClassVar[Mapping[str, str]] = {}
    """Second spelling → the key as the schema has it."""

    @model_validator(mode="before")
    @classmethod
    def _first_spelling(cls, value: Any) -> Any:
        if type(value) is not dict or cls.OTHER_NAMES.keys().isdisjoint(value):
            return value
        renamed = {cls.OTHER_NAMES.get(key, key): item for key, item in value.items()}
        if len(renamed) < len(value):
            pairs = [(a, b) for a, b in cls.OTHER_NAMES.items() if a in value and b in value]
            raise _invalid(f"`{pairs[0][0]}` and `{pairs[0][1]}` are one field; set only one")
        return renamed


class Choice(Model):
    """A mapping in which exactly one of the fields of `CHOICES` is given."""

    CHOICES: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = self.model_fields_set & self.CHOICES
        if len(given) == 1:
            (name,) = given
            if getattr(self, name) is not None:
                return self
        kind = "choice" if given else NOTHING_CHOSEN
        raise PydanticCustomError(kind, "{expected}", {"expected": self._expectation()})

    @classmethod
    def _expectation(cls) -> str:
        fields = (name for name in cls.model_fields if name in cls.CHOICES)
        names = [cls.model_fields[name].alias or name for name in fields]
        if len(names) == 1:
            return f"`{names[0]}` must be set"
        return "exactly one of " + ", ".join(f"`{name}`" for name in names) + " must be set"


def branch(name: str) -> Tag:
    """The tag of a union's branch."""
    return Tag(TAG_MARK + name)


def by_shape(value: Any) -> str | None:
    """Choose a union's branch by the kind of value: `text`, `list` or `map`."""
    if type(value) is dict:
        return TAG_MARK + "map"
    if type(value) is str:
        return TAG_MARK + "text"
    return TAG_MARK + "list" if type(value) is list else None


def by_key(key: str) -> Callable[[Any], str | None]:
    """Choose a union's branch by whether a mapping has a key: `with` or `without`."""

    def choose(value: Any) -> str | None:
        return TAG_MARK + ("with" if type(value) is dict and key in value else "without")

    return choose


class Conditioned(Model):
    """An entry of a `conditional` list: a policy's own keys and a condition."""

    model_config = OPEN

    condition: Expression | None = None
    """CEL; the policy applies when it is true. The entry without one is the last."""


_Entry = TypeVar("_Entry", bound=Conditioned)


class Conditional(Model, Generic[_Entry]):
    """Several variants of a policy: the first whose condition is true applies, or none does."""

    conditional: list[_Entry]
    """1 to 64 entries."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        entries = self.conditional
        if not entries:
            raise _invalid("conditional policies must have at least one entry")
        if len(entries) > MAX_CONDITIONAL:
            raise _invalid("conditional policies may have at most 64 entries")
        if any(entry.condition is None for entry in entries[:-1]):
            raise _invalid("conditional policy entries without condition must be last")
        return self


def _invalid(reason: str) -> PydanticCustomError:
    return PydanticCustomError("invalid", "{reason}", {"reason": reason})


@final
@dataclass(frozen=True, slots=True)
class NotYet:
    """Marks a field that is part of the schema but whose behaviour is not built.

    The value is checked in full and then refused, naming the feature. Deleting the marker is all
    that a later release has to do to the model.
    """

    feature: str
    only: tuple[Any, ...] | None = None
    """The values that are refused; every value but null when None."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Wrap the field's own schema."""
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    def _validate(self, value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            result = handler(value)
        except ValidationError as error:
            if self._is_built(value):
                raise
            raise self._both(error, value) from None
        if self._is_built(value):
            return result
        raise self._refusal()

    def _is_built(self, value: Any) -> bool:
        return value is None or (self.only is not None and value not in self.only)

    def _refusal(self) -> PydanticCustomError:
        return PydanticCustomError(NOT_YET, "{feature}", {"feature": self.feature})

    def _both(self, error: ValidationError, value: Any) -> ValidationError:
        """The faults found inside, and the refusal of the whole."""
        details = [
            InitErrorDetails(
                type=PydanticCustomError(
                    one["type"],
                    "{message}",
                    {**one.get("ctx", {}), "message": one["msg"]},
                ),
                loc=one["loc"],
                input=one["input"],
            )
            for one in error.errors(include_url=False)
        ]
        refusal = InitErrorDetails(type=self._refusal(), loc=(), input=value)
        return ValidationError.from_exception_data(error.title, [refusal, *details])
