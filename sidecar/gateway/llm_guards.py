"""The guards of one `promptGuard`, compiled, and what they make of prompts and answers.

Source: spec/llm.md section 4.2; spec/config.md sections 5.7 and 9.1.

Guards judge in order; each sees the masks of those before it, the first refusal ends. A guard that
cannot judge refuses the message (503), unless its `failureMode` is failOpen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

import orjson

from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.gateway.llm_guard_judges import made as judge_of
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.llm.chat.base import Json, TextPart, WireFormat
from sidecar.llm.guard.answer_calls import ANSWER_CALLS
from sidecar.llm.guard.echoes import answer_echoes, without_logprobs
from sidecar.llm.guard.masked import Masked, Span
from sidecar.llm.guard.subject import CallTexts, Subject, Texts
from sidecar.llm.guard.verdict import GuardError, Phase
from sidecar.llm.guard.webhook import Refused
from sidecar.policies.base import Services
from sidecar.policies.order import make
from sidecar.policies.schema import nested
from sidecar.telemetry.bodies import withhold_request

Data = Mapping[str, Any]
Count = Callable[[Phase, str], None]
"""Counts a judgement: phase, and Allow, Mask, Reject or FailOpen."""
DEFAULT_SCOPE: Final = frozenset(("systemPrompt", "messages"))
_REFUSED: Final = "The request was rejected due to inappropriate content"
_LINES: Final = frozenset(("responses", "generateContent"))
"""Formats whose texts stand on lines of their own; those of the others are one line."""


@final
class Rejection:
    """How a refusal looks. Raises: ConfigError, its path below the guard."""

    __slots__ = ("_body", "_headers", "_status")

    def __init__(self, config: Data, services: Services) -> None:
        given = config.get("body", _REFUSED)
        self._body = given.encode() if isinstance(given, str) else bytes(given)
        self._status = int(config.get("status", 403))
        self._headers: Any = None
        if config.get("headers"):
            try:
                self._headers = make("responseHeaderModifier", config["headers"], services)
            except ConfigError as problem:
                _, _, below = problem.path.partition(".")
                path = "rejection.headers" + (f".{below}" if below else "")
                raise ConfigError(path, problem.message) from problem

    @property
    def message(self) -> str:
        """The body as text, for the error event of a stream."""
        return self._body.decode(errors="replace")

    def response(self, request: Request, refused: Refused | None = None) -> Response:
        """The answer in the place of the model's. `refused`: a webhook's own body and status."""
        body = self._body if refused is None else refused.body
        kind = b"application/json" if _is_json(body) else b"text/plain; charset=utf-8"
        headers = Headers(((b"content-type", kind),))
        status = self._status if refused is None else refused.status
        made = Response(status, headers, FixedBody(body), reason="Guardrail")
        if self._headers is not None:
            self._headers.on_response(request, made)
        return made


def _is_json(body: bytes) -> bool:
    try:
        return isinstance(orjson.loads(body), dict | list)
    except orjson.JSONDecodeError:
        return False


@final
class _Guard:
    """One entry of `request` or `response`. Raises: ConfigError, its path below the entry."""

    def __init__(self, config: Data, services: Services, phase: Phase) -> None:
        self.rejection = Rejection(config.get("rejection") or {}, services)
        self._scope: frozenset[str] | None = None
        """The kinds of text it looks at; None: all there are."""
        self._judge = judge_of(config, services, phase)
        if phase == "Request":
            self._scope = frozenset(config.get("scope") or DEFAULT_SCOPE)
            if self._scope != DEFAULT_SCOPE and not self._judge.sees_all:
                text = "a guard of this kind sees systemPrompt and messages, not others"
                raise ConfigError("scope", text)

    async def check(
        self,
        phase: Phase,
        subjects: Sequence[Subject],
        joiner: str,
        request: Request,
        count: Count,
    ) -> Refused | bool:
        """As Judge, counted. Raises: RequestError 503."""
        seen = [one for one in subjects if self._scope is None or one.kind in self._scope]
        if not seen:
            return False
        before = [one.masked.text for one in seen]
        try:
            verdict = await self._judge.judge(phase, seen, joiner, request)
        except (UpstreamError, GuardError) as error:
            if self._judge.is_open:
                count(phase, "FailOpen")
                return False
            raise _no_judgement(error) from error
        if verdict is not False:
            count(phase, "Reject")
        else:
            is_same = before == [one.masked.text for one in seen]
            count(phase, "Allow" if is_same else "Mask")
        return verdict


def _no_judgement(error: Exception) -> RequestError:
    """No UpstreamError: another provider would not help, and would cost its tokens."""
    return RequestError(503, "UpstreamFailure", f"a prompt guard could not judge: {error}")


@final
class Guards:
    """One `promptGuard`. Raises: ConfigError, its path below the key."""

    __slots__ = ("_count", "_request", "_response", "guards_streams")

    def __init__(self, config: Data, services: Services, count: Count) -> None:
        self._request = _compiled("request", "Request", config, services)
        self._response = _compiled("response", "Response", config, services)
        self.guards_streams = config.get("streaming") == "Enabled" and bool(self._response)
        self._count = count

    @property
    def guards_sessions(self) -> bool:
        """Whether the events of a realtime session are looked at, of one side or both."""
        return bool(self._request) or self.guards_streams

    async def on_request(
        self, wire_format: WireFormat, body: Json, request: Request
    ) -> Response | None:
        """Mask a prompt in place; the answer when it is refused. Raises: RequestError 503."""
        if not self._request:
            return None
        parts = wire_format.request_texts(body)
        verdict: Response | bool = True
        try:
            verdict = await self._whole("Request", self._request, wire_format, parts, request)
        finally:
            if verdict is not False:
                withhold_request(request)
        return verdict if isinstance(verdict, Response) else None

    async def on_answer(
        self, wire_format: WireFormat, body: Json, request: Request
    ) -> Response | bool:
        """Mask an answer in place, True when there was need; or what stands in its place.

        Raises: RequestError 503.
        """
        if not self._response:
            return False
        parts = wire_format.response_texts(body)
        calls = ANSWER_CALLS.get(wire_format.name)
        if calls is not None:
            parts += calls(body)
        parts += answer_echoes(body)
        judged = await self._whole("Response", self._response, wire_format, parts, request)
        if judged is True:
            without_logprobs(body)
        return judged

    async def _whole(
        self,
        phase: Phase,
        guards: list[_Guard],
        wire_format: WireFormat,
        parts: list[TextPart],
        request: Request,
    ) -> Response | bool:
        """The answer to what is refused, or whether texts were masked."""
        try:
            texts = Texts(parts)
        except GuardError as error:
            raise _no_judgement(error) from error
        joiner = "\n" if wire_format.name in _LINES else " "
        for guard in guards:
            verdict = await guard.check(phase, texts.subjects, joiner, request, self._count)
            if verdict is not False:
                refused = None if verdict is True else verdict
                return guard.rejection.response(request, refused)
        return texts.write()

    async def on_window(self, text: str, floor: int, request: Request) -> list[Span] | str:
        """What to mask in text of a stream, or the message of a refusal. `floor`: see Subject.

        Raises: RequestError 503.
        """
        subject = Subject("assistant", "completion", Masked(text), floor)
        refusal = await self._streamed((subject,), request)
        return subject.masked.spans() if refusal is None else refusal

    async def on_call(self, text: str, request: Request) -> tuple[str, str | None]:
        """The arguments of a streamed tool call under masks, and the message of a refusal.

        Raises: RequestError 503.
        """
        try:
            call = CallTexts(text)
        except GuardError as error:
            raise _no_judgement(error) from error
        refusal = await self._streamed(call.subjects, request)
        return (text, refusal) if refusal is not None else (call.text(), None)

    async def _streamed(self, subjects: Sequence[Subject], request: Request) -> str | None:
        """The message of a refusal."""
        for guard in self._response:
            verdict = await guard.check("Response", subjects, "", request, self._count)
            if verdict is not False:
                if isinstance(verdict, Refused):
                    return verdict.body.decode()
                return guard.rejection.message
        return None


def _compiled(side: str, phase: Phase, config: Data, services: Services) -> list[_Guard]:
    made: list[_Guard] = []
    for index, entry in enumerate(config.get(side) or ()):
        try:
            made.append(_Guard(entry, services, phase))
        except ConfigError as problem:
            raise nested(f"{side}[{index}]", problem) from problem
    return made


__all__ = ["Count", "Guards", "Rejection"]
