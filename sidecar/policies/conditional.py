"""Policies with alternatives: the first entry whose condition is true is the one that acts.

Source: spec/config.md section 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar, final

from sidecar.errors import ConfigError
from sidecar.http.message import Request, Response
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression
from sidecar.policies.schema import nested

MAX_ENTRIES = 64


class Conditional(Protocol):
    """An entry as the configuration has it."""

    @property
    def condition(self) -> str | None:
        """CEL source, None for the fallback."""


E = TypeVar("E", bound=Conditional)
T = TypeVar("T")


@final
class Choice(Generic[T]):
    """The alternatives of one policy, `[(condition or None, item)]`, never empty."""

    __slots__ = (
        "_default",
        "_entries",
        "items",
        "names_response",
        "needs_request_body",
        "needs_response_body",
    )

    def __init__(self, entries: Sequence[tuple[Expression | None, T]]) -> None:
        self.items = tuple(item for _, item in entries)
        self._entries = tuple((test.truth, item) for test, item in entries if test is not None)
        last_test, last_item = entries[-1]
        self._default: T | None = last_item if last_test is None else None
        tests = [test for test, _ in entries if test is not None]
        self.needs_request_body = any(test.needs_request_body for test in tests)
        self.needs_response_body = any(test.needs_response_body for test in tests)
        self.names_response = any(test.names_response for test in tests)
        """Whether a condition looks at the response: the two phases may then choose differently."""

    def pick(self, request: Request, response: Response | None = None) -> T | None:
        """The first entry whose condition is true (an error is not), else the fallback, or None."""
        for is_true, item in self._entries:
            if is_true(request, response):
                return item
        return self._default


def alternatives(
    entries: Sequence[E],
    make: Callable[[E, Services], T],
    services: Services,
    *,
    with_response: bool = False,
) -> Choice[T]:
    """The choice among configured entries. `with_response`: a condition may name the response.

    Raises: ConfigError with a path below the policy.
    """
    if not entries:
        raise ConfigError("conditional", "conditional policies must have at least one entry")
    if len(entries) > MAX_ENTRIES:
        text = f"conditional policies may have at most {MAX_ENTRIES} entries"
        raise ConfigError("conditional", text)
    made: list[tuple[Expression | None, T]] = []
    for index, entry in enumerate(entries):
        path = f"conditional[{index}]"
        source = entry.condition
        if source is None and index < len(entries) - 1:
            text = "conditional policy entries without condition must be last"
            raise ConfigError(path, text)
        try:
            test = (
                None
                if source is None
                else Expression(source, services, "condition", with_response=with_response)
            )
            made.append((test, make(entry, services)))
        except ConfigError as problem:
            raise nested(path, problem) from problem
    return Choice(made)
