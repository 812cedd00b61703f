"""A cloud's guard as it is called: its questions go out as calls of a policy do.

A question that was not answered, or with 429 or 5xx, is asked again: when the service says, else
soon, and only where that is within the time that the judgement has.

Source: spec/llm.md section 4.2; spec/config.md sections 3.12 and 5.7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, final
from urllib.parse import urlsplit

from sidecar.config.scalars import duration_seconds
from sidecar.errors import ConfigError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.llm.guard.azure_content_safety import AzureContentSafety
from sidecar.llm.guard.bedrock import BedrockGuardrails
from sidecar.llm.guard.model_armor import ModelArmor
from sidecar.llm.guard.openai_moderation import OpenAiModeration
from sidecar.llm.guard.verdict import Ask, CloudService, GuardError, Phase, Verdict, check_size
from sidecar.policies.base import Services
from sidecar.policies.callouts import outgoing
from sidecar.routing.outlier import retry_hint_seconds

Data = Mapping[str, Any]
TIMEOUT_SECONDS: Final = 10.0
"""For all calls of one judgement, where `policies.http.requestTimeout` says nothing else."""
_ANSWER_BYTES: Final = 4 * 1024 * 1024
_CONCURRENT: Final = 8
"""Questions of one judgement that are under way at a time."""
_BACKOFF_SECONDS: Final = (0.05, 0.2)
"""Before each repetition; there are no more."""


@final
class CloudGuard:
    """One service. Raises: ConfigError, its path below the guard's key."""

    __slots__ = ("_authority", "_callout", "_clock", "_seconds", "_service")

    def __init__(self, kind: str, config: Data, phase: Phase, services: Services) -> None:
        self._clock = services.clock
        self._service = _service(kind, config, phase)
        host = config.get("hostOverride") or self._service.host
        self._authority = urlsplit(host if "://" in host else f"//{host}").netloc
        policies: dict[str, Any] = {**(config.get("policies") or {})}
        timeout = (policies.get("http") or {}).get("requestTimeout")
        self._seconds = (duration_seconds(timeout) if timeout else 0.0) or TIMEOUT_SECONDS
        auth = self._service.auth(policies.get("backendAuth"))
        if auth is not None:
            policies["backendAuth"] = auth
        try:
            self._callout = services.callouts.resolve({"host": host}, policies, "Guardrail")
        except ConfigError as problem:
            key, _, rest = problem.path.partition(".")
            place = "endpoint" if kind == "azureContentSafety" else ""
            if key == "host":
                place = "hostOverride" if config.get("hostOverride") else place
                raise ConfigError(f"{place}.{rest}".strip("."), problem.message) from problem
            raise

    async def ask(self, phase: Phase, texts: Sequence[str], request: Request) -> Verdict:
        """The judgement. `request`: the client's. Raises: UpstreamError, GuardError."""
        check_size(texts)
        steps = self._service.judging(phase, texts)
        deadline = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(deadline):
                asks = next(steps)
                while True:
                    try:
                        asks = steps.send(await self._answers(asks, request, deadline))
                    except StopIteration as done:
                        verdict: Verdict = done.value
                        return verdict
        except TimeoutError as error:
            raise GuardError(f"no judgement within {self._seconds:g} s") from error

    async def _answers(self, asks: Sequence[Ask], request: Request, deadline: float) -> list[bytes]:
        # Fast path: one question, as nearly always.
        if len(asks) == 1:
            return [await self._answer(asks[0], request, deadline)]
        found: list[bytes] = []
        for at in range(0, len(asks), _CONCURRENT):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._answer(ask, request, deadline))
                        for ask in asks[at : at + _CONCURRENT]
                    ]
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from failures
            found += [task.result() for task in tasks]
        return found

    async def _answer(self, ask: Ask, request: Request, deadline: float) -> bytes:
        for backoff in _BACKOFF_SECONDS:
            wait = backoff
            try:
                answer = await self._asked(ask, request)
            except UpstreamError as error:
                if not error.retryable or _is_too_late(backoff, deadline):
                    raise
            else:
                if answer.status != 429 and answer.status < 500:
                    return _body_of(answer)
                hint = retry_hint_seconds(answer.headers, self._clock.time_ns())
                wait = backoff if hint is None else hint
                if _is_too_late(wait, deadline):
                    return _body_of(answer)
            await asyncio.sleep(wait)
        return _body_of(await self._asked(ask, request))

    async def _asked(self, ask: Ask, request: Request) -> Response:
        headers = Headers(((b"content-type", b"application/json"),))
        call = outgoing("POST", ask.target, headers, ask.body, of=request)
        # A signature covers it, so it has to be known before the call is on its way.
        call.authority = self._authority
        return await self._callout.send(call, self._seconds, _ANSWER_BYTES)


def _is_too_late(wait_seconds: float, deadline: float) -> bool:
    return asyncio.get_running_loop().time() + wait_seconds >= deadline


def _body_of(answer: Response) -> bytes:
    if not 200 <= answer.status < 300:
        raise GuardError(f"it answered {answer.status}")
    body = answer.body
    return body.unread if isinstance(body, FixedBody) else b""


def _service(kind: str, config: Data, phase: Phase) -> CloudService:
    if kind == "openAIModeration":
        return OpenAiModeration(config)
    if kind == "bedrockGuardrails":
        return BedrockGuardrails(config)
    if kind == "googleModelArmor":
        return ModelArmor(config)
    return AzureContentSafety(config, phase)
