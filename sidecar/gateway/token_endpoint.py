"""A token endpoint as the gateway calls it: where it is, who asks, and what may come back.

Source: RFC 6749 sections 3.2 and 5; spec/config.md sections 0.4 and 3.12.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final, final
from urllib.parse import urlencode

from sidecar.config.targets import reference_target
from sidecar.errors import ConfigError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Request
from sidecar.llm.credentials import oauth
from sidecar.llm.credentials.client_auth import ClientAuth, Form
from sidecar.policies.base import Services
from sidecar.policies.callouts import outgoing
from sidecar.policies.schema import nested

Data = Mapping[str, Any]
SECONDS: Final = 10.0
"""How long a call may take; `http.requestTimeout` of its policies goes before."""
_DESTINATION: Final = ("host", "service", "backend")
_HEADERS: Final = (
    (b"content-type", b"application/x-www-form-urlencoded"),
    (b"accept", b"application/json"),
)


@final
class TokenEndpoint:
    """One endpoint, ready to be asked.

    Raises: ConfigError, its path below the endpoint's own keys.
    """

    __slots__ = ("_callout", "_client", "_path", "label")

    def __init__(self, payload: Data, services: Services) -> None:
        self._path = payload.get("path") or "/"
        path = self._path
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise ConfigError("path", "must begin with / and be the path of a URL")
        reference = _reference(payload)
        policies = payload.get("policies") or {}
        if not payload.get("allowPlaintext"):
            _check_secrecy(reference, policies)
        auth = payload.get("clientAuth")
        self._client = None if auth is None else ClientAuth(auth, services.clock, "clientAuth")
        self._callout = services.callouts.resolve(reference, policies, "Oidc")
        self.label = self._callout.label

    async def ask(
        self, form: Form, of: Request, expected: str | None, *, is_assertion: bool = False
    ) -> oauth.Issued:
        """The token that it gives for the form. Redirects are failures: a secret goes where the
        configuration says, or nowhere. Raises: RequestError 400, UpstreamError 500."""
        headers = Headers(_HEADERS)
        fields = form
        if self._client is not None:
            fields = [*form, *self._client.fields()]
            if self._client.header is not None:
                headers.append((b"authorization", self._client.header))
        body = urlencode(fields).encode()
        request = outgoing("POST", self._path, headers, body, of=of)
        try:
            answer = await self._callout.send(request, SECONDS, oauth.ANSWER_BYTES)
        except UpstreamError as error:
            # Why is in the log and the trace of the call; the client learns whose fault it is.
            raise oauth.unusable("the token endpoint cannot be asked") from error
        return oauth.issued(
            answer.status, answer.body.read_nowait() or b"", expected, is_assertion=is_assertion
        )


def _reference(payload: Data) -> Data:
    found = {name: payload[name] for name in _DESTINATION if payload.get(name) is not None}
    if len(found) != 1:
        raise ConfigError("", "must set exactly one of `host`, `service`, `backend`")
    return found


def _check_secrecy(reference: Data, policies: Data) -> None:
    """Tokens and secrets of clients do not cross a network in clear text. How services and named
    backends are reached is said with them."""
    if "host" not in reference or policies.get("backendTLS") is not None:
        return
    try:
        target: Data = reference_target(dict(reference))
    except ConfigError as problem:
        raise nested("host", problem) from problem
    host = target.get("host")
    if host is None or host.get("tls") or _is_this_machine(host["address"]):
        return
    text = "tokens would go there in clear text: use https://, policies.backendTLS or"
    raise ConfigError("host", f"{text} allowPlaintext: true")


def _is_this_machine(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
