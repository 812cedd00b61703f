"""What expressions see of header lists and of query strings.

Source: spec/config.md section 7.5; RFC 9110 section 5.3; RFC 6265 section 5.4;
WHATWG URL, "application/x-www-form-urlencoded".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final
from urllib.parse import parse_qsl, quote_plus

from sidecar.cel.values import MISSING, REDACTED, CelError, MapView, NoSuchKey

Fields = Sequence[tuple[bytes, bytes]]

ALWAYS_SENSITIVE: Final = frozenset((b"authorization", b"proxy-authorization"))
"""Redacted wherever redaction is asked for. `cookie` is not among them (spec, behaviour 20)."""

_NOTHING: Final[frozenset[bytes]] = frozenset()


def text_of(value: bytes) -> str:
    """A field value as text: UTF-8 if it is that, else Latin-1, which always is."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def redact_headers(fields: Fields, sensitive: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """The fields with the values of sensitive ones replaced; for logs and dumps.

    `sensitive` adds to ALWAYS_SENSITIVE; names are lower-case.
    """
    hidden = REDACTED.encode()
    return [
        (name, hidden if name in sensitive or name in ALWAYS_SENSITIVE else value)
        for name, value in fields
    ]


@final
class HeaderView(MapView):
    """A header list as a map whose keys ignore case.

    `mode` says what a key gives: "" a string, or a list when the field is repeated; "join" one
    string; "raw" always a list; "split" a list cut at commas. `hidden`: names now redacted.
    """

    __slots__ = ("_fields", "_hidden", "_mode", "_sensitive")

    def __init__(
        self,
        fields: Fields,
        sensitive: frozenset[bytes] = ALWAYS_SENSITIVE,
        mode: str = "",
        hidden: frozenset[bytes] = _NOTHING,
    ) -> None:
        self._fields = fields
        self._sensitive = sensitive
        self._mode = mode
        self._hidden = hidden

    def with_mode(self, mode: str) -> HeaderView:
        """The same fields read another way; the last mode asked for wins."""
        return HeaderView(self._fields, self._sensitive, mode, self._hidden)

    def redacted(self) -> HeaderView:
        """The same fields, sensitive values replaced."""
        return HeaderView(self._fields, self._sensitive, self._mode, self._sensitive)

    def find(self, name: str) -> object:
        """See MapView."""
        try:
            key = name.lower().encode("ascii")
        except UnicodeEncodeError:
            return MISSING
        return self.find_bytes(key)

    def find_bytes(self, key: bytes) -> object:
        """As `find`, of a lower-case name."""
        values = [value for name, value in self._fields if name == key]
        if not values:
            return MISSING
        texts = [REDACTED] * len(values) if key in self._hidden else [text_of(v) for v in values]
        return self._shaped(texts)

    def has_bytes(self, key: bytes) -> bool:
        """Whether a field of this lower-case name is there."""
        # Not any(): a plain loop costs half of a generator here.
        for name, _ in self._fields:  # noqa: SIM110
            if name == key:
                return True
        return False

    def _shaped(self, texts: list[str]) -> object:
        if not self._mode:
            return texts[0] if len(texts) == 1 else texts
        if self._mode == "join":
            return ",".join(texts)
        if self._mode == "raw":
            return texts
        return [part.strip(" \t") for text in texts for part in text.split(",")]

    def as_map(self) -> dict[object, object]:
        """See MapView."""
        names = dict.fromkeys(name for name, _ in self._fields)
        return {text_of(name): self.find_bytes(name) for name in names}

    def plain(self) -> object:
        """See Opaque."""
        return self.as_map()

    def cookie(self, name: str) -> str:
        """The first cookie of this name. Raises NoSuchKey."""
        for key, value in self._fields:
            if key != b"cookie":
                continue
            for pair in text_of(value).split(";"):
                found, separator, content = pair.strip(" \t").partition("=")
                if separator and found == name:
                    return REDACTED if key in self._hidden else content.strip('"')
        raise NoSuchKey(name)


@final
class QueryText(str):
    """`request.uri` or `request.pathAndQuery`: a string that also knows its query."""

    __slots__ = ()

    def _pairs(self) -> list[tuple[str, str]]:
        query = self.partition("?")[2]
        try:
            return parse_qsl(query, keep_blank_values=True, max_num_fields=1000)
        except ValueError as exc:
            raise CelError("the query has too many fields") from exc

    def query(self, name: str) -> list[str]:
        """Every value of a parameter. Raises NoSuchKey."""
        values = [value for key, value in self._pairs() if key == name]
        if not values:
            raise NoSuchKey(name)
        return values

    def add_query(self, name: str, value: str) -> QueryText:
        """With one parameter more, at the end."""
        return self._rebuilt([*self._pairs(), (name, value)])

    def set_query(self, name: str, value: str) -> QueryText:
        """With this parameter in the place of all of its name, at the end."""
        kept = [pair for pair in self._pairs() if pair[0] != name]
        return self._rebuilt([*kept, (name, value)])

    def _rebuilt(self, pairs: list[tuple[str, str]]) -> QueryText:
        query = "&".join(f"{quote_form(key)}={quote_form(value)}" for key, value in pairs)
        return QueryText(f"{self.partition('?')[0]}?{query}")


def quote_form(text: str) -> str:
    """One side of a form field: everything but letters, digits and `*-._` encoded, space as `+`."""
    return quote_plus(text, safe="*").replace("~", "%7E")
