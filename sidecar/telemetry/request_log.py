"""The rows of the request log: one for each request of a model, made when it has ended.

Compiled once for a configuration, beside the access log whose filter it shares. What a row holds is
what the log's line holds, by the same fields and the same rules for secrets; the words of a prompt
and its answer only where `llm: full` asks for them. Whatever a client can make large is cut.

Source: spec/llm.md sections 5.1 and 5.4; spec/config.md sections 1.10, 8.1 and 9.2; RFC 9562
section 5.7 (ids). SQLite's column types and the form of times are agentgateway's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, final, runtime_checkable

import orjson

from sidecar.errors import ConfigError, SidecarError
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.expressions import BodyNotes, Compiler, Expression
from sidecar.telemetry.fields import COST_KEYS, HEAD_FIELDS, LLM_FIELDS, TAIL_FIELDS, AccessEntry
from sidecar.telemetry.logs import escape, json_line

COLUMNS: Final = (
    *("id", "started_at", "completed_at", "duration_ms", "trace_id", "span_id", "http_status"),
    *("error", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"),
    *("gen_ai_response_model", "input_tokens", "output_tokens", "total_tokens", "cost"),
    *("agentgateway_user", "agentgateway_group", "user_agent_name", "has_payload"),
    "attributes_json",
)
USER: Final = (
    "coalesce(apiKey.user, apiKey.name, apiKey.owner, jwt.sub, jwt.email, basicAuth.username,"
    ' source.identity.namespace + "/" + source.identity.serviceAccount, source.subjectCn, null)'
)
"""Who asked, where `config.standardAttributes.user` does not say it."""
GROUP: Final = "coalesce(apiKey.group, jwt.groups[0], null)"
MAX_TEXT_CHARS: Final = 1024
"""Of one column."""
MAX_VALUE_CHARS: Final = 4096
"""Of one attribute."""
MAX_ATTRIBUTES_BYTES: Final = 64 * 1024
MAX_CONTENT_CHARS: Final = 256 * 1024
"""Of a prompt, and of an answer."""
_QUIET_NS: Final = 60 * 10**9
"""Between two lines of the log about rows that could not be made."""
_CUT: Final = "…[cut]"
_MAX_INTEGER: Final = 2**63 - 1
_KEYS: Final = frozenset(("llm", "add", "retention"))
_STANDARD: Final = "config.standardAttributes"
_GETTERS: Final = tuple(
    (field.name, field.get) for field in (*HEAD_FIELDS, *LLM_FIELDS, *TAIL_FIELDS)
)

_log = logging.getLogger("sidecar.telemetry.request_log")


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One request. `columns` stand in the order of COLUMNS."""

    columns: tuple[object, ...]
    payload: tuple[str | None, str | None] | None = None
    """JSON of the prompt, as `[{role, content}]`, and of the answer, as `[text]`."""

    @property
    def id(self) -> object:
        """UUID, version 7."""
        return self.columns[0]

    @property
    def size_bytes(self) -> int:
        """About what the row takes while it waits."""
        texts = sum(len(one) for one in self.columns if isinstance(one, str))
        return 512 + texts + sum(len(one) for one in self.payload or () if one)


@runtime_checkable
class _Content(Protocol):
    """What `request.state["llm"]` can tell of a call's words."""

    hides_completion: bool
    """Whether a guard had something to say about the answer, which is then not kept."""

    def cel(self, wanted: frozenset[str] | None) -> Mapping[str, object]:
        """The fields of these names."""


@final
class RequestRows:
    """Makes a row of each request that it is given, and hands it on."""

    def __init__(
        self,
        policy: Mapping[str, object] | None,
        standard: Mapping[str, object] | None,
        compiler: Compiler,
        *,
        put: Callable[[Row], None],
        clock: Clock,
        lose: Callable[[], None] | None = None,
        path: str = "frontendPolicies.accessLog.database",
    ) -> None:
        """`policy`: `accessLog.database`; `standard`: `config.standardAttributes`. `lose` counts
        a row that could not be made.

        Raises: ConfigError.
        """
        policy = policy or {}
        for key in policy.keys() - _KEYS:
            raise ConfigError(f"{path}.{key}", "unknown key")
        self.is_full = policy.get("llm") == "full"
        self._add = compiler.expressions(policy.get("add"), f"{path}.add")
        self._notes = BodyNotes(self._add.values())
        self._user, self._group = standard_attributes(standard, compiler, _STANDARD)
        self._put = put
        self._lose = lose
        self._clock = clock
        self._told_ns: int | None = None

    def put(self, entry: AccessEntry) -> None:
        """Make the row. A request ends the same when that fails."""
        try:
            self._put(self._row(entry))
        except Exception:
            if self._lose is not None:
                self._lose()
            now_ns = self._clock.monotonic_ns()
            if self._told_ns is None or now_ns - self._told_ns >= _QUIET_NS:
                self._told_ns = now_ns
                _log.exception("request log: no row could be made of a request")

    def _row(self, entry: AccessEntry) -> Row:
        ended_ns = entry.ended_ns or self._clock.time_ns()
        payload = self._payload(entry) if self.is_full else None
        llm = _model_call(entry)
        known: dict[str, object] = {}
        for name, get in _GETTERS:
            value = get(entry)
            if value is not None:
                known[name] = value
        known.update(_more(entry, llm))
        found = known.copy() if self._add else known
        for name, expression in (
            ("agentgateway.user", self._user),
            ("agentgateway.group", self._group),
        ):
            who = expression.value(entry)
            if who is not None:
                known[name] = who
        for name, expression in self._add.items():
            known.pop(name, None)
            known.update(expression.fields(name, entry))
        known.update(self._notes.of(entry))
        columns = (
            _uuid7(ended_ns // 1_000_000),
            time_text(ended_ns - entry.duration_ns),
            time_text(ended_ns),
            entry.duration_ns // 1_000_000,
            found.get("trace.id"),
            found.get("span.id"),
            entry.status or None,
            _text(entry.error or None),
            _text(found.get("gen_ai.operation.name")),
            _text(found.get("gen_ai.provider.name")),
            _text(found.get("gen_ai.request.model")),
            _text(found.get("gen_ai.response.model")),
            _count(llm.get("inputTokens")),
            _count(llm.get("outputTokens")),
            _count(llm.get("totalTokens")),
            _cost(llm),
            _text(known.get("agentgateway.user")),
            _text(known.get("agentgateway.group")),
            _text(known.get("user_agent.name")),
            int(payload is not None),
            _attributes(known),
        )
        return Row(columns, payload)

    def _payload(self, entry: AccessEntry) -> tuple[str | None, str | None] | None:
        call = entry.request.state.get("llm") if entry.request is not None else None
        if not isinstance(call, _Content):
            return None
        try:
            fields = call.cel(frozenset(("prompt", "completion")))
        except SidecarError:
            return None  # words that are none of the format's
        prompt, completion = fields.get("prompt"), fields.get("completion")
        asked = _messages(prompt) if isinstance(prompt, list) and prompt else None
        answered = None
        if isinstance(completion, list) and completion and not call.hides_completion:
            answered = _texts(completion)
        return None if asked is None and answered is None else (asked, answered)


def standard_attributes(
    given: Mapping[str, object] | None, compiler: Compiler, path: str
) -> tuple[Expression, Expression]:
    """The expressions of user and group. Raises: ConfigError."""
    given = given or {}
    user = compiler.expression(given.get("user") or USER, f"{path}.user")
    return user, compiler.expression(given.get("group") or GROUP, f"{path}.group")


def _model_call(entry: AccessEntry) -> Mapping[str, Any]:
    found = entry.request.state.get("llm") if entry.request is not None else None
    return found if isinstance(found, Mapping) else {}


def _more(entry: AccessEntry, llm: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """What rows have and lines have not."""
    request = entry.request
    if request is None:
        return
    agent = (request.headers.get(b"user-agent") or b"").decode("latin-1")
    name = agent.partition("/")[0].partition(" ")[0].strip()
    if name:
        yield "user_agent.name", name
    asked = request.state.get("llmRequest")
    model = asked.get("model") if isinstance(asked, Mapping) else None
    if isinstance(model, str):
        yield "agw.ai.original_model", model
    cost: object = llm.get("cost")
    if not isinstance(cost, Mapping):
        return
    for key in COST_KEYS:
        if cost.get(key) is not None:
            yield f"agw.ai.usage.cost.{key}", cost[key]


def _uuid7(milliseconds: int) -> str:
    noise = int.from_bytes(os.urandom(10))
    value = (milliseconds & (2**48 - 1)) << 80 | 7 << 76 | (noise >> 68 & 0xFFF) << 64
    value |= 2 << 62 | noise & (2**62 - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def time_text(time_ns: int) -> str:
    """`2026-07-03T21:41:59.468865+00:00`: as text in the order of time."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    when = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    return when.isoformat(timespec="microseconds")


def _text(value: object) -> str | None:
    return None if value is None else _short(str(value), MAX_TEXT_CHARS)


def _short(text: str, limit: int) -> str:
    """What SQLite takes, and no more than so many characters."""
    return escape(text if len(text) <= limit else text[:limit] + _CUT)


def _count(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return min(max(value, 0), _MAX_INTEGER)


def _cost(llm: Mapping[str, Any]) -> float | None:
    cost = llm.get("cost")
    total = cost.get("total") if isinstance(cost, Mapping) else None
    return float(total) if isinstance(total, (int, float)) else None


def _attributes(known: Mapping[str, object]) -> str:
    short = {
        name if len(name) <= MAX_TEXT_CHARS else _short(name, MAX_TEXT_CHARS): value
        if type(value) is str and len(value) <= MAX_VALUE_CHARS
        else _value(value)
        for name, value in known.items()
    }
    made = json_line(short)
    if len(made) > MAX_ATTRIBUTES_BYTES:
        # Some expression gives more than a log is for: what is small stays.
        left = MAX_ATTRIBUTES_BYTES
        kept: dict[str, object] = {"agw.cut": True}
        for name, value in short.items():
            size = len(json_line({name: value}))
            if size <= MAX_VALUE_CHARS and size < left - 64:
                kept[name] = value
                left -= size
        made = json_line(kept)
    return made[:-1].decode()


def _value(value: object) -> object:
    if isinstance(value, str) and len(value) > MAX_VALUE_CHARS:
        return value[:MAX_VALUE_CHARS] + _CUT
    # JSON's numbers end there, and one that does not fit would make texts of all the others.
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        return str(value)
    return value


def _messages(prompt: list[Any]) -> str:
    """From the first message on, until so many characters are full."""
    left = MAX_CONTENT_CHARS
    kept: list[dict[str, str]] = []
    for message in prompt:
        role, content = str(message.get("role", "")), str(message.get("content", ""))
        kept.append({"role": _short(role, MAX_TEXT_CHARS), "content": _cut(content, left)})
        left -= len(content) + len(role) + 32
        if left <= 0:
            break
    return orjson.dumps(kept).decode()


def _texts(completion: list[Any]) -> str:
    left = MAX_CONTENT_CHARS
    kept: list[str] = []
    for text in map(str, completion):
        kept.append(_cut(text, left))
        left -= len(text) + 32
        if left <= 0:
            break
    return orjson.dumps(kept).decode()


def _cut(text: str, limit: int) -> str:
    """The words themselves, line breaks and all; but lone surrogates are no text."""
    short = text if len(text) <= limit else text[: max(limit, 0)] + _CUT
    return short.encode("utf-8", "backslashreplace").decode()


__all__ = ["COLUMNS", "RequestRows", "Row", "standard_attributes", "time_text"]
