"""The shortest way through the gateway: one upstream call in callbacks, without a task of its own.

It serves a request that has nothing to wait for but its upstream's answer: it is wholly at hand,
no policy but guards (policies.base) stands on its way, and a kept HTTP/1.1 connection is free.
Anything else goes through `Pipeline.__call__`, which makes the same decisions and can wait; a
request is begun by one and may be finished by the other, never served by both. Two turns of the
event loop, two futures and a dozen suspended coroutines a request are what it saves.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, final

from sidecar.errors import RequestError, SidecarError, UpstreamError
from sidecar.gateway.exchange import Exchange
from sidecar.gateway.plan import Attempt
from sidecar.gateway.respond import error_response
from sidecar.gateway.upstream import Picked
from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from sidecar.net.h1_client import H1Client
from sidecar.net.outbox import Outbox
from sidecar.policies.chain import Chain

_log = logging.getLogger("sidecar.gateway.direct")
_IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))

_PASSED: Final = "passed"
_RESUMED: Final = "resumed"
Resume = Callable[[], Awaitable[Response]]


def guarded(chain: Chain, request: Request) -> RequestError | Response | None:
    """Run a chain of guards; how one refuses, or None, and then the request has passed it.

    A guard may have put another header list in the place of the request's: who goes the long way
    puts the old one back, since that chooses the route anew, and `has_passed` takes it again.
    Raises: SidecarError when one cannot say at once; it has taken nothing.
    """
    for hook in chain.guards:
        try:
            refusal = hook(request)
        except RequestError as error:
            return error
        except SidecarError:
            raise
        except Exception as error:
            # The long way meets it again, answers 500 and counts it; from here it would end the
            # connection without a word.
            raise SidecarError("a guard failed") from error
        if refusal is not None:
            assert isinstance(refusal, Response)
            return refusal
    request.state[_PASSED] = (chain, request.headers)
    return None


def has_passed(chain: Chain, request: Request) -> bool:
    """Whether the request has passed these guards already, on the direct way that it left.

    If so, it gets the headers that they left it.
    """
    passed = request.state.get(_PASSED)
    if not isinstance(passed, tuple) or passed[0] is not chain:
        return False
    request.headers = passed[1]
    return True


@final
class Refusal:
    """What `start` gives for a request that it has answered already. See net.host.Cancellable."""

    __slots__ = ()

    def cancel(self) -> None:
        """Nothing is under way."""


REFUSAL: Final = Refusal()


@final
class Handover:
    """How a backend that serves in callbacks answers, or goes on where it can wait.

    One of `answer` and `go_on` is called, once.
    """

    __slots__ = ("_again", "_reply", "attempt", "exchange", "outbox")

    def __init__(
        self,
        exchange: Exchange,
        reply: Callable[[Response], None],
        again: Callable[[], None],
        outbox: Outbox,
        attempt: Attempt,
    ) -> None:
        self._reply = reply
        self._again = again
        self.exchange = exchange
        self.outbox = outbox
        self.attempt = attempt

    def answer(self, response: Response) -> None:
        """This is what the client gets."""
        self.exchange.answer(response)
        self._reply(response)

    def go_on(self, resume: Resume) -> None:
        """`resume` gives the answer, in the connection's task; the exchange stays as it is.

        Until it is called, the client may leave: then the exchange is the caller's to end.
        """
        self.exchange.request.state[_RESUMED] = Rest(self.exchange, resume)
        self._again()


@final
class Rest:
    """What is left of a request that was begun in callbacks."""

    __slots__ = ("exchange", "resume")

    def __init__(self, exchange: Exchange, resume: Resume) -> None:
        self.exchange = exchange
        self.resume = resume


def rest_of(request: Request) -> Rest | None:
    """What goes on in the task, if this request does; told once."""
    found = request.state.pop(_RESUMED, None)
    return found if isinstance(found, Rest) else None


@final
class DirectCall:
    """A call under way. See h1_client.Answer.

    `reply(response)` gets the response or the error's; `again()` asks for the request to be
    served the long way, since the kept connection proved stale and nothing was acted on.
    """

    __slots__ = (
        "_again",
        "_authority",
        "_client",
        "_exchange",
        "_headers",
        "_is_done",
        "_picked",
        "_reply",
    )

    def __init__(
        self,
        exchange: Exchange,
        picked: Picked,
        client: H1Client,
        reply: Callable[[Response], None],
        again: Callable[[], None],
        authority: str,
        headers: Headers,
    ) -> None:
        """`authority`, `headers`: the client's, which the call or a guard may have replaced."""
        self._authority = authority
        self._headers = headers
        self._exchange = exchange
        self._picked = picked
        self._client = client
        self._reply = reply
        self._again = again
        self._is_done = False

    def done(self) -> bool:
        """Whether it has ended."""
        return self._is_done

    def set_result(self, response: Response) -> None:
        """The upstream answered."""
        self._is_done = True
        exchange = self._exchange
        exchange.upstream_ended_ns = exchange.worker.clock.monotonic_ns()
        self._picked.end(exchange.upstream_ns, response, None)
        self._finish(response)

    def set_exception(self, error: Exception) -> None:
        """The call failed."""
        self._is_done = True
        exchange = self._exchange
        request = exchange.request
        exchange.upstream_ended_ns = exchange.worker.clock.monotonic_ns()
        failure = error if isinstance(error, SidecarError) else None
        self._picked.end(exchange.upstream_ns, None, failure)
        if (
            isinstance(error, UpstreamError)
            and error.retryable
            and error.status == 503
            and request.method in _IDEMPOTENT
        ):
            exchange.worker.in_flight -= 1
            # The long way chooses the route anew, by the name that the client asked for.
            request.authority = self._authority
            request.headers = self._headers
            self._again()
            return
        if failure is None:
            _log.error("a direct call failed inside the gateway: %r", error)
        self._finish(error_response(request, error))

    def cancel(self) -> None:
        """The client left."""
        if not self._is_done:
            self._is_done = True
            self._picked.end(0, None, None)
            self._client.close()
            self._exchange.finish_cancelled()

    def _finish(self, response: Response) -> None:
        self._exchange.answer(response)
        self._reply(response)
