"""The head of a call that is the same each time but for the client's own fields, made beforehand.

Source: spec/llm.md sections 0 (step 13), 1.2 and 1.5; sidecar.gateway.llm_outgoing says what goes
into a head, and in which order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from sidecar.errors import UpstreamError
from sidecar.gateway.plan import Backend
from sidecar.http.headers import Headers
from sidecar.llm.credentials.base import Credential, Outgoing
from sidecar.llm.credentials.static import StaticKeys
from sidecar.llm.providers.base import Target
from sidecar.net.pool import field_lines, request_line

OWN: Final = frozenset((b"content-encoding", b"content-length", b"accept-encoding", b"expect"))
"""Fields of the client's body, and of what it can decode: the gateway reads the answer."""
CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"))
JSON_FIELD: Final = (b"content-type", b"application/json")
GONE: Final = OWN | {b"content-type"}
"""Fields of the client's that do not go on with a JSON body."""
GONE_WITH_KEYS: Final = GONE | CREDENTIALS
"""The same where the provider has a credential of its own."""


@final
class FixedHead:
    """A request line, and fields that come after those of the client which stay."""

    __slots__ = ("_fields", "_gone", "_line")

    def __init__(self, line: bytes, gone: frozenset[bytes], fields: bytes) -> None:
        self._line = line
        self._gone = gone
        self._fields = fields

    def with_fields(self, headers: Headers) -> bytes:
        """The head for a client that sent these, without its framing. Raises: UpstreamError."""
        gone = self._gone
        kept = [field for field in headers if field[0] not in gone]
        return self._line + (field_lines(kept) if kept else b"") + self._fields


def fixed_head(
    backend: Backend, target: Target, credentials: Sequence[Credential]
) -> FixedHead | None:
    """That of POSTs to this place, by its own name; None where it depends on the request."""
    authority = backend.auto_host or backend.default_authority
    if not authority or not all(
        isinstance(one, StaticKeys) and one.replaces for one in credentials
    ):
        return None
    if not credentials and target.key_place.header != b"authorization":
        return None  # it is the client's own key that moves
    headers = Headers((JSON_FIELD,))
    for name, value in target.headers_set:
        headers.set(name, value)
    path = target.path.decode("latin-1")
    made = Outgoing("POST", backend.scheme, authority, path, headers)
    for credential in credentials:
        credential.apply_nowait(made)
    if not any(credential.explicit_place for credential in credentials):
        target.key_place.move(headers)
    gone = GONE_WITH_KEYS | {target.key_place.header} if credentials else GONE
    gone |= target.headers_remove | {name for name, _ in headers}
    try:
        line = request_line(made.method, made.target, made.authority)
        return FixedHead(line, gone, field_lines(headers))
    except UpstreamError:
        return None  # each request is told so


__all__ = ["CREDENTIALS", "GONE", "GONE_WITH_KEYS", "JSON_FIELD", "OWN", "FixedHead", "fixed_head"]
