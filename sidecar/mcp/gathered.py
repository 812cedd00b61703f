"""One request to several servers, answered by one message made of all their answers.

Source: spec/mcp_a2a.md sections 2.3, 2.7 and 5.2 row 9.

What servers say before they answer (progress, log lines, questions to the user) goes to the client
as it comes: a server may wait for the client's answer before it gives its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import orjson

from sidecar.errors import SidecarError, UpstreamError
from sidecar.jsonrpc import METHOD_NOT_FOUND, Json, JsonRpcError
from sidecar.mcp.streams import Merged
from sidecar.mcp.upstream.base import Inbound, Messages, Refused

Failure = SidecarError | Refused | JsonRpcError


@final
@dataclass(slots=True)
class Answers:
    """What servers have answered so far, by name."""

    results: dict[str, Json]
    failures: dict[str, Failure]

    def settle(self, order: Sequence[str], *, fails_open: bool) -> list[tuple[str, Json]]:
        """`[(server, result)]` in this order, of those that count.

        A server that does not know the method offers nothing of the kind, and is no failure where
        another one does. Raises: the first failure that is one, or, when nobody has a result, the
        first of all.
        """
        failures = [self.failures[name] for name in order if name in self.failures]
        if not self.results:
            if failures:
                raise failures[0]
            return []
        if not fails_open:
            for failure in failures:
                if not is_unknown_method(failure):
                    raise failure
        return [(name, self.results[name]) for name in order if name in self.results]


def is_unknown_method(failure: Failure) -> bool:
    """Whether a server says that there is no such method."""
    return isinstance(failure, JsonRpcError) and failure.code == METHOD_NOT_FOUND


def failure_of(message: Json) -> JsonRpcError:
    """The error in an answer, to be the answer of all."""
    error = message["error"]
    code = error.get("code")
    return JsonRpcError(
        code if isinstance(code, int) else -32603,
        str(error.get("message", "")),
        status=200,
        data=error.get("data"),
    )


def failure_of_refusal(refused: Refused) -> Failure:
    """The JSON-RPC error that a server refused with, where it gave one."""
    try:
        message = orjson.loads(refused.body)
    except orjson.JSONDecodeError:
        return refused
    if not isinstance(message, dict) or not isinstance(message.get("error"), dict):
        return refused
    failure = failure_of(message)
    failure.status = refused.status
    return failure


@final
class _Until:
    """The messages of one server up to its answer, which is kept. See Messages."""

    __slots__ = ("_answers", "_change", "_name", "_source", "is_json", "retry_ms")

    def __init__(
        self,
        name: str,
        source: Messages,
        answers: Answers,
        change: Callable[[str, Inbound], Inbound],
    ) -> None:
        self._name = name
        self._source = source
        self._answers = answers
        self._change = change
        self.is_json = source.is_json
        self.retry_ms: int | None = None

    async def next(self) -> Inbound | None:
        """See Messages; nothing is raised, what fails is noted."""
        try:
            inbound = await self._source.next()
        except SidecarError as error:
            self._answers.failures[self._name] = error
            return None
        except Refused as error:
            # In the middle of an answer: the status that it came with is nobody's any more.
            self._answers.failures[self._name] = failure_of_refusal(error)
            return None
        if inbound is None:
            if self._name not in self._answers.results:
                text = f"MCP target {self._name} gave no answer"
                silent = UpstreamError(502, "UpstreamFailure", text)
                self._answers.failures.setdefault(self._name, silent)
            return None
        message = inbound.message
        if "method" in message:
            return self._change(self._name, inbound)
        if isinstance(message.get("result"), dict):
            self._answers.results[self._name] = message["result"]
        elif isinstance(message.get("error"), dict):
            self._answers.failures[self._name] = failure_of(message)
        self._source.close()
        return None

    def close(self) -> None:
        """See Messages."""
        self._source.close()


@final
class Gathered:
    """See Messages. `finish` makes the answer; it may raise."""

    __slots__ = ("_finish", "_merged", "is_json", "retry_ms")

    def __init__(
        self,
        sources: Mapping[str, Messages],
        answers: Answers,
        change: Callable[[str, Inbound], Inbound],
        finish: Callable[[Answers], Json],
    ) -> None:
        watched = [_Until(name, one, answers, change) for name, one in sources.items()]
        self.is_json = all(one.is_json for one in watched)
        self.retry_ms: int | None = None
        self._merged: Merged | None = Merged(watched)
        self._finish: Callable[[], Json] | None = lambda: finish(answers)

    async def next(self) -> Inbound | None:
        """See Messages. Raises: what `finish` raises."""
        merged = self._merged
        if merged is not None:
            inbound = await merged.next()
            if inbound is not None:
                return inbound
            self._merged = None
        finish, self._finish = self._finish, None
        return None if finish is None else Inbound(finish())

    async def whole(self) -> None:
        """Wait for all answers, when each is one document."""
        if self.is_json and self._merged is not None:
            while await self._merged.next() is not None:
                continue
            self._merged = None

    def close(self) -> None:
        """See Messages."""
        if self._merged is not None:
            self._merged.close()
        self._merged = self._finish = None
