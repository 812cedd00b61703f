"""A message as plain data in the file's spelling, and where the two differ, the differences.

Most messages are the file's mappings with other letter case, so one walk does for all: field names
become camelCase, names of enums too, durations text, messages mappings. `SPECIAL` holds what is
shaped otherwise, by the message's name, and `RENAMED` the fields that have another name; each
module beside this one has its own, and `converter` joins them.

Enums and booleans are always written, since their zero may be another than the file's default;
empty texts, lists and mappings, and the number 0, say that nothing was set.

Source: the field list of agentgateway.dev.resource (../protos/resource.proto); spec config 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from istio.errors import ResourceError
from istio.xds._pb import resource_pb2 as pb

Json = dict[str, Any]
_PACKAGE: Final = "agentgateway.dev.resource."
_UNSPECIFIED: Final = ("UNSPECIFIED", "UNSET")
_NS: Final = 1_000_000_000


@final
class Converter:
    """The walk, with what is told apart by name."""

    __slots__ = ("_renamed", "_special")

    def __init__(self, special: Mapping[str, Special], renamed: Mapping[str, str]) -> None:
        """`special`: message to its function; `renamed`: `Message.field` to the file's key."""
        self._special = special
        self._renamed = renamed

    def plain(self, message: Any) -> Any:
        """The message's data. Raises: ResourceError."""
        special = self._special.get(_name(message))
        return self.walked(message) if special is None else special(self, message)

    def walked(self, message: Any, *left_out: str) -> Json:
        """Field by field, but for those that the caller writes itself. Raises: ResourceError."""
        name = _name(message)
        result: Json = {}
        for field in message.DESCRIPTOR.fields:
            if field.name in left_out or (field.has_presence and not message.HasField(field.name)):
                continue
            value = self._value(field, getattr(message, field.name))
            if value is not None:
                result[self._renamed.get(f"{name}.{field.name}") or camel(field.name)] = value
        return result

    def _value(self, field: Any, value: Any) -> Any:
        """None when there is nothing to say."""
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            made = {key: self._entry(one) for key, one in sorted(value.items())}
            return made or None
        if field.is_repeated:
            return [self._single(field, one) for one in value] or None
        if field.has_presence or field.enum_type is not None or field.type == field.TYPE_BOOL:
            return self._single(field, value)
        return self._single(field, value) if value else None

    def _entry(self, value: Any) -> Any:
        return self.plain(value) if isinstance(value, Message) else value

    def _single(self, field: Any, value: Any) -> Any:
        if field.message_type is not None:
            return self.plain(value)
        if field.enum_type is not None:
            return enum_name(field.enum_type, value)
        return text(value, field.name) if isinstance(value, bytes) else value


Special = Callable[[Converter, Any], Any]


def _name(message: Any) -> str:
    name: str = message.DESCRIPTOR.full_name
    return name.removeprefix(_PACKAGE)


def camel(name: str) -> str:
    """`request_timeout` and `REQUEST_TIMEOUT` → `requestTimeout`."""
    first, *rest = name.lower().split("_")
    return first + "".join(part.capitalize() for part in rest)


def enum_name(kind: Any, number: int) -> str | None:
    """In camelCase; None for an unspecified one. Raises: ResourceError for an unknown number."""
    found = kind.values_by_number.get(number)
    if found is None:
        raise ResourceError(f"{kind.name}: {number} is not known here")
    name: str = found.name
    if name.endswith(_UNSPECIFIED):
        return None
    # `CONTENT_SCOPE_MESSAGES` of the enum ContentScope is `messages`.
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.name).upper() + "_"
    return camel(name.removeprefix(prefix))


def text(value: bytes, what: str) -> str:
    """UTF-8. Raises: ResourceError, without the octets, which may be a key."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ResourceError(f"{what} is no UTF-8 text") from error


def duration(value: Duration) -> str:
    """`90s`, or nanoseconds where there is a fraction. Raises: ResourceError."""
    total = value.seconds * _NS + value.nanos
    if total < 0:
        raise ResourceError("a duration cannot be negative")
    return f"{total // _NS}s" if total % _NS == 0 else f"{total}ns"


def json_value(one: Message) -> Any:
    """What a Value or a Struct says. Raises: ResourceError for what JSON cannot."""
    try:
        return MessageToDict(one)
    except ValueError as error:
        raise ResourceError("a value that JSON cannot hold") from error


def pairs(entries: Any, name: str = "name", value: str = "value") -> Json:
    """A mapping of a list of pairs. Raises: ResourceError for a name that comes twice."""
    result: Json = {}
    for entry in entries:
        key = getattr(entry, name)
        if key in result:
            raise ResourceError(f"{entry.DESCRIPTOR.name}: `{key}` comes twice")
        result[key] = getattr(entry, value)
    return result


def given(**values: Any) -> Json:
    """Those that say something."""
    return {key: value for key, value in values.items() if value not in (None, "", 0, [], {})}


def reference(one: pb.BackendReference) -> Json:
    """`{service}`, `{backend}` or `{host}`. Raises: ResourceError."""
    kind = one.WhichOneof("kind")
    if kind == "service":
        name = f"{one.service.namespace}/{one.service.hostname}"
        return {"service": {"name": name, "port": one.port}}
    if kind == "backend":
        return {"backend": one.backend}
    if kind == "inline":
        return {"host": host_port(one.inline.hostname, one.inline.port)}
    raise ResourceError("a backend reference that names nothing")


def host_port(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def rules(one: Any) -> Json:
    """Of three lists of expressions."""
    made = [{kind: rule} for kind in ("allow", "deny", "require") for rule in getattr(one, kind)]
    return {"rules": made}


def once(made: Json, kind: str, payload: Any) -> None:
    """Put a policy among others. Raises: ResourceError when its kind is there."""
    if kind in made:
        raise ResourceError(f"two policies of the kind {kind} in one place")
    made[kind] = payload


def without(one: Any, *names: str) -> None:
    """Raises ResourceError when one of the fields is set: nothing here honours it."""
    for name in names:
        value = getattr(one, name)
        is_set = one.HasField(name) if one.DESCRIPTOR.fields_by_name[name].has_presence else value
        if is_set:
            raise ResourceError(f"{one.DESCRIPTOR.name}.{name} is not supported")


SPECIAL: Final[Mapping[str, Special]] = {
    "google.protobuf.Duration": lambda _, one: duration(one),
    "google.protobuf.Struct": lambda _, one: json_value(one),
    "google.protobuf.Value": lambda _, one: json_value(one),
    "BackendReference": lambda _, one: reference(one),
    "TrafficPolicySpec.RBAC": lambda _, one: rules(one),
    "BackendPolicySpec.McpAuthorization": lambda _, one: rules(one),
    "FrontendPolicySpec.NetworkAuthorization": lambda _, one: rules(one),
    "Alpn": lambda _, one: list(one.protocols),
}
