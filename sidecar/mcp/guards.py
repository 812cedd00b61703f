"""Guards of messages: who sees what clients ask and servers answer, and may change or refuse it.

Source: spec/mcp_a2a.md sections 2.10 and 5.2 row 14; spec/config.md section 6.4.

A guard has `params` before rules judge a request, and `result` before the client does; ids and
methods are none of its business. A refusal is a JsonRpcError with HTTP status 200. What servers ask
of clients, and notifications, are mcp.asides.

What a guard must see of answers must not reach the client another way: as soon as one looks at
answers, no stream of the backend has event ids (`Guarded`), and a listening stream brings no answer
(`without_answers`), since a client could take up a request's stream there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple, Protocol, final

from sidecar import jsonrpc
from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.http.message import Request
from sidecar.jsonrpc import INTERNAL_ERROR, Id, Json, JsonRpcError
from sidecar.mcp.era import LEGACY_METHODS, MODERN_METHODS
from sidecar.mcp.lanes import Caller
from sidecar.mcp.streams import Changed
from sidecar.mcp.upstream.base import Inbound, Messages

Phase = Literal["off", "request", "response", "full"]
METHODS: Final = LEGACY_METHODS | MODERN_METHODS
_CALL: Final = "tools/call"
_LATER: Final = ("tasks/get", "tasks/result")
"""Methods that bring the result of a call later."""
QUESTIONS: Final = frozenset(
    ("sampling/createMessage", "elicitation/create", "roots/list", *_LATER)
)
"""What servers ask of clients and guards may see."""
_TASKS: Final = frozenset(("sampling/createMessage", "elicitation/create"))
"""Of those, what clients may answer later."""
NOTICES: Final = frozenset(
    (
        *("notifications/message", "notifications/progress", "notifications/resources/updated"),
        *("notifications/tools/list_changed", "notifications/prompts/list_changed"),
        *("notifications/resources/list_changed", "notifications/roots/list_changed"),
        *("notifications/tasks", "notifications/tasks/status"),
        "notifications/elicitation/complete",
    )
)
"""Of either side. What begins, acknowledges and cancels is no guard's business."""
_NOTICE: Final = "notifications/"


class Checked(NamedTuple):
    """What guards made of a request."""

    params: Json
    """The same object when nothing changed."""
    headers: Headers | None = None
    """The client's headers for servers; None when nothing changed."""


class Guard(Protocol):
    """The guards of one backend, in order."""

    requests: frozenset[str]
    """Methods whose requests are looked at."""
    responses: frozenset[str]
    """Methods whose results are looked at."""
    questions: frozenset[str]
    """The same of what servers ask of clients."""
    answers: frozenset[str]
    """The same of clients' results."""
    notices: frozenset[str]
    """Notifications, of either side, that are looked at."""

    async def request(
        self, method: str, targets: tuple[str, ...], params: Json, headers: Headers, of: Request
    ) -> Checked:
        """`of`: the client's request; what guards tell goes into its state. `headers`: see Caller.

        Raises: JsonRpcError.
        """

    async def response(
        self, method: str, targets: tuple[str, ...], result: Json, of: Request
    ) -> Json:
        """The result, the same object when nothing changed. Raises: JsonRpcError."""


# --- which methods ------------------------------------------------------------------------------


@final
class Phases(NamedTuple):
    """Which methods are looked at; the names are those of Guard."""

    requests: frozenset[str]
    responses: frozenset[str]
    questions: frozenset[str]
    answers: frozenset[str]
    notices: frozenset[str]


def phases(given: Mapping[str, Phase]) -> Phases:
    """The methods that keys with wildcards mean. Notifications have keys of their own.

    Raises: ConfigError, its path the key, for one that means no method.
    """
    for key, phase in given.items():
        _check(key, phase)
    keys = {key: phase for key, phase in given.items() if not key.startswith(_NOTICE)}
    requests, responses = _phases_of(keys, METHODS, frozenset((_CALL,)))
    questions, answers = _phases_of(keys, QUESTIONS, _TASKS)
    told = {key: phase for key, phase in given.items() if key.startswith(_NOTICE)}
    return Phases(requests, responses, questions, answers, _phases_of(told, NOTICES)[0])


def _check(key: str, phase: Phase) -> None:
    """Raises: ConfigError."""
    pattern = key.strip("*") if key != "*" else ""
    if "*" in pattern or len(key) - len(pattern) > 1:
        raise ConfigError(key, "a method is exact, `prefix/*`, `*/suffix` or `*`")
    is_notice = key.startswith(_NOTICE)
    if not any(_rank(key, method)[0] for method in (NOTICES if is_notice else METHODS | QUESTIONS)):
        raise ConfigError(key, "there is no such method")
    if is_notice and phase in ("response", "full"):
        raise ConfigError(key, "a notification has no response: `request` shows it")


def _phases_of(
    given: Mapping[str, Phase], methods: frozenset[str], late: frozenset[str] = frozenset()
) -> tuple[frozenset[str], frozenset[str]]:
    """`late`: methods whose results may come by others (`_LATER`)."""
    requests: set[str] = set()
    responses: set[str] = set()
    found = {method: _best(given, method) for method in methods}
    for method, best in found.items():
        phase = "off" if best is None else given[best]
        if phase in ("request", "full"):
            requests.add(method)
        if phase in ("response", "full"):
            responses.add(method)
    if late & responses:
        responses.update(method for method in _LATER if found[method] is None)
    return frozenset(requests), frozenset(responses)


def _best(given: Mapping[str, Phase], method: str) -> str | None:
    rank, key = max(((_rank(key, method), key) for key in given), default=((0, 0), ""))
    return key if rank[0] else None


def _rank(key: str, method: str) -> tuple[int, int]:
    """How closely a key means a method: exact, prefix, suffix, `*`, the longer first; (0, 0)
    for not at all."""
    if key == method:
        return (4, 0)
    if key == "*":
        return (1, 0)
    if key.endswith("*") and method.startswith(key[:-1]):
        return (3, len(key))
    if key.startswith("*") and method.endswith(key[1:]):
        return (2, len(key))
    return (0, 0)


# --- a request ----------------------------------------------------------------------------------


async def asked(
    guard: Guard, message: Json, targets: tuple[str, ...], caller: Caller
) -> tuple[Json, Caller]:
    """A request as it goes on, and in whose name; the same objects when nothing changed.

    Raises: JsonRpcError.
    """
    if message["method"] not in guard.requests:
        return message, caller
    return await shown(guard, message, targets, caller)


async def shown(
    guard: Guard, message: Json, targets: tuple[str, ...], caller: Caller
) -> tuple[Json, Caller]:
    """The same of what is known to be looked at, whoever asks or tells. Raises: JsonRpcError."""
    method: str = message["method"]
    given: Json = message.get("params", {})
    made = await guard.request(method, targets, given, caller.headers, caller.request)
    if made.headers is not None:
        caller = replace(caller, headers=made.headers)
    if made.params is given:
        return message, caller
    # The era, tokens of progress and the trace are between the client and the gateway.
    params = {key: value for key, value in made.params.items() if key != "_meta"}
    if "_meta" in given:
        params["_meta"] = given["_meta"]
    return {**message, "params": params}, caller


def changed_arguments(before: Any, after: Any) -> set[str]:
    """The names of arguments that one has and the other has not, or has otherwise."""
    old = before if isinstance(before, dict) else {}
    new = after if isinstance(after, dict) else {}
    return {
        name
        for name in (*old, *new)
        if name not in old or name not in new or old[name] != new[name]
    }


def misguided(what: str) -> JsonRpcError:
    """A guard changed what it must not."""
    return JsonRpcError(INTERNAL_ERROR, f"Guardrail failed: {what}", status=200)


# --- an answer ----------------------------------------------------------------------------------


def answered(
    guard: Guard, message: Json, targets: tuple[str, ...], caller: Caller, messages: Messages
) -> Messages:
    """The messages about a request as guards let them pass."""
    if not guard.responses:
        return messages
    method: str = message["method"]
    if method not in guard.responses:
        return Changed(messages, _without_id)
    request = caller.request

    async def judge(result: Json) -> Json:
        return await guard.response(method, targets, result, request)

    return Guarded(messages, message["id"], judge)


async def judged(
    guard: Guard, message: Json, targets: tuple[str, ...], caller: Caller, answer: Json
) -> Json:
    """The same of an answer that is at hand."""
    if message["method"] not in guard.responses or "result" not in answer:
        return answer
    messages = answered(guard, message, targets, caller, _One(answer))
    inbound = await messages.next()
    assert inbound is not None
    return inbound.message


@final
class Guarded:
    """The messages about one request, its result judged. See Messages."""

    __slots__ = ("_identity", "_judge", "_source", "is_json", "retry_ms")

    def __init__(
        self, source: Messages, identity: Id, judge: Callable[[Json], Awaitable[Json]]
    ) -> None:
        self.is_json = source.is_json
        self.retry_ms = source.retry_ms
        self._source = source
        self._identity = identity
        self._judge = judge

    async def next(self) -> Inbound | None:
        """See Messages."""
        inbound = await self._source.next()
        if inbound is None:
            return None
        message = inbound.message
        # Whatever its id: an answer to something else is still the server's word.
        if "result" in message:
            message = await self._answer(message)
        return Inbound(message, b"", inbound.retry_ms)

    async def _answer(self, message: Json) -> Json:
        result = message["result"]
        try:
            if not isinstance(result, dict):
                raise misguided("the result is not an object")
            made = await self._judge(result)
        except JsonRpcError as error:
            return jsonrpc.error(self._identity, error.code, str(error), error.data)
        return {**message, "result": _private(made)}

    def close(self) -> None:
        """See Messages."""
        self._source.close()


@final
class _One:
    """A message that is at hand. See Messages."""

    __slots__ = ("_message", "is_json", "retry_ms")

    def __init__(self, message: Json) -> None:
        self.is_json = True
        self.retry_ms: int | None = None
        self._message: Json | None = message

    async def next(self) -> Inbound | None:
        """See Messages."""
        message, self._message = self._message, None
        return None if message is None else Inbound(message)

    def close(self) -> None:
        """See Messages."""


def _private(result: Json) -> Json:
    """What one client may see is not for others to keep."""
    if "cacheScope" not in result and "ttlMs" not in result:
        return result
    return {**result, "ttlMs": 0, "cacheScope": "private"}


def _without_id(inbound: Inbound) -> Inbound:
    return Inbound(inbound.message, b"", inbound.retry_ms) if inbound.event_id else inbound


def without_answers(messages: Messages) -> Messages:
    """A listening stream without what answers a request."""
    return Changed(messages, _unless_answer)


def _unless_answer(inbound: Inbound) -> Inbound | None:
    return None if "result" in inbound.message else inbound
