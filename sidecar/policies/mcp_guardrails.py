"""`mcpGuardrails`: services that see MCP messages, and pass, change or refuse them.

Source: spec/config.md section 6.4; spec/mcp_a2a.md section 2.10; agentgateway.dev.ext_mcp.

One policy of a backend, made with it: `gateway.mcp_backends` hands it to the federation, which asks
it where a message's names are a server's own (sidecar.mcp.guards). Processors are asked in order;
each sees what the one before made of the message, and the first refusal is the last word.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, final

import orjson
from pydantic import BeforeValidator, Field, model_validator

from sidecar.errors import ConfigError, UpstreamError
from sidecar.http.headers import HOP_BY_HOP, Headers
from sidecar.http.headers import Field as HeaderField
from sidecar.http.message import FixedBody, Request
from sidecar.jsonrpc import Json
from sidecar.mcp.guards import Checked, Phase, misguided, phases
from sidecar.policies import ext_mcp, fields, mcp_webhook
from sidecar.policies.base import Services
from sidecar.policies.callouts import CalloutConfig, outgoing
from sidecar.policies.expressions import Expression, shared_plan
from sidecar.policies.ext_mcp import BadVerdictError, Verdict
from sidecar.policies.schema import PolicyConfig, nested
from sidecar.telemetry.bodies import withhold_request

_log = logging.getLogger("sidecar.policies.mcp_guardrails")
TIMEOUT_SECONDS: Final = 10.0
STATE: Final = "mcpGuardrails"
_QUIET_NS: Final = 10_000_000_000
_SECRET: Final = frozenset((b"authorization", b"proxy-authorization", b"cookie"))
"""Told only to who names them."""
_UNTOLD: Final = HOP_BY_HOP | {b"content-length", b"content-encoding", b"expect"}
_PSEUDO: Final[Mapping[bytes, Callable[[Request], str]]] = {
    b":method": lambda request: request.method,
    b":scheme": lambda request: request.scheme,
    b":authority": lambda request: request.authority,
    b":path": lambda request: request.target,
}

Count = Callable[[str, str], None]
"""Told of each judgement: Request or Response; Allow, Mask, Reject or FailOpen."""


def uncounted(phase: str, action: str) -> None:
    """For policies that are only checked."""


def _canonical(value: object) -> object:
    return {"FailClosed": "failClosed", "FailOpen": "failOpen"}.get(str(value), value)


class HeaderFilter(PolicyConfig):
    """Which headers of the client are told."""

    allowed: list[str] = Field(default_factory=list)
    """Only these. Default: all but credentials."""
    disallowed: list[str] = Field(default_factory=list)
    """Not these."""


class Processor(CalloutConfig):
    """One service."""

    kind: Literal["remote", "webhook"]
    """remote: gRPC, ExtMcp. webhook: JSON over HTTP."""
    methods: dict[str, Phase] = Field(default_factory=dict)
    """Method, `prefix/*`, `*/suffix` or `*` → what of it is looked at. Default: nothing."""
    failure_mode: Annotated[Literal["failClosed", "failOpen"], BeforeValidator(_canonical)] = (
        "failClosed"
    )
    """What becomes of a message when the service fails: refused, or passed. Default failClosed."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """CEL of values to tell; one that fails is left out."""
    request_headers: HeaderFilter = HeaderFilter()
    """Which headers are told."""
    path: str | None = None
    """Of a webhook. Default `/`."""

    @model_validator(mode="after")
    def _path(self) -> Processor:
        if self.path is not None:
            if self.kind != "webhook":
                raise ValueError("`path` is for webhooks")
            if not self.path.startswith("/") or not self.path.isascii() or " " in self.path:
                raise ValueError("`path` must begin with / and be ASCII without blanks")
        return self


class Config(PolicyConfig):
    """Guards, in order."""

    processors: list[Processor]
    """Asked one after the other; the first that refuses has the last word."""


@final
class McpGuardrails:
    """See mcp.guards.Guard. Raises: ConfigError."""

    __slots__ = (
        "_count",
        "_processors",
        "answers",
        "notices",
        "questions",
        "requests",
        "responses",
    )

    def __init__(self, config: Config, services: Services, count: Count = uncounted) -> None:
        made = []
        for index, one in enumerate(config.processors):
            try:
                made.append(_Processor(one, services))
            except ConfigError as problem:
                raise nested(f"processors[{index}]", problem) from problem
        self._processors: Sequence[_Processor] = made
        self._count = count
        found = [one.phases for one in made]
        self.requests = frozenset().union(*(one.requests for one in found))
        self.responses = frozenset().union(*(one.responses for one in found))
        self.questions = frozenset().union(*(one.questions for one in found))
        self.answers = frozenset().union(*(one.answers for one in found))
        self.notices = frozenset().union(*(one.notices for one in found))

    @property
    def is_blind(self) -> bool:
        """Whether it looks at nothing."""
        return not (
            self.requests or self.responses or self.questions or self.answers or self.notices
        )

    async def request(
        self, method: str, targets: tuple[str, ...], params: Json, headers: Headers, of: Request
    ) -> Checked:
        """See Guard."""
        edited: Headers | None = None
        for processor in self._processors:
            if method not in processor.requests:
                continue
            verdict = await self._verdict(processor, "request", method, targets, params, of)
            if verdict is None:
                continue
            if verdict.metadata:
                of.state[STATE] = {**_told(of), **verdict.metadata}
            if verdict.set_fields or verdict.remove_fields:
                edited = _edited(headers if edited is None else edited, verdict)
            if verdict.changed is not None:
                params = verdict.changed
        return Checked(params, edited)

    async def response(
        self, method: str, targets: tuple[str, ...], result: Json, of: Request
    ) -> Json:
        """See Guard."""
        for processor in self._processors:
            if method in processor.responses:
                verdict = await self._verdict(processor, "response", method, targets, result, of)
                if verdict is not None and verdict.changed is not None:
                    result = verdict.changed
        return result

    def _withhold(self, phase: mcp_webhook.Phase, method: str, of: Request) -> None:
        """The client's own words, which a guard did not let pass, are not for logs."""
        if phase == "request" or method in self.answers:
            withhold_request(of)

    async def _verdict(
        self,
        processor: _Processor,
        phase: mcp_webhook.Phase,
        method: str,
        targets: tuple[str, ...],
        payload: Json,
        of: Request,
    ) -> Verdict | None:
        """None: it failed, and that lets pass. Raises: JsonRpcError."""
        said = "Request" if phase == "request" else "Response"
        try:
            verdict = await processor.ask(phase, method, targets, payload, of)
        except BadVerdictError as error:
            processor.complain(error)
            self._count(said, "Reject")
            self._withhold(phase, method, of)
            raise misguided("its answer cannot be followed") from error
        except UpstreamError as error:
            processor.complain(error)
            if processor.fails_open:
                self._count(said, "FailOpen")
                return None
            self._count(said, "Reject")
            self._withhold(phase, method, of)
            raise misguided("no verdict") from error
        if verdict.refusal is not None:
            self._count(said, "Reject")
            self._withhold(phase, method, of)
            raise verdict.refusal
        if verdict.changed is not None:
            self._withhold(phase, method, of)
        self._count(said, "Allow" if verdict.changed is None else "Mask")
        return verdict


def _told(of: Request) -> Mapping[str, Any]:
    found = of.state.get(STATE)
    return found if isinstance(found, Mapping) else {}


def _edited(headers: Headers, verdict: Verdict) -> Headers:
    names = {name for name, _ in verdict.set_fields} | verdict.remove_fields
    made = Headers(headers)
    drop = fields.remover(names, twins=True)
    if drop is not None:
        drop(made)
    made.extend(verdict.set_fields)
    return made


@final
class _Processor:
    """One service."""

    __slots__ = (
        "_allowed",
        "_callout",
        "_clock",
        "_disallowed",
        "_is_remote",
        "_metadata",
        "_path",
        "_plan",
        "_quiet_until_ns",
        "fails_open",
        "phases",
        "requests",
        "responses",
    )

    def __init__(self, config: Processor, services: Services) -> None:
        try:
            found = self.phases = phases(config.methods)
        except ConfigError as problem:
            raise nested("methods", problem) from problem
        self.requests = found.requests | found.questions | found.notices
        self.responses = found.responses | found.answers
        self.fails_open = config.failure_mode == "failOpen"
        self._metadata = {
            name: Expression(source, services, f"metadata.{name}")
            for name, source in config.metadata.items()
        }
        self._plan = shared_plan(self._metadata.values()) if self._metadata else None
        chosen = config.request_headers
        self._allowed = _names(chosen.allowed, "requestHeaders.allowed")
        self._disallowed = _names(chosen.disallowed, "requestHeaders.disallowed")
        self._is_remote = config.kind == "remote"
        self._path = config.path or "/"
        self._clock = services.clock
        self._quiet_until_ns = 0
        self._callout = services.callouts.resolve(config.reference, config.policies, "Guardrail")

    async def ask(
        self,
        phase: mcp_webhook.Phase,
        method: str,
        targets: tuple[str, ...],
        payload: Json,
        of: Request,
    ) -> Verdict:
        """What the service says. Raises: UpstreamError, BadVerdictError; RequestError for a path
        that expressions cannot read."""
        metadata = self._values(of)
        headers = self._headers(of) if phase == "request" else []
        if not self._is_remote:
            return await self._posted(phase, method, targets, metadata, payload, headers, of)
        unary = self._callout.unary
        if phase == "request":
            message = ext_mcp.request(targets, method, metadata, payload, headers)
            data = await unary(ext_mcp.REQUEST, message, TIMEOUT_SECONDS, of)
            return ext_mcp.request_verdict(data)
        message = ext_mcp.response(targets, method, metadata, payload)
        data = await unary(ext_mcp.RESPONSE, message, TIMEOUT_SECONDS, of)
        return ext_mcp.response_verdict(data)

    async def _posted(
        self,
        phase: mcp_webhook.Phase,
        method: str,
        targets: tuple[str, ...],
        metadata: Mapping[str, Any],
        payload: Json,
        headers: Sequence[HeaderField],
        of: Request,
    ) -> Verdict:
        body = mcp_webhook.question(phase, targets, method, metadata, payload, headers)
        kind = Headers([(b"content-type", b"application/json")])
        answer = await self._callout.send(
            outgoing("POST", self._path, kind, body, of=of), TIMEOUT_SECONDS
        )
        if answer.status != 200:
            raise ext_mcp.unreadable(f"has status {answer.status}")
        raw = answer.body.unread if isinstance(answer.body, FixedBody) else b""
        return mcp_webhook.verdict(phase, raw)

    def _values(self, of: Request) -> dict[str, Any]:
        if self._plan is None:
            return {}
        variables = self._plan.activation(of)
        found: dict[str, Any] = {}
        for name, expression in self._metadata.items():
            raw = expression.encoded_in(variables)
            value = expression.value_in(variables)
            if raw is None:
                continue
            is_text = isinstance(value, str | bytes)
            found[name] = raw.decode("utf-8", "replace") if is_text else _json(raw)
        return found

    def _headers(self, of: Request) -> list[HeaderField]:
        allowed, disallowed = self._allowed, self._disallowed
        if not allowed:
            hidden = _SECRET | _UNTOLD | disallowed
            return [field for field in of.headers if field[0] not in hidden]
        shown = allowed - disallowed
        told = [field for field in of.headers if field[0] in shown]
        for name, get in _PSEUDO.items():
            if name in shown:
                told.append((name, get(of).encode("utf-8", "replace")))
        return told

    def complain(self, error: Exception) -> None:
        """Log, at most every ten seconds: a service that is down fails each message."""
        now = self._clock.monotonic_ns()
        if now >= self._quiet_until_ns:
            self._quiet_until_ns = now + _QUIET_NS
            _log.warning("the guardrail at %s failed: %s", self._callout.label, error)


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        # A time, or a duration.
        return raw.decode("utf-8", "replace")


def _names(texts: Sequence[str], path: str) -> frozenset[bytes]:
    found = set()
    for index, text in enumerate(texts):
        name = text.lower().encode()
        if name not in _PSEUDO:
            name = fields.header_name(text, f"{path}[{index}]")
        found.add(name)
    return frozenset(found)
