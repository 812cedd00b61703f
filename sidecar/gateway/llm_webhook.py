"""A guard webhook as it is called.

Source: spec/llm.md section 4.2 (webhook).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from sidecar.cel.engine import CelError
from sidecar.errors import ConfigError, RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request
from sidecar.llm.guard.webhook import Phase, Refused, Text, WebhookError, decode, encode
from sidecar.policies import fields, pseudo
from sidecar.policies.base import Services
from sidecar.policies.callouts import outgoing
from sidecar.policies.expressions import Expression
from sidecar.policies.schema import nested
from sidecar.routing.match import full_match

Data = Mapping[str, Any]
TIMEOUT_SECONDS: Final = 10.0
_PATHS: Final[Mapping[Phase, str]] = {"Request": "/request", "Response": "/response"}
_PSEUDO: Final = (":path", ":method", ":authority")


@final
class Webhook:
    """One service. Raises: ConfigError, its path below `webhook`."""

    __slots__ = ("_callout", "_forwarded", "_headers", "_pseudo")

    def __init__(self, config: Data, services: Services) -> None:
        try:
            self._callout = services.callouts.resolve(config["target"], {}, "Guardrail")
        except ConfigError as problem:
            raise nested("target", problem) from problem
        self._headers: list[tuple[bytes, Expression]] = []
        self._pseudo: list[tuple[str, Expression]] = []
        for name, source in (config.get("headers") or {}).items():
            self._header(name, source, services)
        matches = config.get("forwardHeaderMatches") or ()
        self._forwarded = [_forwarded(one, index) for index, one in enumerate(matches)]

    def _header(self, name: str, source: str, services: Services) -> None:
        path = f"headers.{name}"
        expression = Expression(source, services, path)
        if name in _PSEUDO:
            self._pseudo.append((name, expression))
        elif name.startswith(":"):
            raise ConfigError(path, "only :path, :method and :authority can be set")
        else:
            self._headers.append((fields.settable_name(name, path), expression))

    async def ask(
        self, phase: Phase, texts: Sequence[Text], request: Request
    ) -> list[str] | Refused | None:
        """See guard.webhook.decode; headers are of the client's `request`.

        Raises: UpstreamError, WebhookError.
        """
        call = outgoing("POST", _PATHS[phase], Headers(), encode(phase, texts), of=request)
        for name, value in request.headers:
            if any(name == wanted and test(value) for wanted, test in self._forwarded):
                call.headers.add(name, value)
        call.headers.set(b"content-type", b"application/json")
        for header, expression in self._headers:
            computed = _computed(expression, request)
            if computed is not None:
                call.headers.set(header, computed)
        for pseudo_name, expression in self._pseudo:
            computed = _computed(expression, request)
            if computed is not None:
                pseudo.REQUEST[pseudo_name](call, None, computed)
        answer = await self._callout.send(call, TIMEOUT_SECONDS)
        if not 200 <= answer.status < 300:
            raise WebhookError(f"it answered {answer.status}")
        body = answer.body
        raw = body.unread if isinstance(body, FixedBody) else b""
        return decode(phase, raw, len(texts))


def _computed(expression: Expression, request: Request) -> bytes | None:
    """The value's bytes; None where there is none that a header can hold."""
    try:
        value = fields.encoded(expression.value(request))
    except (CelError, RequestError):
        return None
    return None if value is None else fields.checked(value)


def _forwarded(data: Data, index: int) -> tuple[bytes, Any]:
    """The name of a header and the test of its value."""
    path = f"forwardHeaderMatches[{index}]"
    name = fields.header_name(data["name"], f"{path}.name")
    if name in fields.FRAMING or name == b"host":
        raise ConfigError(f"{path}.name", f"`{name.decode()}` belongs to one connection")
    value: Data | str = data["value"]
    if isinstance(value, str):
        return name, lambda given: False  # `invalid`
    if value.get("exact") is not None:
        exact = str(value["exact"]).encode()
        return name, lambda given: given == exact
    test = full_match(str(value["regex"]), f"{path}.value.regex")
    return name, lambda given: test(given.decode("latin-1")) is not None
