"""What is learnt of one model call, and where it goes at the end: CEL, log, metrics, limits.

Source: spec/llm.md sections 2.16 and 5.

`LlmState` is `request.state["llm"]`. `Record` is one of the request's endings, and runs before
those of limits and budgets, which charge by what it has written: whole or cut, a stream is charged
for what was seen of it. Where the provider did not come to say how much that is, it is estimated
(`llm.estimated` is true then).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol, final

from sidecar.gateway.llm_load import UnderWay
from sidecar.http.message import Ending, Request, Response
from sidecar.llm.chat.base import Json, UsageReader, WireFormat
from sidecar.llm.chat.produced import Produced, asked_chars, extra_chars, tokens_of_chars
from sidecar.llm.pieces import AUDIO_SECOND, MILLI
from sidecar.llm.usage import Usage
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.fields import RouteFacts
from sidecar.telemetry.genai import GenAiMetrics

STATE: Final = "llm"
_KEYS: Final = (
    *("inputTextTokens", "inputImageTokens", "inputAudioTokens"),
    *("cachedInputTokens", "cacheCreationInputTokens"),
    *("outputTokens", "outputTextTokens", "outputImageTokens", "outputAudioTokens"),
    *("reasoningTokens", "providerTotalTokens", "countTokens", "serviceTier", "responseModel"),
)
_CONTENT: Final = ("prompt", "completion", "toolCalls")
_NOTHING_YET: Final = Usage()
"""What a provider has told before it answered; never written to."""
_LEARNT: Final = (
    *_KEYS,
    *("inputTokens", "providerInputTokens", "totalTokens", "estimated", "cost", "costRates"),
    *("completion", "pieces", "toolCalls", "timeToFirstToken"),
)
"""What a call writes, and takes away with it when another provider is asked."""


class Prices(Protocol):
    """What tokens cost."""

    def look_up(
        self, provider: str, asked: str, usage: Usage, *, excludes_cache: bool
    ) -> tuple[str, Json | None, Mapping[str, float] | None]:
        """`(status, cost, rates)`: status of the look-up; USD by class, `total` among them, and
        the prices used; None when there is no price."""


@final
class LlmState(dict[str, object]):
    """The variable `llm`. The prompt is put together only when an expression asks for it."""

    __slots__ = ("_asked", "_within", "hides_completion")

    def __init__(self) -> None:
        self.hides_completion = False
        """Whether the answer's words are not for keeping: a guard masked or refused it, or may
        have, since what is noted are the provider's words."""
        self._asked: tuple[WireFormat, Json] | None = None
        self._within: Json | None = None

    def prompt_chars(self) -> int:
        """Characters of what a model was given to read; 0 where nobody could tell."""
        if self._asked is not None:
            return _prompt_chars(*self._asked)
        return 0 if self._within is None else asked_chars(self._within)

    def prompt_from(self, wire_format: WireFormat, body: Json) -> None:
        """Where the prompt would come from."""
        self._asked = (wire_format, body)

    def prompt_within(self, body: Json) -> None:
        """The prompt is somewhere in there."""
        self._within = body

    def cel(self, wanted: frozenset[str] | None) -> Mapping[str, object]:
        """See sidecar.cel.variables.Fields."""
        asked = self._asked
        if asked is None or (wanted is not None and "prompt" not in wanted):
            return self
        wire_format, body = asked
        return {**self, "prompt": wire_format.prompt(body)}


@final
class Record:
    """One call under way. See http.message.Ending: it settles once, before all others."""

    __slots__ = (
        "_clock",
        "_estimate",
        "_excludes_cache",
        "_first_ns",
        "_is_over",
        "_metrics",
        "_model",
        "_priced",
        "_prices",
        "_produced",
        "_provider",
        "_reader",
        "_route",
        "_started_ns",
        "_status",
        "has_answer",
        "state",
        "under_way",
        "usage",
    )

    def __init__(
        self,
        request: Request,
        route: RouteFacts,
        clock: Clock,
        metrics: GenAiMetrics,
        prices: Prices | None,
    ) -> None:
        self.state = LlmState()
        self.usage = _NOTHING_YET
        self.has_answer = False
        self.under_way = UnderWay()
        self._estimate: int | None = None
        self._produced: Produced | None = None
        self._reader: Callable[[], Usage] | None = None
        self._route = route
        self._clock = clock
        self._metrics = metrics
        self._prices = prices
        self._started_ns = request.started_ns
        self._first_ns = 0
        self._excludes_cache = False
        self._is_over = False
        self._priced: Usage | None = None
        """What `_status` is of. A reader goes on filling its own, which is priced at the end."""
        self._status = ""
        self._provider = self._model = ""
        others = request.endings
        if STATE in request.state:
            others = _without_record(others)
        request.endings = (self, *others)
        request.state[STATE] = self.state

    def begin(
        self,
        *,
        provider: str,
        model: str,
        operation: str,
        is_streaming: bool,
        params: Json,
        excludes_cache: bool,
    ) -> None:
        """A call of a provider is about to be made; the last one is the one that counts."""
        state = self.state
        if self.has_answer or self._estimate is not None:
            self._forget()
        state["provider"] = self._provider = provider
        state["requestModel"] = self._model = model
        state["operationName"] = operation
        state["streaming"] = is_streaming
        state["params"] = params
        self._excludes_cache = excludes_cache
        self._first_ns = 0
        self.usage = _NOTHING_YET
        self._reader = self._produced = None

    def _forget(self) -> None:
        """Nothing has come of the call so far."""
        self.has_answer = False
        self._estimate = None
        for key in _LEARNT:
            self.state.pop(key, None)

    def estimate(self, input_tokens: int) -> None:
        """What the prompt is likely to count, and cost; holds until the provider says it."""
        state = self.state
        self._estimate = input_tokens
        state["inputTokens"] = state["totalTokens"] = input_tokens
        state["estimated"] = True
        if self._prices is not None:
            _, cost, _ = self._looked_up(Usage(input_tokens=input_tokens))
            if cost is not None:
                state["cost"] = cost

    def refuse(self) -> None:
        """A limit refused the call before it was made: it counts nowhere."""
        self._forget()
        self._is_over = True

    def follow(self, usage: Callable[[], Usage], produced: Produced | None = None) -> None:
        """A stream has begun: `usage` gives what was seen of it so far, `produced` how much text
        there was."""
        self._reader = usage
        self._produced = produced
        self.has_answer = True

    def first_text(self) -> None:
        """The first generated text has come."""
        if not self._first_ns:
            self._first_ns = self._clock.monotonic_ns()
            self.state["timeToFirstToken"] = (self._first_ns - self._started_ns) / 1e9

    def note(self, usage: Usage) -> None:
        """What an answer reports, whole or so far; the estimate of a prompt that it does not."""
        state = self.state
        if not self._excludes_cache and usage.total_tokens:
            unsaid = _unsaid(usage)
            if unsaid:
                usage = replace(usage, output_tokens=(usage.output_tokens or 0) + unsaid)
        if usage.input_tokens is None and self._estimate is not None:
            usage = replace(usage, input_tokens=self._estimate)
            state["estimated"] = True
        elif self._estimate is not None:
            state.pop("estimated", None)
            self._estimate = None
        self.usage = usage
        self.has_answer = True
        _write(usage, state)
        self._totals(usage)
        if usage.pieces:
            state["pieces"] = {name: amount / MILLI for name, amount in usage.pieces.items()}
        if usage.completion:
            state["completion"] = list(usage.completion)
        if usage.output_messages:
            state["toolCalls"] = list(_calls(usage.output_messages))

    def _totals(self, usage: Usage) -> None:
        """Cached tokens are input wherever they are counted (section 5.1)."""
        state = self.state
        reported = usage.input_tokens
        if reported is not None:
            if self._estimate is None:
                state["providerInputTokens"] = reported
            if self._excludes_cache:
                reported += usage.cached_input_tokens or 0
                reported += usage.cache_creation_input_tokens or 0
            state["inputTokens"] = reported
        if reported is not None or usage.output_tokens is not None:
            state["totalTokens"] = (reported or 0) + (usage.output_tokens or 0)
        elif usage.total_tokens is not None:
            state["totalTokens"] = usage.total_tokens

    def price(self) -> str:
        """Write what the call cost; the status of the look-up, "" when nobody knows prices."""
        if self._prices is None or not self.has_answer:
            return ""
        if self._priced is self.usage:
            return self._status
        state = self.state
        status, cost, rates = self._looked_up(self.usage)
        if cost is not None:
            state["cost"] = cost
        else:
            # That of an estimate, if anything.
            state.pop("cost", None)
        if rates is not None:
            state["costRates"] = rates
        self._priced, self._status = self.usage, status
        return status

    def _looked_up(self, usage: Usage) -> tuple[str, Json | None, Mapping[str, float] | None]:
        assert self._prices is not None
        excludes_cache = self._excludes_cache
        return self._prices.look_up(
            self._provider, self._model, usage, excludes_cache=excludes_cache
        )

    def note_chat(self, usage: Usage, answer_chars: int) -> None:
        """A whole answer of a chat. What its provider does not say is estimated, or such providers
        would be a way around every budget."""
        sent, made = usage.input_tokens, usage.output_tokens
        if sent is None and self._estimate is None:
            self._estimate = tokens_of_chars(self.state.prompt_chars())
        if made is None:
            made = tokens_of_chars(answer_chars)
            if usage.total_tokens is not None:
                known = (self._estimate or 0) if sent is None else sent
                made = max(0, usage.total_tokens - known)
        is_guessed = made != (usage.output_tokens or 0)
        self.note(replace(usage, output_tokens=made) if is_guessed else usage)
        if is_guessed:
            self.state["estimated"] = True

    def _finish_stream(self, usage: Usage) -> None:
        """Note what a stream reports, or what it is likely to have cost when it did not say so."""
        produced = self._produced
        reported = usage.output_tokens
        # What a provider cut before it brought anything costs nothing; who leaves has been served.
        if produced is None or not (produced.events or produced.is_left):
            self.note(usage)
            return
        if usage.input_tokens is None and self._estimate is None:
            self._estimate = tokens_of_chars(self.state.prompt_chars())
        if produced.is_whole and reported is not None:
            self.note(usage)
            return
        output = max(produced.tokens, reported or 0)
        self.note(replace(usage, output_tokens=output))
        if output != reported:
            self.state["estimated"] = True

    def __call__(self, request: Request, response: Response | None) -> None:
        """The exchange is over, however it ended."""
        if self._is_over:
            return
        self._is_over = True
        if self.under_way.state is not None:
            self.under_way.end()
        if self._reader is not None:
            self._finish_stream(self._reader())
        elif not self.has_answer:
            # Whoever gave no answer is owed nothing for the prompt.
            self._forget()
        if "provider" not in self.state:
            return
        now = self._clock.monotonic_ns()
        tokens = self.usage.output_tokens
        if self._first_ns and tokens:
            self.state["timePerOutputToken"] = (now - self._first_ns) / 1e9 / tokens
        # Fast path: it was priced when it was noted.
        status = self._status if self._priced is self.usage else self.price()
        seconds = (now - self._started_ns) / 1e9
        self._metrics.finish(self._route, self.state, seconds, status)


def _without_record(endings: Iterable[Ending]) -> tuple[Ending, ...]:
    """A retry of the route begins anew: what an earlier try noted is not counted again."""
    others: list[Ending] = []
    for end in endings:
        if isinstance(end, Record):
            end.under_way.end()
        else:
            others.append(end)
    return tuple(others)


def _write(usage: Usage, state: LlmState) -> None:  # noqa: C901 - one branch a field
    """What was said, by its name in expressions (`_KEYS`)."""
    # A loop over names would take three times as long: each call comes through here.
    if (said := usage.output_tokens) is not None:
        state["outputTokens"] = said
    if (said := usage.cached_input_tokens) is not None:
        state["cachedInputTokens"] = said
    if (said := usage.cache_creation_input_tokens) is not None:
        state["cacheCreationInputTokens"] = said
    if (said := usage.reasoning_tokens) is not None:
        state["reasoningTokens"] = said
    if (said := usage.total_tokens) is not None:
        state["providerTotalTokens"] = said
    if (said := usage.count_tokens) is not None:
        state["countTokens"] = said
    if (said := usage.input_audio_tokens) is not None:
        state["inputAudioTokens"] = said
    if (said := usage.output_audio_tokens) is not None:
        state["outputAudioTokens"] = said
    if (said := usage.input_text_tokens) is not None:
        state["inputTextTokens"] = said
    if (said := usage.output_text_tokens) is not None:
        state["outputTextTokens"] = said
    if (said := usage.input_image_tokens) is not None:
        state["inputImageTokens"] = said
    if (said := usage.output_image_tokens) is not None:
        state["outputImageTokens"] = said
    if (name := usage.service_tier) is not None:
        state["serviceTier"] = name
    if (name := usage.provider_model) is not None:
        state["responseModel"] = name


def _unsaid(usage: Usage) -> int:
    """Tokens of the total that are neither input nor output: xAI's reasoning, and the thoughts that
    Google leaves out of chat completions, are generated and billed all the same."""
    total, sent, made = usage.total_tokens, usage.input_tokens, usage.output_tokens
    if total is None or sent is None or made is None:
        return 0
    if usage.pieces is not None and AUDIO_SECOND in usage.pieces:
        return 0  # Mistral's tokens of sound that was sent, which is paid for by the second.
    return max(0, total - sent - made)


def _prompt_chars(wire_format: WireFormat, body: Json) -> int:
    texts = [one["content"] for one in wire_format.prompt(body)]
    return sum(map(len, texts)) + extra_chars(body)


def _calls(messages: list[dict[str, Any]]) -> Iterator[Json]:
    for message in messages:
        for part in message.get("content") or ():
            if isinstance(part, dict) and part.get("type") == "tool_call":
                yield {key: part.get(key) for key in ("id", "name", "arguments")}


__all__ = ["STATE", "LlmState", "Prices", "Record", "UsageReader"]
