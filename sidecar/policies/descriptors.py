"""What a shared counter is kept by: the values of CEL expressions, and how they may be shown.

Source: spec/config.md section 7; hardening case 40 (secrets leave the process nowhere).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from sidecar.cel.engine import CelError, Program
from sidecar.errors import ConfigError
from sidecar.http.message import Request
from sidecar.policies import fields
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression, shared_plan

MAX_PARTS: Final = 8
_SECRET_HEADERS: Final = frozenset(("cookie", "x-goog-api-key"))
_SECRET_WORDS: Final = (
    *("auth", "key", "token", "secret", "passw", "session", "credential"),
    *("jwt", "assertion", "bearer", "signature"),
)
_PUBLIC: Final = frozenset(
    (
        *(("request", name) for name in ("method", "host", "scheme", "path", "version")),
        *(("source", name) for name in ("address", "port", "rawAddress", "rawPort", "spiffeId")),
        *(("source", name) for name in ("identity", "subject", "subjectCn", "subjectAltNames")),
        ("basicAuth", "username"),
    )
)
"""Fields of `_GUARDED` variables that hold no secret."""
_GUARDED: Final = frozenset(("request", "source", "apiKey", "basicAuth", "jwt"))
"""Variables through which a client's credentials can be read."""


@final
class Descriptor:
    """One or several expressions whose values together name a counter.

    Raises: ConfigError with a path below the policy's entry.
    """

    __slots__ = ("_expressions", "_learnt", "_plan", "is_secret", "needs_request_body", "sources")

    def __init__(self, sources: Sequence[str], services: Services, path: str) -> None:
        if not 1 <= len(sources) <= MAX_PARTS:
            raise ConfigError(path, f"1 to {MAX_PARTS} expressions")
        self.sources = tuple(sources)
        """The same of two descriptors: so are their values."""
        self._expressions = tuple(Expression(source, services, path) for source in sources)
        only = self._expressions[0]
        self._learnt = only if len(sources) == 1 and only.is_learnt else None
        self._plan = shared_plan(self._expressions)
        self.is_secret = any(reads_secret(one.program) for one in self._expressions)
        """Whether the values may hold a credential, so that they are never stored or shown."""
        self.needs_request_body = any(one.needs_request_body for one in self._expressions)

    def values(self, request: Request) -> tuple[bytes, ...] | None:
        """The values as bytes; None when one is null or cannot be computed.

        Raises: RequestError for an ambiguous path.
        """
        # Fast path: most limits are kept by the name of an API key, or by a claim.
        if self._learnt is not None:
            try:
                only = fields.encoded(self._learnt.value(request))
            except CelError:
                return None
            return None if only is None else (only,)
        variables = self._plan.activation(request)
        made: list[bytes] = []
        for expression in self._expressions:
            value = expression.encoded_in(variables)
            if value is None:
                return None
            made.append(value)
        return tuple(made)

    def text(self, request: Request) -> str | None:
        """The one value, where that is a text which somebody has learnt; None: see `values`."""
        if self._learnt is None:
            return None
        try:
            value = self._learnt.value(request)
        except CelError:
            return None
        return value if type(value) is str else None

    def shown(self, values: Sequence[bytes], digest: bytes) -> bytes:
        """The values for people to read. `digest`: a keyed hash, which stands for secret ones."""
        if self.is_secret:
            return b"#" + digest[:4].hex().encode()
        text = b",".join(values).decode("utf-8", "replace")
        return "".join(one if one.isprintable() else "\ufffd" for one in text).encode()


def reads_secret(program: Program) -> bool:
    """Whether an expression may give what a client proves itself with; in doubt, yes."""
    return any(_is_secret(path, program.sensitive_headers) for path in program.paths)


def _is_secret(path: tuple[str, ...], sensitive: frozenset[bytes]) -> bool:
    if path[0] not in _GUARDED or path[:2] in _PUBLIC:
        return False
    if path[:2] == ("request", "headers") and len(path) > 2:
        name = path[2].lower()
        return (
            name in _SECRET_HEADERS
            or name.encode() in sensitive
            or any(word in name for word in _SECRET_WORDS)
        )
    if path[0] in ("jwt", "apiKey") and len(path) > 1:
        # Claims, and the metadata of a key: all but the credential itself.
        return path[1] in ("rawToken", "key")
    return True
