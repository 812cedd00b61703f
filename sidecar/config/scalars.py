"""The scalar forms of the configuration: durations, targets, names, text that may be in a file.

Each form is an annotated type for the models, and where its meaning is needed later, a parse
function that raises ValueError with the reason.

Source: spec config section 0.2.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, final

from pydantic import AfterValidator, Field, PlainValidator, StringConstraints, ValidationInfo
from pydantic_core import PydanticCustomError

_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # the micro sign
    "μs": 1_000,  # the Greek letter, which Go accepts too
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_MAX_NS = 2**63 - 1
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
TOKEN_PATTERN = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$"  # noqa: S105 - RFC 9110's token, no secret
PSEUDO_PATTERN = r"^(?::(?:method|scheme|authority|path|status)|[!#$%&'*+\-.^_`|~0-9A-Za-z]+)$"
SCHEME_PATTERN = r"^[A-Za-z][A-Za-z0-9+.\-]*$"
NAMESPACED_PATTERN = r"^[^/]+/[^/]+$"
VALUE_PATTERN = r"^[^\x00\r\n]*$"


def duration_ns(text: str) -> int:
    """Parse `1m30s`, `500ms`, `1.5h` or `0` to nanoseconds. Raises ValueError."""
    if text == "0":
        return 0
    total = 0
    at = 0
    while match := _DURATION_PART.match(text, at):
        total += _scaled(match[1], _UNIT_NS[match[2]])
        at = match.end()
    if at != len(text) or not text or total > _MAX_NS:
        raise ValueError(
            f"invalid duration `{_shown(text)}`, expected a form such as `500ms` or `1m30s`"
        )
    return total


def _scaled(number: str, unit_ns: int) -> int:
    # Whole and fraction apart, in integers, so that long durations stay exact.
    whole, _, fraction = number.partition(".")
    fraction = fraction[:18]
    part: int = int(fraction or "0") * unit_ns // 10 ** len(fraction)
    return int(whole or "0") * unit_ns + part


def duration_seconds(text: str) -> float:
    """Parse a duration to seconds. Raises ValueError."""
    return duration_ns(text) / 1e9


@final
@dataclass(frozen=True, slots=True)
class HostPort:
    """A network destination. `host` is a name in lower case or an IP address without brackets."""

    host: str
    port: int


@final
@dataclass(frozen=True, slots=True)
class UnixPath:
    """A Unix socket."""

    path: str


def _shown(text: str) -> str:
    # What stands before an `@` may be a password.
    return text if len(text) <= 100 and "@" not in text else "…"


def parse_target(text: str) -> HostPort | UnixPath:
    """Parse `host:port`, `[::1]:80` or `unix:/path`. Raises ValueError (`invalid host:port`)."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise ValueError(f"invalid unix socket path `{_shown(text)}`")
        return UnixPath(path)
    if text.startswith("["):
        host, closing, rest = text[1:].partition("]")
        if not closing or not rest.startswith(":") or not _is_ipv6(host):
            raise ValueError(f"invalid host:port `{_shown(text)}`")
        return HostPort(host, _port(text, rest[1:]))
    host, colon, port = text.partition(":")
    if not colon or not _is_host(host):
        raise ValueError(f"invalid host:port `{_shown(text)}`")
    return HostPort(host.lower(), _port(text, port))


def parse_url_target(text: str) -> tuple[HostPort | UnixPath, bool]:
    """Parse a call-out's `host`: a target, or `http[s]://host[:port]`; with whether TLS is implied.

    The default ports are 80 and 443. Raises ValueError.
    """
    for scheme, port in (("https", 443), ("http", 80)):
        if text.startswith(f"{scheme}://"):
            authority = text.removeprefix(f"{scheme}://").removesuffix("/")
            if "/" in authority or "@" in authority or "?" in authority or "#" in authority:
                raise ValueError(f"`{scheme}://` takes a host and a port only")
            # An address in brackets holds colons of its own.
            has_port = ":" in authority.rpartition("]")[2]
            return parse_target(authority if has_port else f"{authority}:{port}"), port == 443
    return parse_target(text), False


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError(f"invalid host:port `{_shown(text)}`: the port must be 1 to 65535")
    return int(port)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_host(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels))


def check_hostname(text: str) -> str:
    """Accept an exact name, an address, `*.suffix`, `*`, or nothing for any. Raises ValueError."""
    bare = text.removeprefix("*.")
    if text in ("", "*") or _is_host(bare) or _is_ipv6(text.strip("[]")):
        return text
    raise ValueError(f"invalid hostname `{_shown(text)}`")


class FileReader(Protocol):
    """The validation context: reads files that the configuration names, relative to the process."""

    def read(self, path: str) -> str:
        """The text of a file, noted as one to watch. Raises OSError or UnicodeDecodeError."""

    def note(self, path: str) -> None:
        """Watch a file that is read later, as certificates are."""


def _checked(check: Callable[[str], object]) -> AfterValidator:
    """A validator that keeps the text and turns ValueError into a problem with its message."""

    def validate(text: str) -> str:
        try:
            check(text)
        except ValueError as error:
            raise PydanticCustomError("invalid", "{reason}", {"reason": str(error)}) from None
        return text

    return AfterValidator(validate)


def _only(expected: str, *types: type) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        if type(value) not in types:
            raise PydanticCustomError("type", "{expected}", {"expected": expected})
        return value

    return validate


def _note_file(path: str, info: ValidationInfo) -> str:
    if info.context is not None:
        info.context.note(path)
    return path


def _note_glob(pattern: str, info: ValidationInfo) -> str:
    directory, slash, name = pattern.rpartition("/")
    if any(mark in directory for mark in "*?["):
        raise PydanticCustomError("invalid", "wildcards may stand in the last part only")
    is_glob = any(mark in name for mark in "*?[")
    if info.context is not None:
        # A directory changes when files come and go.
        info.context.note((directory or slash or ".") if is_glob else pattern)
    return pattern


def shown_path(path: str) -> str:
    """A path as messages may show it: a key that was put in the place of its path is not shown."""
    return path if path.isprintable() else path.partition("\n")[0][:11] + "…"


def _read(path: Any, info: ValidationInfo, where: str) -> str:
    if type(path) is not str:
        raise PydanticCustomError("type", "{expected}", {"expected": f"a path in `{where}`"})
    if info.context is None:
        return path
    try:
        text: str = info.context.read(path)
    except OSError as error:
        reason = {"path": shown_path(path), "reason": error.strerror or "unreadable"}
    except UnicodeDecodeError:
        reason = {"path": shown_path(path), "reason": "the file is not UTF-8 text"}
    else:
        return text
    raise PydanticCustomError("file", "cannot read `{path}`: {reason}", reason)


def _file_or_inline(value: Any, info: ValidationInfo) -> Any:
    if type(value) is str:
        return value
    if type(value) is dict and value.keys() == {"file"}:
        text = _read(value["file"], info, "file")
        return value if info.context is None else text
    raise PydanticCustomError("type", "{expected}", {"expected": "text or `{file: path}`"})


def _secret(value: Any, info: ValidationInfo) -> Any:
    found = _file_or_inline(value, info)
    # A file usually ends with a line break that is no part of the secret.
    return found.strip() if type(value) is dict and type(found) is str else found


def _file_inline_or_remote(value: Any, info: ValidationInfo) -> Any:
    if type(value) is dict and value.keys() == {"url"}:
        url = value["url"]
        if type(url) is str and url.startswith(("http://", "https://")):
            return value
        raise PydanticCustomError("invalid", "`url` must begin with http:// or https://")
    if type(value) is dict and "file" not in value:
        # A document given as structure rather than as text, for JWKS and OpenAPI.
        return value
    return _file_or_inline(value, info)


def _body(value: Any) -> Any:
    is_bytes = type(value) is list and all(type(n) is int and 0 <= n < 256 for n in value)
    if type(value) is str or is_bytes:
        return value
    raise PydanticCustomError("type", "{expected}", {"expected": "text or a list of bytes"})


Duration = Annotated[str, _checked(duration_ns)]
"""Text such as `500ms`, `30s` or `1m30s`."""
Target = Annotated[str, _checked(parse_target)]
"""`host:port`, `[::1]:80` or `unix:/path`."""
UrlTarget = Annotated[str, _checked(parse_url_target)]
"""A target, or `http://host[:port]`, or `https://host[:port]`, which implies TLS."""
Hostname = Annotated[str, _checked(check_hostname)]
"""Exact or `*.suffix`; letter case does not matter."""
NamespacedHostname = Annotated[str, StringConstraints(pattern=NAMESPACED_PATTERN)]
"""`namespace/hostname`."""
Expression = str
"""CEL source. It is compiled, and its syntax checked, by the part that uses it."""
FilePath = Annotated[str, AfterValidator(_note_file)]
"""A file that is read later and watched; relative to the working directory of the process."""
FileGlob = Annotated[str, Field(min_length=1), AfterValidator(_note_glob)]
"""A file, or files by `*`, `?` and `[…]` in the last part, which are read later and watched."""

Port = Annotated[int, Field(ge=0, le=65535)]
NonZeroUint16 = Annotated[int, Field(ge=1, le=65535)]
Uint8 = Annotated[int, Field(ge=0, le=255)]
Uint32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
Uint = Annotated[int, Field(ge=0, le=2**63 - 1)]
Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Status = NonZeroUint16
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

HeaderName = Annotated[str, StringConstraints(pattern=TOKEN_PATTERN)]
"""A header's name, in any letter case."""
HeaderOrPseudo = Annotated[str, StringConstraints(pattern=PSEUDO_PATTERN)]
"""A header's name, or `:method`, `:scheme`, `:authority`, `:path`, `:status`."""
HeaderValue = Annotated[str, StringConstraints(pattern=VALUE_PATTERN)]
"""A header's value: no line break, no NUL."""

FileOrInline = Annotated[
    str | dict[Literal["file"], str],
    PlainValidator(_file_or_inline, json_schema_input_type=str | dict[Literal["file"], str]),
]
"""Text, or `{file: path}`, which becomes the file's text."""
Secret = Annotated[
    str | dict[Literal["file"], str],
    PlainValidator(_secret, json_schema_input_type=str | dict[Literal["file"], str]),
]
"""As FileOrInline; white space around a file's text is dropped. Never shown."""
FileInlineOrRemote = Annotated[
    str | dict[str, Any],
    PlainValidator(_file_inline_or_remote, json_schema_input_type=str | dict[str, Any]),
]
"""As FileOrInline, or a structure, or `{url: http(s)://…}`, which is fetched by who uses it."""
StringOrInt = Annotated[
    str | int,
    PlainValidator(_only("text or an integer", str, int), json_schema_input_type=str | int),
]
StringBoolFloat = Annotated[
    str | bool | float,
    PlainValidator(
        _only("a CEL expression, a boolean or a number", str, bool, int, float),
        json_schema_input_type=str | bool | float,
    ),
]
"""Used for sampling: CEL, or a plain value."""
StringOrList = Annotated[
    str | list[str],
    PlainValidator(lambda value: _strings(value), json_schema_input_type=str | list[str]),
]
"""A name, or a list of them."""
BytesText = Annotated[
    str | list[int], PlainValidator(_body, json_schema_input_type=str | list[int])
]
"""Text, or a list of bytes as integers."""


def _strings(value: Any) -> Any:
    if type(value) is str or (type(value) is list and all(type(one) is str for one in value)):
        return value
    raise PydanticCustomError("type", "{expected}", {"expected": "text or a list of texts"})
