"""Changes of header fields that another service asks for, checked before any is made.

Source: envoy.config.core.v3.HeaderValueOption; RFC 9110 sections 5.5 and 7.6.1; hardening cases 17,
38 and 39.

An answer that wants what cannot be done is no answer: to make the rest of its changes would be to
ignore what the service decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from google.protobuf.struct_pb2 import Struct

from sidecar.http.headers import Field, Headers
from sidecar.policies import fields
from sidecar.policies._pb import envoy_pb2 as envoy
from sidecar.policies.struct_value import plain_struct

FIELDS_MAX: Final = 128
"""Fields that one answer may set or remove."""
FIELDS_BYTES: Final = 64 * 1024
_DEPTH_MAX: Final = 30
METADATA_BYTES: Final = 64 * 1024
"""Bound of what one answer tells, as JSON."""
TRUST: Final = frozenset(
    (
        *(b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port"),
        *(b"x-forwarded-proto", b"x-forwarded-prefix", b"x-forwarded-client-cert", b"x-real-ip"),
    )
)
"""Fields in which hops tell each other where a request came from; that is the gateway's to say."""

APPEND: Final = envoy.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
ADD_IF_ABSENT: Final = envoy.HeaderValueOption.ADD_IF_ABSENT
OVERWRITE: Final = envoy.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
OVERWRITE_IF_EXISTS: Final = envoy.HeaderValueOption.OVERWRITE_IF_EXISTS
_ACTIONS: Final = frozenset((APPEND, ADD_IF_ABSENT, OVERWRITE, OVERWRITE_IF_EXISTS))

Option = tuple[int, bytes, bytes]
"""`(action, name, value)`; an empty value of OVERWRITE means that the field goes."""


@final
class BadAnswerError(Exception):
    """An answer that wants what cannot be done. It refuses, whatever the failure mode."""


@final
@dataclass(frozen=True, slots=True)
class Mutation:
    """Fields to set, in order, and names to drop."""

    options: tuple[Option, ...] = ()
    removed: frozenset[bytes] = frozenset()

    def set_in(self, headers: Headers, *, twins: bool) -> None:
        """Set the fields. `twins`: see fields.remover; for requests, whose client may lie."""
        for action, name, value in self.options:
            if action == APPEND:
                headers.append((name, value))
                continue
            is_there = headers.has(name)
            if (action == ADD_IF_ABSENT and is_there) or (
                action == OVERWRITE_IF_EXISTS and not is_there
            ):
                continue
            drop = fields.remover((name,), twins=twins)
            if drop is not None:
                drop(headers)
            if value or action != OVERWRITE:
                headers.append((name, value))

    def remove_in(self, headers: Headers, *, twins: bool) -> None:
        """Drop the fields that are to go."""
        drop = fields.remover(self.removed, twins=twins)
        if drop is not None:
            drop(headers)


def options(
    given: Sequence[envoy.HeaderValueOption],
    kept: frozenset[bytes],
    *,
    skipped: frozenset[bytes] = frozenset(),
) -> tuple[Option, ...]:
    """Options as they can be applied. `kept`: names nobody may set. `skipped`: set by us anyhow.

    Without `append` and with the action 0, which is also what an unset one looks like, a field is
    put in the place of those that are there. Raises: BadAnswerError.
    """
    if len(given) > FIELDS_MAX:
        raise BadAnswerError(f"it sets more than {FIELDS_MAX} headers")
    made: list[Option] = []
    size = 0
    for one in given:
        key = name(one.header.key)
        if key in skipped:
            continue
        if key in kept or key in fields.FRAMING:
            raise BadAnswerError("it sets a header that is the gateway's")
        raw = one.header.raw_value or one.header.value.encode()
        value = fields.checked(raw)
        if value is None:
            raise BadAnswerError("it sets a header to what no header can hold")
        size += len(key) + len(value)
        action = _action(one)
        if not value and not one.keep_empty_value and action != OVERWRITE:
            # Envoy drops such a field; of OVERWRITE nothing may be left, not even the client's.
            continue
        made.append((action, key, value))
    if size > FIELDS_BYTES:
        raise BadAnswerError(f"it sets more than {FIELDS_BYTES} bytes of headers")
    return tuple(made)


def _action(option: envoy.HeaderValueOption) -> int:
    if option.HasField("append"):
        return APPEND if option.append.value else OVERWRITE
    action = option.append_action
    if action not in _ACTIONS:
        raise BadAnswerError("it sets a header in a way that is not known")
    return OVERWRITE if action == APPEND else action


def name(text: str) -> bytes:
    """A field name of an answer, lower-case. Raises: BadAnswerError."""
    made = text.encode("utf-8", "replace").lower()
    if not fields.TOKEN.fullmatch(made):
        raise BadAnswerError("it names a header as no header can be named")
    return made


def removals(given: Sequence[str]) -> frozenset[bytes]:
    """Names to drop. Raises: BadAnswerError.

    What a request cannot be without is passed by, as Envoy does, and what frames it is ours anyhow.
    """
    if len(given) > FIELDS_MAX:
        raise BadAnswerError(f"it removes more than {FIELDS_MAX} headers")
    made = (name(one) for one in given if not one.startswith(":"))
    return frozenset(made) - fields.FRAMING - {b"host"}


# --- metadata -----------------------------------------------------------------------------------


def struct(values: Mapping[str, Any]) -> Struct:
    """A Struct of plain values: numbers as doubles, what JSON cannot say as text of it."""
    made = Struct()
    made.update({key: _said(value, 0) for key, value in values.items()})
    return made


def _said(value: Any, depth: int) -> Any:
    # A reader of the message refuses more than a hundred levels, two for each of these.
    if depth < _DEPTH_MAX and isinstance(value, Mapping):
        return {str(key): _said(one, depth + 1) for key, one in value.items()}
    if depth < _DEPTH_MAX and isinstance(value, list | tuple):
        return [_said(one, depth + 1) for one in value]
    # An integer beyond a double's range has no number in a Struct.
    is_number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)
    if value is None or is_number or isinstance(value, str):
        return value
    raw = str(value).encode() if isinstance(value, int) else fields.encoded(value)
    return None if raw is None else raw.decode("utf-8", "replace")


def plain(given: Struct) -> dict[str, Any]:
    """What an answer tells of a request, in bounds. Raises: BadAnswerError."""
    if given.ByteSize() > METADATA_BYTES:
        raise BadAnswerError(f"it tells more than {METADATA_BYTES} bytes of metadata")
    return plain_struct(given)


def learn(state: dict[str, object], variable: str, told: Mapping[str, Any]) -> None:
    """Add what an answer tells to a variable of expressions."""
    if told:
        known = state.get(variable)
        state[variable] = {**known, **told} if isinstance(known, Mapping) else dict(told)


def field_values(headers: Iterable[Field]) -> list[envoy.HeaderValue]:
    """Fields as a HeaderMap has them, octet by octet."""
    return [envoy.HeaderValue(key=key.decode("latin-1"), raw_value=value) for key, value in headers]
