"""The guards of one `promptGuard`, compiled, and what they make of prompts and answers.

Source: spec/llm.md section 4.2; spec/config.md sections 5.7 and 9.1.

Guards judge in order; each sees the masks of those before it, the first refusal ends. A guard that
cannot judge refuses the message (503), unless it is a webhook with `failureMode: failOpen`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Protocol, final

import orjson

from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.gateway.llm_webhook import Webhook
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.llm.chat.base import Json, TextPart, WireFormat
from sidecar.llm.guard.masked import Masked, Span, changed
from sidecar.llm.guard.patterns import Patterns
from sidecar.llm.guard.webhook import Phase, Refused, WebhookError
from sidecar.policies.base import Services
from sidecar.policies.order import make
from sidecar.policies.schema import nested

Data = Mapping[str, Any]
Count = Callable[[Phase, str], None]
"""Counts a judgement: phase, and Allow, Mask, Reject or FailOpen."""
DEFAULT_SCOPE: Final = frozenset(("systemPrompt", "messages"))
_REFUSED: Final = "The request was rejected due to inappropriate content"
_LINES: Final = frozenset(("responses", "generateContent"))
"""Formats whose texts stand on lines of their own; those of the others are one line."""


@final
@dataclass(slots=True)
class Subject:
    """A text to judge."""

    role: str
    kind: str
    """See TextPart."""
    masked: Masked
    floor: int = 0
    """Characters that were judged before, and are shown for context only."""


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


class Judge(Protocol):
    """What a kind of guard does."""

    async def judge(
        self, phase: Phase, subjects: Sequence[Subject], joiner: str, request: Request
    ) -> Refused | bool:
        """Mask the subjects in place. True: refused; `Refused`: with an answer of its own.

        Raises: UpstreamError, WebhookError when it cannot judge.
        """


@final
class _RegexJudge:
    """`regex`."""

    def __init__(self, config: Data) -> None:
        self._patterns = Patterns(config)

    async def judge(
        self, phase: Phase, subjects: Sequence[Subject], joiner: str, request: Request
    ) -> bool:
        """See Judge. Neighbours of one role are read as one text."""
        for (_, kind), grouped in groupby(subjects, lambda one: (one.role, one.kind)):
            run = list(grouped)
            between = "\n" if kind == "systemPrompt" else joiner
            text = run[0].masked.text if len(run) == 1 else between.join(s.masked.text for s in run)
            spans = [span for span in self._patterns.find(text) if span[1] > run[0].floor]
            if spans and self._patterns.rejects:
                return True
            _spread(spans, run, len(between))
        return False


def _spread(spans: list[Span], run: list[Subject], gap: int) -> None:
    """Mask a run: each mask stands in the text where its span begins."""
    start = 0
    for subject in run:
        end = start + len(subject.masked.text)
        subject.masked.edit(
            (max(low, start) - start, min(high, end) - start, mask if low >= start else "")
            for low, high, mask in spans
            if low < end and high > start
        )
        start = end + gap


@final
class _WebhookJudge:
    """`webhook`."""

    def __init__(self, webhook: Webhook) -> None:
        self._webhook = webhook

    async def judge(
        self, phase: Phase, subjects: Sequence[Subject], joiner: str, request: Request
    ) -> Refused | bool:
        """See Judge."""
        texts = [(subject.role, subject.masked.text) for subject in subjects]
        answer = await self._webhook.ask(phase, texts, request)
        if isinstance(answer, Refused):
            return answer
        for subject, content in zip(subjects, answer or (), strict=answer is not None):
            subject.masked.edit(changed(subject.masked.text, content))
        return False


@final
class _Guard:
    """One entry of `request` or `response`. Raises: ConfigError, its path below the entry."""

    def __init__(self, config: Data, services: Services, scope: frozenset[str] | None) -> None:
        """`scope`: the kinds of text it looks at; None: all there are."""
        self.rejection = Rejection(config.get("rejection") or {}, services)
        self.scope = scope
        self.is_open = False
        self._judge = self._made(config, services)

    def _made(self, config: Data, services: Services) -> Judge:
        if config.get("regex") is not None:
            try:
                return _RegexJudge(config["regex"])
            except ConfigError as problem:
                raise nested("regex", problem) from problem
        if self.scope not in (None, DEFAULT_SCOPE):
            raise ConfigError("scope", "a webhook sees systemPrompt and messages, not others")
        given = config["webhook"]
        self.is_open = given.get("failureMode") == "failOpen"
        try:
            return _WebhookJudge(Webhook(given, services))
        except ConfigError as problem:
            raise nested("webhook", problem) from problem

    async def check(
        self,
        phase: Phase,
        subjects: Sequence[Subject],
        joiner: str,
        request: Request,
        count: Count,
    ) -> Refused | bool:
        """As Judge, counted. Raises: RequestError 503."""
        seen = [one for one in subjects if self.scope is None or one.kind in self.scope]
        if not seen:
            return False
        before = [one.masked.text for one in seen]
        try:
            verdict = await self._judge.judge(phase, seen, joiner, request)
        except (UpstreamError, WebhookError) as error:
            if self.is_open:
                count(phase, "FailOpen")
                return False
            # No UpstreamError: another provider would not help, and would cost its tokens.
            text = f"a prompt guard could not judge: {error}"
            raise RequestError(503, "UpstreamFailure", text) from error
        if verdict is not False:
            count(phase, "Reject")
        else:
            is_same = before == [one.masked.text for one in seen]
            count(phase, "Allow" if is_same else "Mask")
        return verdict


@final
class Guards:
    """One `promptGuard`. Raises: ConfigError, its path below the key."""

    __slots__ = ("_count", "_request", "_response", "guards_streams")

    def __init__(self, config: Data, services: Services, count: Count) -> None:
        self._request = _compiled("request", config, services)
        self._response = _compiled("response", config, services)
        self.guards_streams = config.get("streaming") == "Enabled" and bool(self._response)
        self._count = count

    async def on_request(
        self, wire_format: WireFormat, body: Json, request: Request
    ) -> Response | None:
        """Mask a prompt in place; the answer when it is refused. Raises: RequestError 503."""
        if not self._request:
            return None
        parts = wire_format.request_texts(body)
        return await self._whole("Request", self._request, wire_format, parts, request)

    async def on_answer(
        self, wire_format: WireFormat, body: Json, request: Request
    ) -> Response | bool:
        """Mask an answer in place, True when there was need; or what stands in its place.

        Raises: RequestError 503.
        """
        if not self._response:
            return False
        parts = wire_format.response_texts(body)
        before = [part.text for part in parts]
        refusal = await self._whole("Response", self._response, wire_format, parts, request)
        return before != [part.text for part in parts] if refusal is None else refusal

    async def _whole(
        self,
        phase: Phase,
        guards: list[_Guard],
        wire_format: WireFormat,
        parts: list[TextPart],
        request: Request,
    ) -> Response | None:
        subjects = [Subject(part.role, part.kind, Masked(part.text)) for part in parts]
        joiner = "\n" if wire_format.name in _LINES else " "
        for guard in guards:
            verdict = await guard.check(phase, subjects, joiner, request, self._count)
            if verdict is not False:
                refused = None if verdict is True else verdict
                return guard.rejection.response(request, refused)
        for part, subject in zip(parts, subjects, strict=True):
            if subject.masked.text != part.text:
                part.replace(subject.masked.text)
        return None

    async def on_window(self, text: str, floor: int, request: Request) -> list[Span] | str:
        """What to mask in text of a stream, or the message of a refusal. `floor`: see Subject.

        Raises: RequestError 503.
        """
        subject = Subject("assistant", "completion", Masked(text), floor)
        for guard in self._response:
            verdict = await guard.check("Response", (subject,), "", request, self._count)
            if verdict is not False:
                if isinstance(verdict, Refused):
                    return verdict.body.decode()
                return guard.rejection.message
        return subject.masked.spans()


def _compiled(side: str, config: Data, services: Services) -> list[_Guard]:
    made: list[_Guard] = []
    for index, entry in enumerate(config.get(side) or ()):
        try:
            scope = frozenset(entry.get("scope") or DEFAULT_SCOPE) if side == "request" else None
            made.append(_Guard(entry, services, scope))
        except ConfigError as problem:
            raise nested(f"{side}[{index}]", problem) from problem
    return made


__all__ = ["Count", "Guards", "Rejection", "Subject"]
