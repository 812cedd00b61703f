"""Whether a failed upstream call is made again.

Source: spec/config.md section 3.4: `attempts` counts the repetitions, so that N means N + 1 calls.
"""

from __future__ import annotations

from typing import Annotated, final

from pydantic import Field

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.expressions import Expression
from sidecar.policies.schema import PolicyConfig, Seconds

REPLAY_LIMIT_BYTES = 64 * 1024
"""A request whose body is larger cannot be replayed, and is sent once."""

_SWITCHED_OFF = "retrySwitchedOff"

StatusCode = Annotated[int, Field(ge=100, le=999)]


class Config(PolicyConfig):
    """When and how often to repeat an upstream call."""

    attempts: int = Field(default=1, ge=1, le=255)
    """Repetitions after the first call, 1 to 255. Default: 1."""
    backoff_seconds: Seconds | None = Field(default=None, alias="backoff")
    """Wait before each repetition. Default: none."""
    codes: list[StatusCode]
    """Response status codes that are repeated."""
    precondition: str | None = None
    """CEL over the request; when it is not true, the call is made once. Default: true."""
    condition: str | None = None
    """CEL over request and response; when true the call is repeated. Default: only `codes`."""


@final
class Retry:
    """The decisions; the pipeline loops. Attempts are counted from 0, the first call."""

    __slots__ = (
        "_codes",
        "_condition",
        "_precondition",
        "attempts",
        "backoff_seconds",
        "needs_request_body",
        "needs_response_body",
        "on_request",
    )

    def __init__(self, config: Config, services: Services) -> None:
        self.attempts = config.attempts
        """How many repetitions may follow the first call."""
        self.backoff_seconds = config.backoff_seconds or 0.0
        """Wait before each repetition, seconds."""
        self._codes = frozenset(config.codes)
        self._precondition, self._condition = (
            None if source is None else Expression(source, services, path, with_response=late)
            for source, path, late in (
                (config.precondition, "precondition", False),
                (config.condition, "condition", True),
            )
        )
        given = [item for item in (self._precondition, self._condition) if item is not None]
        self.needs_request_body = any(item.needs_request_body for item in given)
        self.needs_response_body = any(item.needs_response_body for item in given)
        self.on_request = None if self._precondition is None else self._check
        """The precondition's place among the other policies; None without one."""

    def _check(self, request: Request) -> None:
        if self._precondition is not None and not self._precondition.truth(request):
            request.state[_SWITCHED_OFF] = True

    def is_enabled(self, request: Request) -> bool:
        """Whether this request may be repeated, so that its body is worth keeping."""
        # An upgraded connection is a stream that has begun; there is nothing to replay.
        return _SWITCHED_OFF not in request.state and not request.upgrade

    def should_retry(
        self,
        request: Request,
        attempt: int,
        *,
        response: Response | None = None,
        error: UpstreamError | None = None,
    ) -> bool:
        """Whether call number `attempt`, which ended with one of the two, is made again."""
        if attempt >= self.attempts or not self.is_enabled(request):
            return False
        if error is not None:
            return error.retryable
        if response is None:
            return False
        if response.status in self._codes:
            return True
        return self._condition is not None and self._condition.truth(request, response)

    @staticmethod
    def mark(headers: Headers, attempt: int) -> None:
        """Tell the upstream which repetition this is; a client's own mark never goes through."""
        if attempt:
            headers.set(b"x-retry-attempt", b"%d" % attempt)
        else:
            headers.remove_all(b"x-retry-attempt")


KIND = PolicyKind("retry", Config, Retry)
