"""What each kind of guard does with the texts of a message.

Source: spec/llm.md section 4.2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final, Protocol, final

from sidecar.errors import ConfigError
from sidecar.gateway.llm_cloud_guard import CloudGuard
from sidecar.gateway.llm_webhook import Webhook
from sidecar.http.message import Request
from sidecar.llm.guard.masked import Span, changed
from sidecar.llm.guard.patterns import Patterns
from sidecar.llm.guard.subject import CALL, Subject
from sidecar.llm.guard.verdict import Phase
from sidecar.llm.guard.webhook import Refused
from sidecar.policies.base import Services
from sidecar.policies.schema import nested

Data = Mapping[str, Any]
_AT_ONCE_CHARS: Final = 16 * 1024
"""A text up to this length is searched without a pause."""


class Judge(Protocol):
    """What a kind of guard does."""

    sees_all: bool
    """It may be given another scope than the default one."""
    is_open: bool
    """What it cannot judge passes."""

    async def judge(
        self, phase: Phase, subjects: Sequence[Subject], joiner: str, request: Request
    ) -> Refused | bool:
        """Mask the subjects in place. True: refused; `Refused`: with an answer of its own.

        Raises: UpstreamError, GuardError when it cannot judge.
        """


@final
class RegexJudge:
    """`regex`."""

    sees_all = True
    is_open = False

    def __init__(self, config: Data) -> None:
        self._patterns = Patterns(config)

    async def judge(
        self, phase: Phase, subjects: Sequence[Subject], joiner: str, request: Request
    ) -> bool:
        """See Judge. Neighbours of one role are read as one text."""
        for (_, kind), grouped in groupby(subjects, lambda one: (one.role, one.kind)):
            run = list(grouped)
            between = "\n" if kind in ("systemPrompt", CALL) else joiner
            text = run[0].masked.text if len(run) == 1 else between.join(s.masked.text for s in run)
            spans = [span for span in await self._found(text) if span[1] > run[0].floor]
            if spans and self._patterns.rejects:
                return True
            spread(spans, run, len(between))
        return False

    async def _found(self, text: str) -> list[Span]:
        if len(text) <= _AT_ONCE_CHARS:
            return self._patterns.find(text)
        steps = self._patterns.steps(text)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                found: list[Span] = done.value
                return found
            # Whoever sends 2 MiB of digits must not stop the other requests.
            await asyncio.sleep(0)


def spread(spans: list[Span], run: Sequence[Subject], gap: int) -> None:
    """Mask a run: each mask stands in the text where its span begins."""
    start = first = 0
    for subject in run:
        end = start + len(subject.masked.text)
        while first < len(spans) and spans[first][1] <= start:
            first += 1
        edits: list[Span] = []
        at = first
        while at < len(spans) and spans[at][0] < end:
            low, high, mask = spans[at]
            edits.append((max(low, start) - start, min(high, end) - start, mask * (low >= start)))
            at += 1
        # The last one may go on in the next text.
        first = max(first, at - 1)
        subject.masked.edit(edits)
        start = end + gap


@final
class WebhookJudge:
    """`webhook`. Raises: ConfigError, its path below the key."""

    sees_all = False

    def __init__(self, config: Data, services: Services) -> None:
        self.is_open = config.get("failureMode") == "failOpen"
        self._webhook = Webhook(config, services)

    async def judge(
        self, phase: Phase, subjects: Sequence[Subject], joiner: str, request: Request
    ) -> Refused | bool:
        """See Judge."""
        asked = [subject for subject in subjects if not subject.is_key]
        texts = [(subject.role, subject.masked.text) for subject in asked]
        answer = await self._webhook.ask(phase, texts, request) if asked else None
        if isinstance(answer, Refused):
            return answer
        if answer is not None:
            _masked(asked, answer)
        return False


@final
class CloudJudge:
    """A service of a cloud."""

    def __init__(self, guard: CloudGuard, *, is_open: bool, sees_all: bool) -> None:
        self.is_open = is_open
        self.sees_all = sees_all
        self._guard = guard

    async def judge(
        self, phase: Phase, subjects: Sequence[Subject], joiner: str, request: Request
    ) -> bool:
        """See Judge. Texts without any letter are not asked about: some services refuse them."""
        asked = [one for one in subjects if not one.is_key and one.masked.text.strip()]
        if not asked:
            return False
        verdict = await self._guard.ask(phase, [one.masked.text for one in asked], request)
        if isinstance(verdict, bool):
            return verdict
        _masked(asked, verdict)
        return False


def _masked(subjects: Sequence[Subject], texts: Sequence[str]) -> None:
    for subject, text in zip(subjects, texts, strict=True):
        subject.masked.edit(changed(subject.masked.text, text))


def made(config: Data, services: Services, phase: Phase) -> Judge:
    """The judge of one entry of `request` or `response`. Raises: ConfigError, its path below it."""
    kind = next(key for key in _KINDS if config.get(key) is not None)
    given = config[kind]
    try:
        if kind == "regex":
            return RegexJudge(given)
        if kind == "webhook":
            return WebhookJudge(given, services)
        return CloudJudge(
            CloudGuard(kind, given, phase, services),
            is_open=given.get("failureMode") == "failOpen",
            sees_all=kind == "bedrockGuardrails",
        )
    except ConfigError as problem:
        raise nested(kind, problem) from problem


_KINDS: Final = (
    "regex",
    "webhook",
    "openAIModeration",
    "bedrockGuardrails",
    "googleModelArmor",
    "azureContentSafety",
)

__all__ = ["CloudJudge", "Judge", "RegexJudge", "WebhookJudge", "made", "spread"]
