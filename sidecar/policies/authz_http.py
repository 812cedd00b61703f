"""Authorization by a plain HTTP service: what it is sent, and what its answer means.

Source: spec/config.md sections 3.8 and 7.1; hardening cases 34 and 36 to 39.

A request of its own goes there, with the method and target of the client's, and of its headers
those alone that are named; all else in it is the gateway's. What an expression of the question
cannot say is no question: the request is denied, whatever the failure mode, since a client could
make it fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

from sidecar.config.model.questions import ExtAuthzHttp
from sidecar.errors import ConfigError, RequestError, SidecarError
from sidecar.http.headers import HOP_BY_HOP, Headers
from sidecar.http.headers import Field as HeaderField
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies import fields
from sidecar.policies.authz import (
    ALLOWED_ANYHOW,
    FAILED,
    PARTIAL,
    REASON,
    TIMEOUT_SECONDS,
    Allowed,
    Decision,
    Denied,
)
from sidecar.policies.base import Services
from sidecar.policies.callouts import Callout, outgoing
from sidecar.policies.expressions import Activation, Expression, shared_plan
from sidecar.policies.mutation import OVERWRITE, TRUST, Mutation
from sidecar.policies.pseudo import target_of
from sidecar.policies.schema import child
from sidecar.routing import canonical

_AT: Final = "protocol.http"
_PSEUDO: Final = (":method", ":path", ":authority")
"""The scheme is the connection's, and no other can be told."""
_DEFAULT: Final = frozenset((b"authorization",))
_OF_BODY: Final = (b"content-type", b"content-encoding")
_CLIENTS: Final = frozenset((b"authorization", b"cookie"))
"""A client's own credentials: they stay where the service has no others to say."""
_UNSENT: Final = HOP_BY_HOP | {b"content-length"}


@final
class HttpService:
    """One service. Raises: ConfigError with a path below the policy."""

    __slots__ = (
        "_added",
        "_body",
        "_callout",
        "_included",
        "_metadata",
        "_owned",
        "_path",
        "_plan",
        "_pseudo",
        "_redirect",
        "_sends_body",
        "needs_body",
        "owned",
    )

    def __init__(
        self,
        config: ExtAuthzHttp,
        included: Iterable[str],
        callout: Callout,
        services: Services,
        *,
        sends_body: bool,
    ) -> None:
        """`sends_body`: whether the request's own goes there."""
        self._callout = callout
        self._sends_body = sends_body

        def compiled(source: str | None, path: str) -> Expression | None:
            return None if source is None else Expression(source, services, f"{_AT}.{path}")

        self._path = compiled(config.path, "path")
        self._body = compiled(config.body, "body")
        redirect = config.redirect
        self._redirect = (
            None
            if redirect is None
            else Expression(redirect, services, f"{_AT}.redirect", with_response=True)
        )
        self._pseudo: dict[str, Expression] = {}
        self._added: list[tuple[bytes, Expression]] = []
        self._add(config.add_request_headers, services)
        self._included = self._names(included)
        self._owned = frozenset(
            _settable(name, f"{_AT}.includeResponseHeaders[{index}]")
            for index, name in enumerate(config.include_response_headers)
        )
        self.owned = (self._owned - _CLIENTS) | {ALLOWED_ANYHOW}
        self._metadata = [
            (
                name,
                Expression(source, services, child(f"{_AT}.metadata", name), with_response=True),
            )
            for name, source in config.metadata.items()
        ]
        asked = [one for one in (self._path, self._body) if one is not None]
        asked += [*self._pseudo.values(), *(one for _, one in self._added)]
        self._plan = shared_plan(asked)
        told = [one for _, one in self._metadata]
        told += [self._redirect] if self._redirect is not None else []
        self.needs_body = any(one.needs_request_body for one in (*asked, *told))

    def _add(self, sources: dict[str, str], services: Services) -> None:
        for text, source in sources.items():
            path = child(f"{_AT}.addRequestHeaders", text)
            expression = Expression(source, services, path)
            lowered = text.lower()
            if text.startswith(":") and lowered not in _PSEUDO:
                raise ConfigError(path, "unknown pseudo header")
            # The authority stands for the Host field.
            pseudo = ":authority" if lowered == "host" else lowered
            if pseudo in _PSEUDO:
                self._pseudo[pseudo] = expression
            else:
                self._added.append((fields.settable_name(text, path), expression))

    def _names(self, included: Iterable[str]) -> frozenset[bytes]:
        """Headers of the request that are sent. Pseudo headers always are, in their own places."""
        names = {
            fields.settable_name(text, f"includeRequestHeaders[{index}]")
            for index, text in enumerate(included)
            if not _is_pseudo(text, f"includeRequestHeaders[{index}]")
        }
        # What is computed is not also the client's.
        own = {name for name, _ in self._added}
        return (frozenset(names) or _DEFAULT) - own - {b"host"}

    async def ask(
        self, request: Request, body: bytes | None, *, is_cut: bool
    ) -> tuple[Decision, Response]:
        """What the service says, and its answer. `body`: what is sent of the request's.

        Raises: UpstreamError when it says nothing; RequestError.
        """
        question, authority = self._question(request, body, is_cut)
        answer = await self._callout.send(question, TIMEOUT_SECONDS, authority=authority)
        if 200 <= answer.status < 300:
            return self._allowed(request, answer), answer
        whole = answer.body
        data = whole.unread if type(whole) is FixedBody else b""
        kept = tuple(one for one in answer.headers if one[0] not in _UNSENT)
        return Denied(answer.status, kept, data), answer

    def _question(self, request: Request, body: bytes | None, is_cut: bool) -> tuple[Request, str]:
        """The request to the service, and the authority that it must have, or ""."""
        variables = self._plan.activation(request)
        headers = Headers(one for one in request.headers if one[0] in self._included)
        for name, expression in self._added:
            raw = expression.encoded_in(variables)
            value = None if raw is None else fields.checked(raw)
            if value is not None:
                headers.append((name, value))
        sent = b""
        if self._body is not None:
            sent = _said(self._body, variables)
        elif body is not None and self._sends_body:
            sent = body
            headers.remove_any((*_OF_BODY, PARTIAL))
            headers.extend(one for one in request.headers if one[0] in _OF_BODY)
            headers.append((PARTIAL, b"true" if is_cut else b"false"))
        method = self._method(request, variables)
        target = self._target(request, variables)
        made = outgoing(method, target, headers, sent, of=request)
        made.authority = request.authority
        return made, self._authority(variables)

    def _method(self, request: Request, variables: Activation) -> str:
        expression = self._pseudo.get(":method")
        if expression is None:
            return request.method
        raw = _said(expression, variables)
        if not fields.TOKEN.fullmatch(raw) or raw == b"CONNECT":
            raise _denial()
        return raw.decode("ascii")

    def _target(self, request: Request, variables: Activation) -> str:
        expression = self._pseudo.get(":path") or self._path
        if expression is None:
            return target_of(request)
        raw = _said(expression, variables).decode("latin-1")
        # One that the service may read as another is none (cases 36 and 37).
        try:
            return canonical.resolve(raw)[2]
        except RequestError as error:
            raise _denial() from error

    def _authority(self, variables: Activation) -> str:
        expression = self._pseudo.get(":authority")
        if expression is None:
            return ""
        try:
            return canonical.authority(_said(expression, variables).decode("latin-1"))
        except RequestError as error:
            raise _denial() from error

    def _allowed(self, request: Request, answer: Response) -> Allowed:
        told = {name: _value(one, request, answer) for name, one in self._metadata}
        options = tuple(
            (OVERWRITE, name, value) for name, value in _last(answer.headers, self._owned)
        )
        return Allowed(
            Mutation(options),
            owned=self.owned,
            metadata={name: value for name, value in told.items() if value is not None},
        )

    @staticmethod
    def is_kept(decision: Decision) -> bool:
        """Whether a cache may keep it: what else it answers is likely an error of its own."""
        return isinstance(decision, Allowed) or decision.status in (401, 403)

    def redirected(self, request: Request, denied: Denied, answer: Response | None) -> Denied:
        """Where a 401 or 403 sends the client, if it does: told anew for each request."""
        if self._redirect is None or denied.status not in (401, 403):
            return denied
        shown = answer
        if shown is None:
            # It was kept.
            shown = Response(denied.status, Headers(denied.headers), FixedBody(denied.body or b""))
        value = _value(self._redirect, request, shown)
        location = fields.checked(value.encode()) if isinstance(value, str) else None
        if not location:
            return denied
        return Denied(302, ((b"location", location),), b"", denied.metadata)


def _is_pseudo(text: str, path: str) -> bool:
    if not text.startswith(":"):
        return False
    if text.lower() not in _PSEUDO:
        raise ConfigError(path, "unknown pseudo header")
    return True


def _settable(text: str, path: str) -> bytes:
    name = fields.settable_name(text, path)
    if name == b"host" or name in TRUST:
        text = f"`{name.decode()}` is the gateway's and cannot come from a service"
        raise ConfigError(path, text)
    return name


def _last(headers: Headers, names: frozenset[bytes]) -> list[HeaderField]:
    """The named fields, those of a name in one, as a service behind us reads them."""
    made: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in names:
            made[name] = value if name not in made else made[name] + b", " + value
    return list(made.items())


def _said(expression: Expression, variables: Activation) -> bytes:
    """Raises: RequestError 403 when it says nothing."""
    value = expression.encoded_in(variables)
    if value is None:
        raise _denial()
    return value


def _denial() -> RequestError:
    return RequestError(403, REASON, FAILED)


def _value(expression: Expression, request: Request, answer: Response) -> object:
    """None for an error and for null."""
    try:
        return expression.value(request, answer)
    except SidecarError:
        return None
